"""What units do: zeros, non-finite values, largest magnitudes, and units that never switch on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sigprop.signals.moments import Array


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
        """Return the dead share over the window that ends with this recorded step.

        Args:
            alive: whether each unit was positive in the step, shape (C,).
        """
        if self._last_alive is None or len(self._last_alive) != len(alive):
            self._seen, self._last_alive = 0, np.full(len(alive), -1, dtype=np.int64)
        self._last_alive[alive] = self._seen
        self._seen += 1
        since = 0 if self.window is None else max(0, self._seen - self.window)
        return float((self._last_alive < since).mean())
