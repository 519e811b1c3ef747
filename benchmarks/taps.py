"""What the statistics of a tensor cost, as a multiple of `x.sum()`, which reads it once."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch
from torch import Tensor

from benchmarks.measure import Step, affordable, clock_of, interleave, ratios
from sigprop.signals.channel_statistics import compute

#: Name -> (shape, channel axis, memory format); all of 4 MB or more in float32.
TENSORS = {
    "images 64x64x32x32": ((64, 64, 32, 32), 1, torch.contiguous_format),
    "images 64x16x64x64": ((64, 16, 64, 64), 1, torch.contiguous_format),
    "images 64x64x32x32, channels last": ((64, 64, 32, 32), 1, torch.channels_last),
    "features 4096x256": ((4096, 256), -1, torch.contiguous_format),
    "tokens 8x512x1024": ((8, 512, 1024), -1, torch.contiguous_format),
}


def normal(shape: tuple[int, ...], layout: torch.memory_format, device: torch.device) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape, device=device).contiguous(memory_format=layout)


def main(device: torch.device, budget: float) -> pd.DataFrame:
    """Return a row a tensor: milliseconds of `sum` and of `read`, and their ratio."""
    rows, clock = [], clock_of(device)
    for name, (shape, axis, layout) in TENSORS.items():
        x = normal(shape, layout, device)
        steps: dict[str, Step] = {"x.sum()": x.sum, "compute(x)": partial(compute, x, axis)}
        for step in steps.values():
            step()
        once = sum(clock(step) for step in steps.values())
        times = interleave(steps, affordable(once, budget, least=9), clock)
        table = ratios(times, dict.fromkeys(steps, "x.sum()")).rename(columns={"tool": "call"})
        table.insert(0, "tensor", name)
        table.insert(1, "MB", x.numel() * x.element_size() / 1e6)
        rows.append(table)
    return pd.concat(rows)
