"""Where readings wait: sums pile up on the device, are fetched together, and merge by address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.capture.address import Address
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
class Waiting(Generic[M]):
    """Device sums that are no signal, with every address that they answer for."""

    sums: Tensor
    addresses: Sequence[Address]
    understand: Callable[[Array], M]
    into: dict[Address, M]

    def settle(self, numbers: Array) -> None:
        """Merge the fetched numbers into every address."""
        seen = self.understand(numbers)
        for address in self.addresses:
            self.into[address] = self.into[address].merge(seen) if address in self.into else seen


class Gathering:
    """The readings of one step.

    Attributes:
        tables: readings on the host.
        places: which of them answers for an address; several addresses may share one.
        products: how the operands of additions correlate.
        averages: a user's own metrics.
    """

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.places: dict[Address, int] = {}
        self.products: dict[Address, Products] = {}
        self.averages: dict[Address, Averages] = {}
        self._readings: list[tuple[Tensor, Sequence[Address]]] = []
        self._others: list[Waiting[Products] | Waiting[Averages]] = []
        self._numbers = 0

    @property
    def empty(self) -> bool:
        """Whether nothing has been read in this step."""
        return not (self._readings or self.places)

    def reading(self, sums: Tensor, addresses: Sequence[Address]) -> bool:
        """Let the sums of a reading wait; return whether it is time to settle.

        Args:
            sums: from `sigprop.signals.reading.read`, shape (C, 11).
            addresses: answered for by this reading; more may join until it is settled.
        """
        self._readings.append((sums, addresses))
        self._numbers += sums.numel()
        return self._numbers > _MOST_WAITING

    def pair(
        self,
        sums: Tensor,
        address: Address,
        understand: Callable[[Array], Products] = interpret_products,
    ) -> None:
        """Let the products of two operands wait."""
        self._others.append(Waiting(sums, [address], understand, self.products))

    def own(self, numbers: Tensor, weight: float, addresses: Sequence[Address]) -> None:
        """Let a user's own metrics of a tensor of ``weight`` elements wait."""
        self._others.append(
            Waiting(numbers, addresses, lambda values: Averages(values, weight), self.averages)
        )

    def settle(self) -> None:
        """Fetch everything that waits in one transfer per device, and merge it."""
        readings, self._readings, self._numbers = self._readings, [], 0
        others, self._others = self._others, []
        tables = _fetched([sums for sums, _ in readings])
        pairs = [
            (address, table)
            for table, (_, addresses) in zip(tables, readings, strict=True)
            if table[0, 0]  # else nothing was added to what compiled code adds to
            for address in addresses
        ]
        while pairs:
            pairs = self._place(pairs)
        numbers = _fetched([waiting.sums for waiting in others])
        for waiting, values in zip(others, numbers, strict=True):
            waiting.settle(values)

    def clear(self) -> None:
        """Forget the step."""
        self._readings, self._others, self._numbers = [], [], 0
        self.tables.clear()
        for kept in (self.places, self.products, self.averages):
            kept.clear()

    def _place(self, pairs: Sequence[tuple[Address, Table]]) -> list[tuple[Address, Table]]:
        """Merge one reading of each address into what it has; return those that come after."""
        now: dict[Address, Table] = {}
        later = [pair for pair in pairs if now.setdefault(*pair) is not pair[1]]
        known = [address for address in now if address in self.places]
        had = [self.tables[self.places[address]] for address in known]
        now |= zip(known, merge(had, [now[address] for address in known]), strict=True)
        if known:  # what was merged leaves tables behind that nobody may need: begin anew
            now = {address: self.tables[place] for address, place in self.places.items()} | now
            self.tables, self.places = [], {}
        index: dict[int, int] = {}
        for address, table in now.items():
            if id(table) not in index:
                index[id(table)] = len(self.tables)
                self.tables.append(table)
            self.places[address] = index[id(table)]
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
