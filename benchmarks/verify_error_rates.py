"""How often `verify` errs: false alarms on a true law, misses on a 10 % deviation per block.

Run: python benchmarks/verify_error_rates.py [REPETITIONS]   (writes reports/verify/)

Every repetition draws its own seeds. A false alarm is a true law called violated; beside it stands
the stricter rate at which any of the simultaneous intervals misses the true ratio, which must stay
below 5 % for the stated confidence to mean what it says, whatever the tolerance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

import sigprop
from sigprop.networks.layers import Scale

SEEDS = 16
SIZE: dict[str, Any] = {"depth": 4, "width": 48, "inputs": 32, "branch_layers": 1}
X = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))


def deviating(factor: float) -> nn.Module:
    """A rescaled network whose every block multiplies the second moment by ``factor``."""
    net: Any = sigprop.networks.build("rescale", **SIZE)
    for block in net.blocks:
        block.skip = nn.Sequential(block.skip, Scale(factor**0.5))
        block.branch = nn.Sequential(block.branch, Scale(factor**0.5))
    return net


def rates(build: Callable[[], nn.Module], repetitions: int, truth: float) -> dict[str, float]:
    verdicts, misses = [], 0
    for repetition in range(repetitions):
        seeds = range(repetition * SEEDS, (repetition + 1) * SEEDS)
        result = sigprop.verify(build, X, seeds=seeds)
        verdicts.append(result.verdict)
        rows = result.table
        true_ratio = truth ** (rows["block"] < 0).map({True: SIZE["depth"], False: 1})
        misses += bool(((rows["low"] > true_ratio) | (rows["high"] < true_ratio)).any())
    counts = pd.Series(verdicts).value_counts(normalize=True)
    found = {name: float(counts.get(name, 0.0)) for name in ("holds", "undecided", "violated")}
    return {**found, "any interval misses the truth": misses / repetitions}


def main(repetitions: int = 200) -> None:
    # With centering from the same batch the preserved second moment is exact in expectation only
    # for Gaussian pre-activations; the uncentered He form is exact at any width and is the truth.
    plain_law = partial(sigprop.networks.build, "rescale", bias=False, **SIZE)
    table = pd.DataFrame(
        {
            "true law (ratio 1)": rates(plain_law, repetitions, 1.0),
            "10 % deviation per block": rates(partial(deviating, 1.1), repetitions, 1.1),
        }
    ).T
    table.insert(0, "repetitions", repetitions)
    print(table.to_string(float_format="{:.3f}".format))
    folder = Path("reports/verify")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "error_rates.csv", index_label="case", lineterminator="\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
