"""What sigprop costs by itself: one network takes all steps, probed in one way or not at all.

What a step that is not recorded costs is less than what two copies of a network differ by in their
place in memory, and what a dozen tools in one process leave of its heap disturbs them all.
"""

from __future__ import annotations

from contextlib import ExitStack

import pandas as pd
import torch

from benchmarks.measure import affordable, clock_of, interleave, ratios
from benchmarks.subjects import SUBJECTS, Training
from benchmarks.tools import TOOLS

WAYS = (
    "bare",
    "bare, again",
    "sigprop, off-step",
    "sigprop, parameters",
    "sigprop, blocks",
    "sigprop, leaves",
)

#: Steps that are timed together after a change of hooks, and one before them that is not.
STEPS = 3


class Switched:
    """One network in training, watched in changing ways."""

    def __init__(self, training: Training) -> None:
        self._training, self._stack = training, ExitStack()
        self._way, self.step = "", training.step

    def turn(self, way: str) -> None:
        """Watch in another way, and take a step: the first with other hooks is not typical."""
        if way != self._way:
            self._stack.close()
            self.step = self._stack.enter_context(TOOLS[way].attach(self._training)).step
            self._way = way
        self.step()


def main(device: torch.device, budget: float, quick: bool = False) -> pd.DataFrame:
    """Return the ratio of a step in each way to a bare step, and of a bare step to itself."""
    rows = []
    for subject, build in list(SUBJECTS.items())[: 1 if quick else None]:
        print(f"{subject}: {len(WAYS)} ways", flush=True)
        switched, clock = Switched(build(device)), clock_of(device)

        def timed(way: str, switched: Switched = switched, clock=clock) -> float:
            switched.turn(way)
            return sum(clock(switched.step) for _ in range(STEPS)) / STEPS

        steps = {way: lambda way=way, timed=timed: timed(way) for way in WAYS}
        once = (1 + STEPS) * sum(step() for step in steps.values())
        # The functions time themselves: what a switch costs stays out.
        times = interleave(steps, affordable(once, budget), clock=lambda step: step())
        table = ratios(times, dict.fromkeys(WAYS[1:], "bare"))
        table.insert(0, "subject", subject)
        rows.append(table)
    return pd.concat(rows)
