"""Times the steps of a training loop, and the probe's own code in them."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

#: Steps of each kind that medians are taken over.
_RECENT = 25
#: Recorded steps, after the first, before their times are trusted: the first ones are slow for
#: other reasons.
_ENOUGH = 2


class Stopwatch:
    """Times the steps of a training loop, those that are recorded and those that are not.

    The cost of a recorded step is the time spent in the probe's own code and, outside of it, what
    slower calls of modules and an accelerator's work add: the rest of a recorded step compared with
    a bare one, by their medians. As long as few steps of either kind are known, the outside is
    taken to cost as much as the own code, or less where the times say so.

    Args:
        clock: seconds since some moment.

    Attributes:
        clock: seconds since some moment.
        own_time: seconds spent in the probe's own code in this step; hooks add theirs themselves.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._bare: deque[float] = deque(maxlen=_RECENT)
        self._rest: deque[float] = deque(maxlen=_RECENT)
        self._own: deque[float] = deque(maxlen=_RECENT)
        self._own_total = self._bare_total = 0.0
        self._not_in_total = 0
        self.own_time = 0.0
        self._recorded = self._all = 0
        self._entered: float | None = None
        self._began: float | None = None

    def begin(self) -> None:
        """Start the time of the first step: whatever came before it is no step."""
        if self._began is None:
            self._began = self.clock()

    def enter(self) -> bool:
        """Start the time of the probe's own code; return whether it was not running already.

        Returns:
            True where `leave` has to be called.
        """
        if self._entered is not None:
            return False
        self._entered = self.clock()
        return True

    def leave(self) -> None:
        """Stop the time of the probe's own code."""
        if self._entered is not None:
            self.own_time += self.clock() - self._entered
            self._entered = None

    def end(self, recorded: bool) -> None:
        """End a step."""
        now, began = self.clock(), self._began
        self._began = now
        if began is None:
            return
        self._all += 1
        self._own_total += self.own_time
        if recorded:
            self._recorded += 1
            if self._recorded == 2:  # the first one may have been slow for other reasons
                self._rest.clear()
            self._rest.append(now - began - self.own_time)
            self._own.append(self.own_time)
        else:
            self._bare.append(now - began - self.own_time)
        self.own_time = 0.0
        self._not_in_total += 1
        if self._not_in_total >= _RECENT and self._bare:  # not at every step: medians cost time
            self._bare_total = self.bare_total
            self._not_in_total = 0

    @property
    def _outside(self) -> float:
        """Seconds that recording adds to a step outside of the probe's own code."""
        if not (self._bare and self._rest):
            return 0.0
        added = max(0.0, statistics.median(self._rest) - statistics.median(self._bare))
        if self._recorded > _ENOUGH:
            return added
        return min(added, statistics.median(self._own))

    @property
    def cost(self) -> float:
        """Seconds that recording adds to a step; NaN before the first recorded step ended."""
        return statistics.median(self._own) + self._outside if self._own else math.nan

    @property
    def spent(self) -> float:
        """Seconds that recording has added so far, over the whole run."""
        return self._own_total + self._recorded * self._outside

    @property
    def bare(self) -> float:
        """Seconds that a step takes without being recorded; NaN before the first step ended."""
        steps = self._bare or self._rest
        return statistics.median(steps) if steps else math.nan

    @property
    def bare_total(self) -> float:
        """Seconds that all steps so far would have taken without being recorded."""
        return self._bare_total + (self._not_in_total * self.bare if self._not_in_total else 0.0)

    @property
    def share(self) -> float:
        """Time added so far over the time that the same steps take bare, 0.03 for 3 %."""
        return self.spent / self.bare_total if self._all else math.nan
