"""Memory for channel statistics on the CPU, given out again in every step."""

from __future__ import annotations

import numpy as np

from sigprop.capture.recording.tensor_statistics import FORGOTTEN, TensorStatistics
from sigprop.signals.columns import COLUMNS

#: Rows of a block: 360 kB.
_BLOCK = 4096


class Arena:
    """Tables on the CPU, cut from a few large blocks and reused.

    Allocated one by one they would lie between the activations of a forward pass and live longer:
    the allocator could not use that memory again as it does without a probe, and would have to get
    fresh pages in every step, which takes as long as the statistics themselves.

    Example:
        >>> arena = Arena()
        >>> first, second = arena.new(3), arena.new(2)
        >>> arena.give_back([first, second])
        >>> first.sums.shape, arena.unused(3).pop() is first
        ((3, 11), True)
    """

    def __init__(self) -> None:
        self._block, self._row = np.empty((0, len(COLUMNS))), 0
        self._unused: dict[int, list[TensorStatistics]] = {}

    def unused(self, channels: int) -> list[TensorStatistics]:
        """Return the list that unused tables of so many channels are taken from.

        Several threads may pop from it at once, and one that finds it empty asks for a `new` one.
        """
        return self._unused.setdefault(channels, [])

    def new(self, channels: int) -> TensorStatistics:
        """Return an uninitialized table, shape (channels, len(COLUMNS)), in float64."""
        block, row = self._block, self._row
        if row + channels > len(block):
            block, row = np.empty((max(_BLOCK, channels), len(COLUMNS))), 0
        self._block, self._row = block, row + channels
        table = block[row : row + channels]
        return TensorStatistics(table, table.ctypes.data, self.unused(channels))

    def give_back(self, tables: list[TensorStatistics]) -> None:
        """Take tables back, so that the next step is given them in the same order."""
        for statistics in reversed(tables):
            if statistics.home is not None:
                statistics.taps.clear()
                statistics.tensor, statistics.version, statistics.gradient = None, FORGOTTEN, None
                statistics.home.append(statistics)
