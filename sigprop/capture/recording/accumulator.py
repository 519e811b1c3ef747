"""Collects the statistics of one step, and returns them as a value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sigprop.capture.recording.arena import Arena
from sigprop.capture.recording.fetch import fetch
from sigprop.capture.recording.own_metrics import Averages, OwnAverages
from sigprop.capture.recording.pair_products import PairProducts
from sigprop.capture.recording.step_statistics import StepStatistics
from sigprop.capture.recording.tap import Tap
from sigprop.capture.recording.tensor_statistics import FORGOTTEN, Array, TensorStatistics
from sigprop.signals.correlation import decode_products
from sigprop.signals.signal import merge

#: Fetch early when this many channels wait: an evaluation of a thousand batches is one step.
MOST_WAITING = 400_000

#: A tap with its channel statistics.
Pair = tuple[Tap, Array]


class Accumulator:
    """The statistics of the step in progress.

    Attributes:
        arena: the memory that statistics on the CPU are written into.
        rectified: the taps at which a rectifier's output was seen.
        waiting: channel statistics that wait to be fetched; taps may join until they are.
    """

    def __init__(self) -> None:
        self.arena = Arena()
        self.rectified: set[Tap] = set()
        self.waiting: list[TensorStatistics] = []
        self._products: list[PairProducts] = []
        self._own: list[OwnAverages] = []
        self._fetched = _Fetched()
        self._used: tuple[list[TensorStatistics], list[PairProducts]] = ([], [])

    @property
    def empty(self) -> bool:
        """Whether nothing has been seen in this step."""
        return not (self.waiting or self._fetched.index)

    @property
    def full(self) -> bool:
        """Whether so much waits that it is time to `flush`."""
        channels = 0
        for statistics in self.waiting:
            channels += len(statistics.sums)
        return channels > MOST_WAITING

    def add_products(self, products: PairProducts) -> None:
        """Let the products of two operands wait."""
        self._products.append(products)

    def add_own(self, averages: OwnAverages) -> None:
        """Let a user's own metrics of a tensor wait."""
        self._own.append(averages)

    def flush(self) -> None:
        """Fetch everything that waits, and have its memory used again within this step."""
        self._fetch(())
        self._fetched.copy()
        self._give_back()

    def statistics(self, others: Sequence[Tensor] = ()) -> tuple[StepStatistics, list[Array]]:
        """Return the statistics of the step up to now, fetched together with other numbers.

        They are good until `clear`.

        Args:
            others: device numbers to bring to the host in the same transfer.
        """
        numbers = self._fetch(others)
        done = self._fetched
        return (
            StepStatistics(
                done.taps(),
                done.tables,
                done.positions(),
                frozenset(self.rectified),
                dict(done.products),
                dict(done.averages),
            ),
            numbers,
        )

    def clear(self) -> None:
        """Forget the step."""
        self._give_back()
        self.waiting.clear()
        self._products, self._own = [], []
        self._fetched.clear()
        self.rectified.clear()

    def _fetch(self, others: Sequence[Tensor]) -> list[Array]:
        statistics = list(self.waiting)
        self.waiting.clear()  # the very list that readers hold
        products, self._products = self._products, []
        own, self._own = self._own, []
        waiting = (
            *[one.sums for one in statistics],
            *[pair.sums for pair in products],
            *[averages.numbers for averages in own],
            *others,
        )
        numbers = iter(fetch(waiting))
        done = self._fetched
        done.add([(one, next(numbers)) for one in statistics])
        done.add_products(products, [next(numbers) for _ in products])
        done.add_own(own, [next(numbers) for _ in own])
        self._used[0].extend(statistics)
        self._used[1].extend(products)
        return list(numbers)

    def _give_back(self) -> None:
        statistics, products = self._used
        self._used = [], []
        self.arena.give_back([*statistics, *self.waiting])
        for pair in reversed([*products, *self._products]):
            if pair.home is not None:
                pair.home.append(pair)


class _Fetched:
    """Statistics on the host, merged by tap.

    Attributes:
        tables: channel statistics.
        index: for each tap, which of them is its own.
    """

    def __init__(self) -> None:
        self.tables: list[Array] = []
        self.index: dict[Tap, int] = {}
        self.products: dict[Tap, Array] = {}
        self.averages: dict[Tap, Averages] = {}
        self._last: tuple[list[Tap], list[int], dict[Tap, int]] = ([], [], {})
        self._order: tuple[dict[Tap, int], list[Tap], list[int]] = ({}, [], [])

    def add(self, tables: Sequence[tuple[TensorStatistics, Array]]) -> None:
        """Add channel statistics, each for all of its taps."""
        # What compiled code adds to may have had nothing added.
        kept = [pair for pair in tables if pair[0].home is not None or pair[1][0, 0]]
        flat: list[Tap] = []
        for statistics, _ in kept:
            statistics.version = FORGOTTEN  # it has been fetched: no further tap may join
            flat += statistics.taps
        counts = [len(statistics.taps) for statistics, _ in kept]
        if not self.index:
            taps, last, index = self._last
            if flat != taps or counts != last:
                index = {}
                for at, (statistics, _) in enumerate(kept):
                    index.update(dict.fromkeys(statistics.taps, at))
            if len(index) == len(flat):  # each tap once: nothing to merge
                self._last = flat, counts, index
                self.index, self.tables = index, [table for _, table in kept]
                return
        pairs = [(tap, table) for statistics, table in kept for tap in statistics.taps]
        while pairs:
            pairs = self._merge(pairs)

    def _merge(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return the pairs that are left when one table of each tap is merged into what it has."""
        now: dict[Tap, Array] = {}
        later = [pair for pair in pairs if now.setdefault(*pair) is not pair[1]]
        known = [tap for tap in now if tap in self.index]
        had = [self.tables[self.index[tap]] for tap in known]
        now |= zip(known, merge(had, [now[tap] for tap in known]), strict=True)
        # Values that were returned keep their tables; those that are not needed any more are left.
        now = {tap: self.tables[at] for tap, at in self.index.items()} | now
        position: dict[int, int] = {}
        self.tables, self.index = [], {}
        for tap, table in now.items():
            if id(table) not in position:
                position[id(table)] = len(self.tables)
                self.tables.append(table)
            self.index[tap] = position[id(table)]
        return later

    def add_products(self, pairs: Sequence[PairProducts], fetched: Sequence[Array]) -> None:
        """Add the products of operands."""
        if not pairs:
            return
        sums = [x[1:] if pair.counted else x for pair, x in zip(pairs, fetched, strict=True)]
        for pair, row in zip(pairs, decode_products(np.stack(sums)), strict=True):
            tap = pair.tap
            self.products[tap] = self.products[tap] + row if tap in self.products else row

    def add_own(self, own: Sequence[OwnAverages], fetched: Sequence[Array]) -> None:
        """Add a user's own metrics."""
        for averages, numbers in zip(own, fetched, strict=True):
            for tap in averages.taps:
                new = Averages(numbers, averages.weight)
                known = self.averages.get(tap)
                self.averages[tap] = new if known is None else known.merge(new)

    def taps(self) -> list[Tap]:
        """Return the taps in the order in which they were first seen."""
        return self._ordered()[1]

    def positions(self) -> list[int]:
        """Return the position of each tap's table among the tables."""
        return self._ordered()[2]

    def _ordered(self) -> tuple[dict[Tap, int], list[Tap], list[int]]:
        if self._order[0] is not self.index:
            self._order = self.index, list(self.index), list(self.index.values())
        return self._order

    def copy(self) -> None:
        """Keep own copies of what lies in memory that is used again."""
        self.tables = [table.copy() for table in self.tables]

    def clear(self) -> None:
        """Forget the step."""
        self.tables, self.index = [], {}
        self.products, self.averages = {}, {}
