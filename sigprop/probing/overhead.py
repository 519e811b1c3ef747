"""A cadence that keeps what a probe costs within a budget."""

from __future__ import annotations

import math

from sigprop.capture.recording.stopwatch import Stopwatch


class Budget:
    """A cadence: as many steps are recorded as keep the cost below a share of the bare time.

    Step 0 is always recorded. Two recorded steps are never neighbors, so that there are bare steps
    to compare with.

    Args:
        share: largest cost allowed over the bare time, 0.03 for 3 %.
        stopwatch: knows the cost.

    Attributes:
        every: the distance chosen last, in steps; 0 before the first choice.
    """

    def __init__(self, share: float, stopwatch: Stopwatch) -> None:
        self.share, self.every = share, 0
        self._stopwatch = stopwatch
        self._last: int | None = None

    def __call__(self, step: int) -> bool:
        """Return whether a step is recorded."""
        if self._last is None:
            self._last = step
            return True
        cost, bare = self._stopwatch.cost, self._stopwatch.bare
        if not (math.isfinite(cost) and bare > 0):
            return False
        self.every = max(2, math.ceil(cost / (self.share * bare)))
        due = step - self._last >= self.every
        if due:
            self._last = step
        return due
