"""What units do: zeros, non-finite values, largest magnitudes, and units that never switch on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sigprop.signals.moments import WHOLE, Array


@dataclass(frozen=True)
class Activity:
    """Counts per channel, merged by adding; extremes per channel, merged by max and min.

    Attributes:
        count: elements read per channel, finite or not, shape (C,).
        nonfinite: NaN and ±Inf among them, shape (C,).
        zeros: elements equal to 0, shape (C,).
        lowest: smallest finite element, shape (C,).
        highest: largest finite element, shape (C,).
    """

    count: Array
    nonfinite: Array
    zeros: Array
    lowest: Array
    highest: Array

    def merge(self, other: Activity) -> Activity:
        """Return the activity over both sets of samples; channel counts must agree."""
        return Activity(
            self.count + other.count,
            self.nonfinite + other.nonfinite,
            self.zeros + other.zeros,
            np.minimum(self.lowest, other.lowest),
            np.maximum(self.highest, other.highest),
        )

    def scaled(self, factor: float | Array) -> Activity:
        """Return the activity of the samples times a positive ``factor``, one or one a channel."""
        low, high = self.lowest * factor, self.highest * factor
        return Activity(self.count, self.nonfinite, self.zeros, low, high)

    def join(self, other: Activity) -> Activity:
        """Return the channels of both, the other's after these."""
        return Activity(*map(np.append, vars(self).values(), vars(other).values()))

    def take(self, channels: npt.NDArray[np.intp]) -> Activity:
        """Return the activity of the channels with these indices."""
        return Activity(*(numbers[channels] for numbers in vars(self).values()))

    def zero_fractions(self, starts: npt.NDArray[np.intp] = WHOLE) -> Array:
        """Return the share of elements equal to 0 in each group of channels."""
        return np.add.reduceat(self.zeros, starts) / np.add.reduceat(self.count, starts)

    def max_abses(self, starts: npt.NDArray[np.intp] = WHOLE) -> Array:
        """Return the largest finite magnitude of each group; NaN when nothing in it is finite."""
        finite = np.add.reduceat(self.count - self.nonfinite, starts)
        largest = np.maximum.reduceat(np.maximum(-self.lowest, self.highest), starts)
        return np.where(finite > 0, largest, np.nan)

    @property
    def zero_fraction(self) -> float:
        """Share of elements equal to 0, over all channels."""
        return float(self.zero_fractions()[0])

    @property
    def max_abs(self) -> float:
        """Largest finite magnitude over all channels; NaN when nothing is finite."""
        return float(self.max_abses()[0])

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """Units that were > 0 somewhere, or held a NaN: a broken unit is not a dead one."""
        alive: npt.NDArray[np.bool_] = (self.highest > 0) | (self.nonfinite > 0)
        return alive


class DeadUnits:
    """Counts units that stayed at or below 0 during a window of recorded steps.

    Args:
        window: how many recorded steps the window reaches back; None for all since the start.

    Example:
        >>> watch = DeadUnits(window=None)
        >>> watch.update(np.array([True, False, False]))
        0.6666666666666666
        >>> watch.update(np.array([False, True, False]))
        0.3333333333333333
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self._seen = 0
        self._last_alive: npt.NDArray[np.int64] | None = None

    def update(self, alive: npt.NDArray[np.bool_]) -> float:
        """Take one recorded step, shape (C,), and return the dead share over the window."""
        if self._last_alive is None or len(self._last_alive) != len(alive):
            self._seen, self._last_alive = 0, np.full(len(alive), -1, dtype=np.int64)
        self._last_alive[alive] = self._seen
        self._seen += 1
        since = 0 if self.window is None else max(0, self._seen - self.window)
        return float((self._last_alive < since).mean())
