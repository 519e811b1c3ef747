"""What sigprop costs by itself: one network takes all steps, probed in one way or not at all.

What a step that is not recorded costs is less than what two copies of a network differ by in their
address in memory, and what a dozen tools in one process leave of its heap disturbs them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import pandas as pd
import torch

from benchmarks.limit import bandwidth, bytes_needed
from benchmarks.measure import Clock, Step, affordable, clock_of, interleave, ratios, wall_seconds
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
        self._way = ""
        self.step: Step = training.step

    def turn(self, way: str) -> None:
        """Watch in another way, and take a step: the first with other hooks is not typical."""
        if way != self._way:
            self._stack.close()
            self.step = self._stack.enter_context(TOOLS[way].attach(self._training)).step
            self._way = way
        self.step()


#: Way -> the blocks that it records; None for parameters alone.
RECORDED: Mapping[str, str | None] = {
    "sigprop, parameters": None,
    "sigprop, blocks": "auto",
    "sigprop, leaves": "leaves",
}


def main(
    device: torch.device, budget: float, quick: bool = False, threads: int = 1
) -> pd.DataFrame:
    """Return the ratio of a step in each way to a bare step, and of a bare step to itself.

    "limit" is the ratio of a probe that would take no longer than to read once, at the measured
    bandwidth, the bytes that its numbers depend on.
    """
    rows, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        speed = bandwidth(device)
        for subject, build in list(SUBJECTS.items())[: 1 if quick else None]:
            print(f"{subject}: {len(WAYS)} ways", flush=True)
            # Processor time adds up what threads do side by side.
            clock = clock_of(device) if threads == 1 else wall_seconds
            training = build(device)
            table = timed(training, budget, clock)
            table.insert(0, "subject", subject)
            table.insert(1, "threads", threads)
            needed = {way: bytes_needed(training, blocks) for way, blocks in RECORDED.items()}
            bare = float(table.loc[table["tool"] == "bare, again", "ms"].iloc[0])
            table["MB"] = table["tool"].map(needed) / 1e6
            table["limit"] = 1 + table["MB"] * 1e6 / speed * 1e3 / bare
            rows.append(table)
    finally:
        torch.set_num_threads(before)
    return pd.concat(rows)


def timed(training: Training, budget: float, clock: Clock) -> pd.DataFrame:
    """Return a row a way: how long a step takes in it, over the bare step."""
    switched = Switched(training)

    def seconds(way: str) -> float:
        switched.turn(way)
        return sum(clock(switched.step) for _ in range(STEPS)) / STEPS

    once = (1 + STEPS) * sum(seconds(way) for way in WAYS)
    # The functions time themselves: what a switch costs stays out.
    steps = {way: partial(seconds, way) for way in WAYS}
    times = interleave(steps, affordable(once, budget), clock=lambda step: step())
    switched.turn("bare")
    return ratios(times, dict.fromkeys(WAYS[1:], "bare"))
