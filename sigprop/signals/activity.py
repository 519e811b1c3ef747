"""What units do: zeros, non-finite values, largest magnitudes, and units that never switch on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


#: For each unit the step in which it was alive last, -1 for none; and how many steps were seen.
_Watched = tuple[npt.NDArray[np.int64], int]


class DeadUnits:
    """Counts units that stayed at or below 0 during a window of recorded steps.

    Args:
        window: how many recorded steps the window reaches back; None for all since the start.

    Example:
        >>> watch = DeadUnits(window=None)
        >>> watch.update({"a": 3}, np.array([True, False, False])).tolist()
        [0.6666666666666666]
        >>> watch.update({"a": 3, "b": 1}, np.array([False, True, False, True])).round(3).tolist()
        [0.333, 0.0]
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self._units: dict[Any, int] = {}
        self._starts = self._lengths = np.zeros(0, dtype=np.intp)
        self._last_alive = self._seen = np.zeros(0, dtype=np.int64)
        self._others: dict[Any, _Watched] = {}

    def update(
        self, units: Mapping[Any, int], alive: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """Take one recorded step.

        Args:
            units: number of units of each tensor that was seen in this step, by any key.
            alive: whether each unit was positive in it, tensor after tensor.

        Returns:
            The dead share of each tensor over the window that ends with this step.
        """
        if units != self._units or list(units) != list(self._units):
            self._turn_to(units)
        self._last_alive[alive] = np.repeat(self._seen, self._lengths)[alive]
        self._seen += 1
        window = self._seen if self.window is None else self.window
        since = np.maximum(0, self._seen - window)
        dead = self._last_alive < np.repeat(since, self._lengths)
        return np.add.reduceat(dead, self._starts, dtype=np.float64) / self._lengths

    def _turn_to(self, units: Mapping[Any, int]) -> None:
        """Put what is known of other tensors aside, and have that of these side by side."""
        parts = np.split(self._last_alive, np.cumsum(self._lengths)[:-1])
        for key, last, seen in zip(self._units, parts, self._seen, strict=False):
            self._others[key] = last, int(seen)
        watched = []
        for key, count in units.items():
            known = self._others.pop(key, None)
            if known is None or len(known[0]) != count:  # a layer of another width begins anew
                known = np.full(count, -1, dtype=np.int64), 0
            watched.append(known)
        self._units = dict(units)
        self._lengths = np.array(list(units.values()), dtype=np.intp)
        self._starts = np.cumsum([0, *self._lengths[:-1]], dtype=np.intp)
        self._last_alive = np.concatenate([last for last, _ in watched])
        self._seen = np.array([seen for _, seen in watched], dtype=np.int64)
