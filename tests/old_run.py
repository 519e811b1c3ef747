"""Makes `tests/data/schema-1`, runs as sigprop wrote them at commit 9f07be0, before schema 2.

From a worktree at that commit: ``PYTHONPATH=$OLD python tests/old_run.py tests/data/schema-1``.
The tests record the same models anew and compare.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sigprop

OPTIONS = {"depth": 2, "width": 8}
NETWORKS = {"residual": "plain", "rescaled": "rescale"}
STEPS = 3


class Block(nn.Module):
    """Adds, rectifies by a module and by a function, attends; it is called twice in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        y = F.relu(self.act(self.linear(x)))
        out = x + F.scaled_dot_product_attention(y, y, y)
        return out, {"inner": [y, out * 2]}


class Net(nn.Module):
    """Adds outside of its blocks too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, 4), nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x + self.stem(x))
        for block in (self.blocks[0], self.blocks[0], self.blocks[1]):
            x = block(x)[0]
        return x


def own(blocks: str) -> sigprop.Records:
    """Two steps of training of `Net`."""
    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 3, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with sigprop.attach(model, optimizer, blocks=blocks, network=f"own {blocks}") as probe:
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    return probe.records


def compared(directory: Path | None = None) -> sigprop.Records:
    """Two networks of the zoo, trained for a few steps."""
    return sigprop.compare(NETWORKS, steps=STEPS, seeds=1, options=OPTIONS, directory=directory)


if __name__ == "__main__":
    torch.set_num_threads(1)
    there = Path(sys.argv[1])
    compared(there / "compared")
    for chosen in ("auto", "leaves"):
        own(chosen).save(there / chosen)
