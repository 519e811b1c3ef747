"""Where compiled code leaves its sums: buffers that are emptied when a step is fetched."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

A = TypeVar("A", bound=Hashable)


class Buffers:
    """Every buffer, as an attribute: the one place in which traced code looks for its own.

    Each place that it looks at is checked whenever the graph runs.
    """


BUFFERS = Buffers()
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Slot(Generic[A]):
    """One buffer.

    Attributes:
        kind: what its numbers are.
        addresses: everyone it answers for.
        memory: the buffer's memory under another version counter: a backward still to come may have
            saved the buffer, and must not find it changed.
    """

    kind: str
    addresses: list[A]
    memory: Tensor


class Slots(Generic[A]):
    """The buffers of one recorder.

    A graph has its own, since what two addresses share depends on the graph; where it is traced
    again, the same address has the same buffer.

    Example:
        >>> slots = Slots[str]()
        >>> name = slots.reserve(0, "sums", "fc", (2, 3), torch.float32, torch.device("cpu"))
        >>> slots.join(name, "relu")
        >>> _ = getattr(BUFFERS, name).add_(1)
        >>> [(kind, addresses, sums.sum().item()) for kind, addresses, sums in slots.fetch()]
        [('sums', ['fc', 'relu'], 6.0)]
        >>> getattr(BUFFERS, name).sum().item()
        0.0
    """

    def __init__(self) -> None:
        self._slots: dict[str, Slot[A]] = {}
        self._names: dict[Hashable, str] = {}

    def reserve(
        self,
        graph: int,
        kind: str,
        address: A,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> str:
        """Return the name in `BUFFERS` of a graph's buffer of an address."""
        key = graph, kind, address, shape, dtype, device
        if key not in self._names:
            name = self._names[key] = f"sums_{next(_NUMBERS)}"
            with torch.inference_mode(False):  # one made in evaluation serves training too
                buffer = torch.zeros(shape, dtype=dtype, device=device)
                self._slots[name] = Slot(kind, [address], buffer.data)
            setattr(BUFFERS, name, buffer)
            weakref.finalize(self, delattr, BUFFERS, name)
        return self._names[key]

    def join(self, name: str, address: A) -> None:
        """Have a buffer answer for another address too."""
        addresses = self._slots[name].addresses
        if address not in addresses:
            addresses.append(address)

    def empty(self) -> None:
        """Forget what was added."""
        if self._slots:
            torch._foreach_zero_([slot.memory for slot in self._slots.values()])

    def fetch(self) -> Iterator[tuple[str, list[A], Tensor]]:
        """Yield each slot's kind, addresses and a copy of its sums, still on the device; empty all.

        A slot to which nothing was added yields zeros.
        """
        groups: dict[tuple[torch.dtype, torch.device], list[Slot[A]]] = {}
        for slot in self._slots.values():
            groups.setdefault((slot.memory.dtype, slot.memory.device), []).append(slot)
        for (_, device), slots in groups.items():
            memory = [slot.memory for slot in slots]
            copies = [x.clone() for x in memory] if device.type == "cpu" else _at_once(memory)
            torch._foreach_zero_(memory)
            for slot, sums in zip(slots, copies, strict=True):
                yield slot.kind, slot.addresses, sums


def _at_once(tensors: list[Tensor]) -> list[Tensor]:
    """Return copies of tensors of one type; on an accelerator one copy costs as much as all."""
    parts = torch.cat([x.reshape(-1) for x in tensors]).split([x.numel() for x in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]
