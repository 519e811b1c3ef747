"""Where readings wait: sums pile up on the device, are fetched together, and merge by tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.capture.recording.tap import Tap
from sigprop.signals.correlation import Products, interpret_products
from sigprop.signals.signal import Table, merge

Array = npt.NDArray[np.float64]

#: Fetch early when this many numbers wait: an evaluation of a thousand batches is one step.
_MOST_WAITING = 4_000_000


@dataclass(frozen=True)
class Averages:
    """A user's own metrics of one tensor, averaged by element count when merged."""

    numbers: Array
    weight: float

    def merge(self, other: Averages) -> Averages:
        """Return the average over both."""
        weight = self.weight + other.weight
        return Averages(
            (self.numbers * self.weight + other.numbers * other.weight) / weight, weight
        )


class Mergeable(Protocol):
    """Anything of which two make one."""

    def merge(self: M, other: M) -> M:
        """Return the two as one."""
        ...


M = TypeVar("M", bound=Mergeable)


@dataclass(frozen=True)
class Pending(Generic[M]):
    """Device sums that are no signal, with every tap that they answer for."""

    sums: Tensor
    taps: Sequence[Tap]
    decode: Callable[[Array], M]
    into: dict[Tap, M]

    def flush(self, numbers: Array) -> None:
        """Merge the fetched numbers into every tap."""
        seen = self.decode(numbers)
        for tap in self.taps:
            self.into[tap] = self.into[tap].merge(seen) if tap in self.into else seen


class Accumulator:
    """The readings of one step.

    Attributes:
        tables: readings on the host.
        places: which of them answers for an tap; several taps may share one.
        products: how the operands of additions correlate.
        averages: a user's own metrics.
    """

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.places: dict[Tap, int] = {}
        self.products: dict[Tap, Products] = {}
        self.averages: dict[Tap, Averages] = {}
        self._readings: list[tuple[Tensor, Sequence[Tap]]] = []
        self._others: list[Pending[Products] | Pending[Averages]] = []
        self._numbers = 0

    @property
    def empty(self) -> bool:
        """Whether nothing has been read in this step."""
        return not (self._readings or self.places)

    def reading(self, sums: Tensor, taps: Sequence[Tap]) -> bool:
        """Let the sums of a reading wait; return whether it is time to flush.

        Args:
            sums: from `sigprop.signals.reading.read`, shape (C, 11).
            taps: answered for by this reading; more may join until it is flushed.
        """
        self._readings.append((sums, taps))
        self._numbers += sums.numel()
        return self._numbers > _MOST_WAITING

    def pair(
        self,
        sums: Tensor,
        tap: Tap,
        decode: Callable[[Array], Products] = interpret_products,
    ) -> None:
        """Let the products of two operands wait."""
        self._others.append(Pending(sums, [tap], decode, self.products))

    def own(self, numbers: Tensor, weight: float, taps: Sequence[Tap]) -> None:
        """Let a user's own metrics of a tensor of ``weight`` elements wait."""
        self._others.append(
            Pending(numbers, taps, lambda values: Averages(values, weight), self.averages)
        )

    def flush(self) -> None:
        """Fetch everything that waits in one transfer per device, and merge it."""
        readings, self._readings, self._numbers = self._readings, [], 0
        others, self._others = self._others, []
        tables = _fetched([sums for sums, _ in readings])
        pairs = [
            (tap, table)
            for table, (_, taps) in zip(tables, readings, strict=True)
            if table[0, 0]  # else nothing was added to what compiled code adds to
            for tap in taps
        ]
        while pairs:
            pairs = self._place(pairs)
        numbers = _fetched([waiting.sums for waiting in others])
        for waiting, values in zip(others, numbers, strict=True):
            waiting.flush(values)

    def clear(self) -> None:
        """Forget the step."""
        self._readings, self._others, self._numbers = [], [], 0
        self.tables.clear()
        for kept in (self.places, self.products, self.averages):
            kept.clear()

    def _place(self, pairs: Sequence[tuple[Tap, Table]]) -> list[tuple[Tap, Table]]:
        """Merge one reading of each tap into what it has; return those that come after."""
        now: dict[Tap, Table] = {}
        later = [pair for pair in pairs if now.setdefault(*pair) is not pair[1]]
        known = [tap for tap in now if tap in self.places]
        had = [self.tables[self.places[tap]] for tap in known]
        now |= zip(known, merge(had, [now[tap] for tap in known]), strict=True)
        if known:  # what was merged leaves tables behind that nobody may need: begin anew
            now = {tap: self.tables[place] for tap, place in self.places.items()} | now
            self.tables, self.places = [], {}
        index: dict[int, int] = {}
        for tap, table in now.items():
            if id(table) not in index:
                index[id(table)] = len(self.tables)
                self.tables.append(table)
            self.places[tap] = index[id(table)]
        return later


def _fetched(sums: Sequence[Tensor]) -> list[Array]:
    """Return device sums as arrays in float64, in one transfer per accelerator and type."""
    fetched: dict[int, Array] = {}
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, table in enumerate(sums):
        if table.is_cpu:
            fetched[index] = table.double().numpy()
        else:
            groups.setdefault((table.device, table.dtype), []).append(index)
    for indices in groups.values():
        whole = torch.cat([sums[i] for i in indices]).cpu().double().numpy()
        ends = np.cumsum([len(sums[i]) for i in indices])[:-1]
        fetched.update(zip(indices, np.split(whole, ends), strict=True))
    return [fetched[index] for index in range(len(sums))]
