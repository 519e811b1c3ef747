"""Exact statistics of the whole batch from those of its parts, one part a rank.

Two passes: counts and sums give the mean of all samples, and each rank's central sums are then
taken about that mean, where they add (Chan, Golub and LeVeque 1979 for two parts). Nine numbers a
channel are sent in three reductions, whatever the number of ranks.
"""

from __future__ import annotations

import numpy as np

from sigprop.capture.distributed.group import Floats, Group
from sigprop.capture.distributed.layout import Layout
from sigprop.capture.recording.own_metrics import Averages
from sigprop.capture.recording.step_statistics import StepStatistics
from sigprop.capture.recording.tap import Tap
from sigprop.signals.activity import Activity
from sigprop.signals.columns import COLUMNS
from sigprop.signals.moments import Moments
from sigprop.signals.signal import Signal, interpret

#: Numbers of a tap that are no channel's: whether rectified, whether products were seen, Σa², Σb²,
#: Σab, elements averaged.
_OF_A_TAP = 6


class Merger:
    """Merges the statistics of steps.

    Args:
        group: the ranks.
        layout: the order of taps, the same on each.
        own: how many metrics of the user's there are.
    """

    def __init__(self, group: Group, layout: Layout, own: int) -> None:
        self._group, self._layout, self._own = group, layout, own
        self._last: tuple[bytes, list[Tap]] = (b"", [])

    def merge(self, statistics: StepStatistics) -> StepStatistics:
        """Return the statistics of all ranks on the first one; on others, those given.

        Every tap has its place in the layout already.
        """
        layout, group = self._layout, self._group
        channels = int(layout.starts[-1])
        if channels == 0:
            return statistics
        at, where = layout.places(statistics.taps)
        signal = self._signal(statistics)
        m, a = signal.moments, signal.activity
        sums = np.zeros((channels, 4))
        sums[where] = np.stack([a.count, m.count, a.zeros, m.count * m.mean], axis=1)
        of_taps = np.zeros((len(layout.taps), _OF_A_TAP + self._own))
        of_taps[at] = self._of_taps(statistics)
        total = group.sum(np.concatenate([sums.ravel(), of_taps.ravel()]))
        sums = total[: sums.size].reshape(sums.shape)
        mean = sums[:, 3] / np.maximum(sums[:, 1], 1)
        about = np.zeros((channels, 3))
        about[where] = np.stack(m.about(mean[where]), axis=1)
        about = group.sum(about, first_only=True)
        extremes = np.full((channels, 2), -np.inf)
        extremes[where] = np.stack([-a.lowest, a.highest], axis=1)
        extremes = group.max(extremes, first_only=True)
        if group.rank:
            return statistics
        elements, finite, zeros, _ = sums.T
        merged = Signal(
            Moments(finite, mean, *about.T),
            Activity(elements, elements - finite, zeros, -extremes[:, 0], extremes[:, 1]),
        )
        return self._statistics(merged.table, total[sums.size :].reshape(of_taps.shape))

    def _signal(self, statistics: StepStatistics) -> Signal:
        tables = [statistics.tables[index] for index in statistics.index]
        return interpret(np.concatenate([np.zeros((0, len(COLUMNS))), *tables]))

    def _of_taps(self, statistics: StepStatistics) -> Floats:
        """Return the numbers of each tap that are no channel's; averages as weighted sums."""
        rows = np.zeros((len(statistics.taps), _OF_A_TAP + self._own))
        for row, tap in zip(rows, statistics.taps, strict=True):
            row[0] = tap in statistics.rectified
            if tap in statistics.products:
                row[1], row[2:5] = 1, statistics.products[tap]
            average = statistics.averages.get(tap)
            if average is not None:
                row[5], row[_OF_A_TAP:] = average.weight, average.weight * average.numbers
        return rows

    def _statistics(self, table: Floats, of_taps: Floats) -> StepStatistics:
        """Return the merged statistics of the taps that any rank saw in this step."""
        layout = self._layout
        seen = np.add.reduceat(table[:, 0], layout.starts[:-1]) > 0
        if self._last[0] != seen.tobytes():
            taps = [tap for tap, there in zip(layout.taps, seen, strict=True) if there]
            self._last = seen.tobytes(), taps
        taps = self._last[1]
        tables = np.split(table, layout.starts[1:-1])
        rows = of_taps[seen]
        return StepStatistics(
            taps,
            [part for part, there in zip(tables, seen, strict=True) if there],
            range(len(taps)),
            frozenset(tap for tap, row in zip(taps, rows, strict=True) if row[0]),
            {tap: row[2:5] for tap, row in zip(taps, rows, strict=True) if row[1]},
            {
                tap: Averages(row[_OF_A_TAP:] / row[5], row[5])
                for tap, row in zip(taps, rows, strict=True)
                if row[5]
            },
        )
