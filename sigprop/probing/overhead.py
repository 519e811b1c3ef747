"""A cadence that keeps what a probe costs within a budget."""

from __future__ import annotations

import math

from sigprop.capture.recording.stopwatch import Stopwatch


class Budget:
    """A cadence: a step is recorded when all recorded steps, itself included, cost little enough.

    The cost so far is held against the bare time so far, over the whole run: what the first step
    cost is saved up by the steps after it, before the next one is recorded. The first step is
    always recorded. Two recorded steps are never neighbors, so that there are bare steps to compare
    with.

    Args:
        share: largest cost allowed over the bare time, 0.03 for 3 %.
        stopwatch: measures the cost.

    Attributes:
        every: the distance in steps that the cost of a step allows; 0 before it is known.
    """

    def __init__(self, share: float, stopwatch: Stopwatch) -> None:
        self.share, self.every = share, 0
        self._stopwatch = stopwatch
        self._last: int | None = None
        self._ask_at = 0

    def __call__(self, step: int) -> bool:
        """Return whether a step is recorded."""
        if step < self._ask_at:
            return False
        if self._last is not None:
            missing = self._steps_missing(step)
            if missing > 0:
                # Asked again halfway, in case that steps take longer meanwhile.
                self._ask_at = step + max(1, missing // 2)
                return False
        self._last, self._ask_at = step, step + 2
        return True

    def following(self, step: int) -> tuple[int, bool]:
        """Return the next step to decide about after one that ends, and whether it is recorded.

        Args:
            step: the step that ends.
        """
        due = self(step + 1)
        return (step + 1 if due else max(step + 1, self._ask_at - 1)), due

    def _steps_missing(self, step: int) -> int:
        """Return how many bare steps are needed before this one may be recorded."""
        watch = self._stopwatch
        cost, bare = watch.cost, watch.bare
        if not (math.isfinite(cost) and bare > 0):
            return 1
        allowed = self.share * bare
        self.every = max(2, math.ceil(cost / allowed))
        owed = watch.spent + watch.uncertainty + cost - self.share * (watch.bare_total + bare)
        return math.ceil(owed / allowed)
