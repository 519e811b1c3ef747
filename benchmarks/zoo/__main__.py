"""Scores the blocks and ports that are chosen against what an expert chose.

python -m benchmarks.zoo              all architectures; exit code 1 below 95 %
python -m benchmarks.zoo hf/t5 timm   those whose names contain one of these
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

from benchmarks.zoo.expected import EXPECTED
from benchmarks.zoo.operators import declare
from sigprop import measure
from sigprop.capture import select
from sigprop.capture.model.naming import modules

#: The least share of blocks, and of ports, that is to be right.
AIM = 0.95


@dataclass(frozen=True)
class Score:
    """What was chosen of one architecture.

    Attributes:
        name: of the architecture.
        blocks: blocks that are right.
        either: blocks that were chosen or expected.
        ports: of those that are right, how many have as many residual additions as expected.
        without: how many are right by the rules that need no forward pass.
        notes: what is wrong.
    """

    name: str
    blocks: int
    either: int
    ports: int
    without: int
    notes: Sequence[str]


def score(name: str, model: nn.Module, inputs: Any) -> Score:
    """Return the score of one architecture.

    Args:
        name: its name in `EXPECTED`.
        model: a small one.
        inputs: for it.
    """
    wanted = {n: count for n in dict(modules(model)) if (count := _expected(name, n)) is not None}
    without = set(select(model))
    signals = measure(model, inputs, spectra=False, device="cpu").signals
    forward = signals[(signals["direction"] == "forward") & (signals["kind"] == "block")]
    found = set(forward[forward["port"] == "in"]["module"])
    calls = forward[forward["port"] == "out"].groupby("module")["call"].nunique()
    sums = forward[forward["port"] == "branch"].groupby("module")["call"].nunique()
    right = [n for n in wanted if n in found]
    counts = {n: int(sums.get(n, 0)) / int(calls.get(n, 1)) for n in right}
    notes = [
        *(f"not chosen: {n}" for n in wanted if n not in found),
        *(f"no block: {n}" for n in sorted(found - set(wanted))),
        *(f"{n}: {c:g} additions, not {wanted[n]}" for n, c in counts.items() if c != wanted[n]),
    ]
    ports = sum(counts[n] == wanted[n] for n in right)
    either = len(found | set(wanted))
    return Score(name, len(right), either, ports, len(without & set(wanted)), notes)


def _expected(architecture: str, module: str) -> int | None:
    """Return how many additions an expert expects in a module, None where it is no block."""
    found = None
    for pattern, count in EXPECTED[architecture]:
        if module.count(".") == pattern.count(".") and fnmatchcase(module, pattern):
            found = count
    return found


def main(names: Sequence[str]) -> int:
    """Print a line for every architecture, and the score; return the exit code."""
    declare()
    from benchmarks.zoo import image_models, transformers_models

    models: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
        **transformers_models.MODELS,
        **image_models.MODELS,
    }
    scores = []
    for name, make in models.items():
        if names and not any(part in name for part in names):
            continue
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores.append(score(name, *make()))
        last = scores[-1]
        print(
            f"{name:<32}{last.blocks:>3} of {last.either:>3} blocks"
            f"{last.ports:>4} with right ports; without a forward pass {last.without:>3}",
            flush=True,
        )
        for note in last.notes[:6]:
            print(f"    {note}")
    return _total(scores)


def _total(scores: Sequence[Score]) -> int:
    blocks = sum(s.blocks for s in scores) / sum(s.either for s in scores)
    ports = sum(s.ports for s in scores) / sum(s.blocks for s in scores)
    whole = sum(not s.notes for s in scores)
    without = sum(s.without for s in scores) / sum(s.either for s in scores)
    print(
        f"{whole} of {len(scores)} architectures right in all; blocks {blocks:.1%}, ports "
        f"{ports:.1%}; blocks without a forward pass {without:.1%}"
    )
    return int(min(blocks, ports) < AIM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
