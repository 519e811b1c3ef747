"""FSDP2, which torch 2.5 has under another name."""

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:
    from torch.distributed._composable.fsdp import fully_shard  # type: ignore[attr-defined]

__all__ = ["fully_shard"]
