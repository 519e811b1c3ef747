"""One rank of a job of two on the CPU: what the probe records under DDP and FSDP2, as JSON.

Run by test_any_model_pitfalls.py: python any_model_ranks.py KIND RANK RENDEZVOUS
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

import sigprop


def build() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.randn(8, 6), torch.randn(8, 2)


def whole() -> dict[str, object]:
    """Return what one process sees of the whole batch: the truth."""
    model, x, y = build()
    return record(model, model, x, y)


def record(
    model: nn.Module,
    probed: nn.Module,
    x: Tensor,
    y: Tensor,
    ranks: Literal["own", "merge"] = "own",
) -> dict[str, object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(probed, optimizer, blocks="leaves", strict=True, ranks=ranks) as probe:
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    records = probe.records
    numbers = records.parameters.set_index("name")
    out = records.signals.query("port == 'out'")
    return {
        "names": sorted(set(out["name"])),
        "passes": len(out),
        "counts": sorted(set(out["count"])),
        "modules": list(records.coverage["name"]),
        **{
            column: numbers[column].to_dict()
            for column in ("grad_norm", "weight_norm", "update_to_weight")
        },
    }


def late(ddp: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return gradient norms recorded without an optimizer, where the step is ended by hand."""
    ddp.zero_grad()
    with sigprop.attach(ddp, blocks="leaves", strict=True, ranks="own") as probe:
        nn.functional.mse_loss(ddp(x), y).backward()
        probe.step()
    norms = probe.records.parameters.set_index("name")["grad_norm"]
    return {str(name): float(norm) for name, norm in norms.items()}


def rank(kind: str, index: int, rendezvous: str) -> dict[str, object]:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=index, world_size=2)
    model, x, y = build()
    x, y = x[4 * index : 4 * index + 4], y[4 * index : 4 * index + 4]
    found: dict[str, object] = {}
    if kind == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
        found["late"] = late(wrapped, x, y)
        wrapped.zero_grad()
        found |= record(wrapped, wrapped, x, y)
    else:
        from torch.distributed.fsdp import fully_shard

        mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
        for layer in (model[0], model[2], model[4], model):
            fully_shard(layer, mesh=mesh)
        found = record(model, model, x, y, "merge")
    dist.barrier()
    dist.destroy_process_group()
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(rank(sys.argv[1], int(sys.argv[2]), sys.argv[3])) + "\n")
