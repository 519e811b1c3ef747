"""What spectra of operators cost: beside decompositions of the same map written out.

`way` is compared with `beside` by processor time on one thread, the best of three calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn

from sigprop import spectra


def seconds(act: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    before = time.process_time()
    act()
    return time.process_time() - before


def written_out(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return the singular values of a layer's matrix, its outputs for every unit image."""
    with torch.no_grad():
        zero = torch.zeros(1, *shape)
        units = torch.eye(zero.numel()).view(-1, *shape)
        images = torch.cat([layer(part) - layer(zero) for part in units.split(256)])
    return torch.linalg.svdvals(images.flatten(1).double())


def network(width: int) -> nn.Sequential:
    """Return an MLP of ten square weights: ten million parameters at a width of 1000."""
    layers = [module for _ in range(10) for module in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers)


def main(quick: bool = False) -> pd.DataFrame:
    """Return a row per comparison: processor times and their ratio; quick, of small sizes."""
    torch.manual_seed(0)
    side, channels, width = (6, 4, 64) if quick else (14, 8, 1000)
    weight = nn.Linear(3 * width, 3 * width)
    shape = (channels, side, side)
    circular = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")
    padded = nn.Conv2d(channels, channels, 3, padding=1)
    mlp, x = network(width), torch.randn(8, width)
    ways: list[tuple[str, Callable[[], object], str, Callable[[], object] | None]] = [
        (
            f"weight {3 * width}x{3 * width}: k=1",
            lambda: spectra.weights(weight, k=1),
            "torch.linalg.svdvals, float64",
            lambda: torch.linalg.svdvals(weight.weight.detach().double()),
        ),
        (
            f"convolution {shape}, circular: all values",
            lambda: spectra.convolution(circular, shape),
            "svdvals of its dense matrix",
            lambda: written_out(circular, shape),
        ),
        (
            f"convolution {shape}, zero padding: k=1",
            lambda: spectra.convolution(padded, shape, k=1),
            "svdvals of its dense matrix",
            lambda: written_out(padded, shape),
        ),
        (
            f"Jacobian of {sum(p.numel() for p in mlp.parameters()):,} parameters, 8 samples: k=1",
            lambda: spectra.jacobian(mlp, x, k=1, device="cpu"),
            "",
            None,
        ),
    ]
    rows = []
    for way, act, beside, other in ways:
        own = min(seconds(act) for _ in range(1 if quick else 3))
        rest = float("nan") if other is None else seconds(other)
        rows.append({"way": way, "seconds": own, "beside": beside, "its seconds": rest})
    table = pd.DataFrame(rows)
    table["times faster"] = table["its seconds"] / table["seconds"]
    return table
