"""The shape that every network of the zoo has: stem, blocks, head."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """Stem, blocks, head: x -> logits of shape (N, classes).

    Args:
        stem: inputs -> x_0, what the first block reads.
        blocks: x_0 -> x_L, one module per block.
        head: x_L -> logits.
    """

    def __init__(self, stem: nn.Module, blocks: nn.Sequential, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, blocks, head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        out: Tensor = self.head(self.blocks(self.stem(x)))
        return out
