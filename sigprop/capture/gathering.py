"""Where readings wait: sums pile up on the device, are fetched together, and merge by address."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.capture.address import Address
from sigprop.signals.correlation import Products, interpret_products
from sigprop.signals.signal import Signal, interpret

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
        signal: the signals that were fetched, one tensor after the other.
        places: which tensor of `signal` answers for an address; several may share one.
        products: how the operands of additions correlate.
        averages: a user's own metrics.
    """

    def __init__(self) -> None:
        self.signal: Signal | None = None
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

    def pair(self, sums: Tensor, address: Address) -> None:
        """Let the products of two operands wait."""
        self._others.append(Waiting(sums, [address], interpret_products, self.products))

    def own(self, numbers: Tensor, weight: float, addresses: Sequence[Address]) -> None:
        """Let a user's own metrics of a tensor of ``weight`` elements wait."""
        self._others.append(
            Waiting(numbers, addresses, lambda values: Averages(values, weight), self.averages)
        )

    def settle(self) -> None:
        """Fetch everything that waits in one transfer per device, and merge it."""
        readings, self._readings, self._numbers = self._readings, [], 0
        others, self._others = self._others, []
        for indices, rows, ends in _fetched([sums for sums, _ in readings]):
            starts = np.concatenate(([0], ends[:-1]))
            self._place(interpret(rows, starts), [readings[i][1] for i in indices])
        for indices, numbers, ends in _fetched([waiting.sums for waiting in others]):
            for index, values in zip(indices, np.split(numbers, ends[:-1]), strict=True):
                others[index].settle(values)

    def clear(self) -> None:
        """Forget the step."""
        self.signal = None
        self._readings, self._others, self._numbers = [], [], 0
        for kept in (self.places, self.products, self.averages):
            kept.clear()

    def _place(self, seen: Signal, addresses: Sequence[Sequence[Address]]) -> None:
        """Merge fetched signals into what their addresses have so far, in the order read."""
        pairs = [(a, tensor) for tensor, answers in enumerate(addresses) for a in answers]
        while pairs:
            now: dict[Address, int] = {}
            later = []
            for address, tensor in pairs:  # one reading of each address at a time
                if now.setdefault(address, tensor) != tensor:
                    later.append((address, tensor))
            self._merge(seen, now)
            pairs = later

    def _merge(self, seen: Signal, now: Mapping[Address, int]) -> None:
        if self.signal is None:
            self.signal, self.places = seen, dict(now)
            return
        known = [address for address in now if address in self.places]
        fresh = [address for address in now if address not in self.places]
        stay = [address for address in self.places if address not in now]
        have = self.signal
        merged = have.take([self.places[a] for a in known]).merge(
            seen.take([now[a] for a in known])
        )
        self.signal = (
            have.take([self.places[a] for a in stay])
            .join(merged)
            .join(seen.take([now[a] for a in fresh]))
        )
        self.places |= {a: tensor for tensor, a in enumerate([*stay, *known, *fresh])}


def _fetched(sums: Sequence[Tensor]) -> list[tuple[list[int], Array, npt.NDArray[np.intp]]]:
    """Return (indices, rows of all, where each one's end) for every device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, table in enumerate(sums):
        groups.setdefault((table.device, table.dtype), []).append(index)
    return [
        (
            indices,
            torch.cat([sums[i] for i in indices]).cpu().double().numpy(),
            np.cumsum([len(sums[i]) for i in indices]),
        )
        for indices in groups.values()
    ]
