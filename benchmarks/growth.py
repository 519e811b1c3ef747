"""How the cost of a probe grows with depth, width and batch of a small residual MLP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pandas as pd
import torch

from benchmarks.measure import affordable, clock_of, interleave, ratios
from benchmarks.subjects import mlp
from benchmarks.tools import TOOLS

TOOLS_SHOWN = (
    "bare",
    "sigprop, off-step",
    "sigprop, blocks",
    "sigprop, leaves",
    "hook by hand, naive",
)
SIZE: dict[str, Any] = {"depth": 10, "width": 128, "batch": 128}

#: What grows -> through which values, the others as in `SIZE`.
AXES: Mapping[str, Sequence[int]] = {
    "depth": (10, 30, 100, 300, 1000),
    "width": (32, 64, 128, 256, 512, 1024),
    "batch": (16, 64, 256, 1024, 4096),
}


def point(axis: str, value: int, device: torch.device, budget: float) -> pd.DataFrame:
    """Return one row a tool for one size of network."""
    with ExitStack() as stack:
        watches = {
            name: stack.enter_context(TOOLS[name].attach(mlp(device, **{**SIZE, axis: value})))
            for name in TOOLS_SHOWN
        }
        clock, steps = clock_of(device), {name: watch.step for name, watch in watches.items()}
        once = sum(clock(step) for step in steps.values())  # the first steps, which do not count
        times = interleave(steps, affordable(once, budget, least=3), clock)
    table = ratios(times, dict.fromkeys(TOOLS_SHOWN, "bare"))
    table.insert(0, "axis", axis)
    table.insert(1, "value", value)
    return table


def main(device: torch.device, budget: float, quick: bool = False) -> pd.DataFrame:
    """Return the whole table; ``budget`` is the seconds for one point."""
    tables = []
    for axis, values in AXES.items():
        for value in values[:2] if quick else values:
            print(f"{axis} {value}", flush=True)
            tables.append(point(axis, value, device, budget))
    return pd.concat(tables)
