"""Times the steps of a training loop, and the probe's own code in them."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

#: Steps of each kind that medians are taken over.
_RECENT = 25
#: Steps of each kind before their times are compared: the first ones are slow for other reasons.
_ENOUGH = 5


class Stopwatch:
    """Times the steps of a training loop, those that are recorded and those that are not.

    Once there are enough of both kinds the probe's cost is the difference between their medians,
    which includes what it makes an accelerator do; until then it is the time spent in its own code.

    Args:
        clock: seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._steps: dict[bool, deque[float]] = {on: deque(maxlen=_RECENT) for on in (True, False)}
        self._own: deque[float] = deque(maxlen=_RECENT)
        self._own_now = 0.0
        self._recorded = self._all = 0
        self._entered: float | None = None
        self._began: float | None = None

    def begin(self) -> None:
        """Start the time of the first step: whatever came before it is no step."""
        if self._began is None:
            self._began = self._clock()

    def enter(self) -> bool:
        """Start the time of the probe's own code; return whether it was not running already.

        Returns:
            True where `leave` has to be called.
        """
        if self._entered is not None:
            return False
        self._entered = self._clock()
        return True

    def leave(self) -> None:
        """Stop the time of the probe's own code."""
        if self._entered is not None:
            self._own_now += self._clock() - self._entered
            self._entered = None

    def end(self, recorded: bool) -> None:
        """End a step."""
        now, began = self._clock(), self._began
        self._began = now
        if began is None:
            return
        self._all += 1
        self._steps[recorded].append(now - began)
        if recorded:
            self._recorded += 1
            self._own.append(self._own_now)
        self._own_now = 0.0

    @property
    def cost(self) -> float:
        """Seconds that recording adds to a step; NaN before the first recorded step ended."""
        if min(map(len, self._steps.values())) >= _ENOUGH:
            recorded, bare = (statistics.median(self._steps[on]) for on in (True, False))
            return max(0.0, recorded - bare)
        return statistics.median(self._own) if self._own else math.nan

    @property
    def bare(self) -> float:
        """Seconds that a step takes without being recorded; NaN before the first step ended."""
        if self._steps[False]:
            return statistics.median(self._steps[False])
        return statistics.median(self._steps[True]) - self.cost if self._steps[True] else math.nan

    @property
    def share(self) -> float:
        """Time added so far over the time that the same steps take bare, 0.03 for 3 %."""
        return self.cost * self._recorded / (self.bare * self._all) if self._all else math.nan
