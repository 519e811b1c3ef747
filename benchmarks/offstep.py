"""What a probe costs on a step that it does not record: one network, probed and bare in turn.

The difference is below what two copies of a network differ by in their place in memory, so that
here one and the same network takes all steps.
"""

from __future__ import annotations

import pandas as pd
import torch

import sigprop
from benchmarks.measure import affordable, clock_of, interleave, ratios
from benchmarks.subjects import SUBJECTS, Training


class Switched:
    """A training whose probe is attached or not, and never records."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.probe: sigprop.Probe | None = None

    def turn(self, on: bool) -> None:
        if on and self.probe is None:
            training = self.training
            self.probe = sigprop.attach(
                training.model, training.optimizer, "leaves", every=lambda step: False
            )
        elif not on and self.probe is not None:
            self.probe.detach()
            self.probe = None
        self.training.step()  # not timed: the first step after a change of hooks is not typical


def main(device: torch.device, budget: float) -> pd.DataFrame:
    """Return the ratio of an off-step to a bare step, and of a bare step to itself."""
    rows = []
    for subject, build in list(SUBJECTS.items())[:2]:
        switched, clock = Switched(build(device)), clock_of(device)

        def timed(on: bool, switched: Switched = switched, clock=clock) -> float:
            switched.turn(on)
            return sum(clock(switched.training.step) for _ in range(3)) / 3

        seconds = clock(switched.training.step)
        rounds = affordable(12 * seconds, budget, most=1000)
        steps = {
            "bare": lambda: timed(False),
            "bare, again": lambda: timed(False),
            "off-step": lambda: timed(True),
        }
        # The functions time themselves: what a switch costs stays out.
        times = interleave(steps, rounds, clock=lambda step: step())
        table = ratios(times, dict.fromkeys(["bare, again", "off-step"], "bare"))
        table.insert(0, "subject", subject)
        rows.append(table)
    return pd.concat(rows)
