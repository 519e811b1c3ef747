"""Times the steps of a training loop, and the probe's own code in them."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from statistics import fmean, median, pstdev

#: Steps of each kind by which the next one is judged.
_RECENT = 25
#: Bare steps that a recorded one is compared with: few, since loads change.
_BEFORE = 5
#: A step that took so many times the median of its kind did something else too: an evaluation, a
#: pause.
_OUTLIER = 3.0
#: How often the own code of the first recorded step, at most, its outside is taken to cost: it may
#: have been slow for other reasons.
_FIRST_OUTSIDE = 3.0


class Stopwatch:
    """Times the steps of a training loop, those that are recorded and those that are not.

    The cost of a recorded step is the time spent in the probe's own code and, outside of it, what
    slower calls of modules and an accelerator's work add: the rest of each recorded step compared
    with the bare steps before it, by mean and median. As long as only the step is known with which
    a run begins, the outside is taken to cost three times its own code at most.

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
        self._added: deque[float] = deque(maxlen=_RECENT)
        self._own_total = self._bare_sum = self._added_sum = 0.0
        self._recorded = self._compared = self._not_in_sum = 0
        self.own_time = 0.0
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
        self._own_total += self.own_time
        rest = now - began - self.own_time
        if recorded:
            self._recorded += 1
            self._own.append(self.own_time)
            self._rest.append(rest)
            if self._bare:
                bare = fmean(self._usual(_BEFORE))
                self._added.append(min(rest, _OUTLIER * median(self._rest)) - bare)
                self._added_sum += self._added[-1]
                self._bare_sum += bare
                self._compared += 1
        else:
            self._bare.append(rest)
            self._not_in_sum += 1
            if self._not_in_sum == _RECENT:  # not at every step: medians cost time
                self._bare_sum += sum(self._usual(_RECENT))
                self._not_in_sum = 0
        self.own_time = 0.0

    def _usual(self, count: int) -> list[float]:
        """Return the times of the last bare steps, with outliers taken for usual steps."""
        bare, limit = self.bare, _OUTLIER * median(self._bare)
        return [x if x <= limit else bare for x in list(self._bare)[-count:]]

    @property
    def _outside(self) -> float:
        """Seconds that recording adds to a step outside of the probe's own code."""
        if self._added:
            return max(0.0, self._added_sum / self._compared, median(self._added))
        if not (self._bare and self._rest):
            return 0.0
        added = max(0.0, median(self._rest) - self.bare)
        return min(added, _FIRST_OUTSIDE * self._own[0])

    @property
    def cost(self) -> float:
        """Seconds that recording adds to a step; NaN before the first recorded step ended."""
        return median(self._own) + self._outside if self._own else math.nan

    @property
    def spent(self) -> float:
        """Seconds that recording has added so far, over the whole run."""
        return self._own_total + self._recorded * self._outside

    @property
    def uncertainty(self) -> float:
        """Seconds by which `spent` and one more `cost` may be wrong, since steps are not alike.

        Two standard deviations of what was found, by comparing steps, to lie outside.
        """
        if len(self._bare) < 2:
            return 0.0
        found = pstdev(self._usual(_RECENT)) / math.sqrt(max(1, self._compared))
        return 2 * found * (self._recorded + 1)

    @property
    def bare(self) -> float:
        """Seconds that a step takes without being recorded; NaN before the first step ended."""
        if not self._bare:
            return median(self._rest) if self._rest else math.nan
        limit = _OUTLIER * median(self._bare)
        return fmean(x for x in self._bare if x <= limit)

    @property
    def bare_total(self) -> float:
        """Seconds that all steps so far would have taken without being recorded."""
        total = self._bare_sum
        if self._not_in_sum:
            total += sum(self._usual(self._not_in_sum))
        if self._recorded > self._compared:
            total += (self._recorded - self._compared) * self.bare
        return total

    @property
    def share(self) -> float:
        """Time added so far over the time that the same steps take bare, 0.03 for 3 %."""
        return self.spent / total if (total := self.bare_total) else math.nan
