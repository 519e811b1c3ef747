"""Where compiled code leaves its sums: buffers that are emptied when a step is fetched."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

A = TypeVar("A", bound=Hashable)


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
    """Buffers as attributes, so that a traced hook finds its own by name.

    A graph has its own, since what two addresses share depends on the graph; where it is traced
    again, the same address has the same buffer.

    Example:
        >>> slots = Slots[str]()
        >>> name = slots.reserve(0, "sums", "fc", (2, 3), torch.float32, torch.device("cpu"))
        >>> slots.join(name, "relu")
        >>> _ = getattr(slots, name).add_(1)
        >>> [(kind, addresses, sums.sum().item()) for kind, addresses, sums in slots.fetch()]
        [('sums', ['fc', 'relu'], 6.0)]
        >>> getattr(slots, name).sum().item()
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
        """Return the name of the attribute that is a graph's buffer of an address."""
        key = graph, kind, address, shape, dtype, device
        if key not in self._names:
            name = self._names[key] = f"slot_{len(self._names)}"
            with torch.inference_mode(False):  # one made in evaluation serves training too
                buffer = torch.zeros(shape, dtype=dtype, device=device)
                self._slots[name] = Slot(kind, [address], buffer.data)
            setattr(self, name, buffer)
        return self._names[key]

    def join(self, name: str, address: A) -> None:
        """Have a buffer answer for another address too."""
        addresses = self._slots[name].addresses
        if address not in addresses:
            addresses.append(address)

    def empty(self) -> None:
        """Forget what was added."""
        for slot in self._slots.values():
            slot.memory.zero_()

    def fetch(self) -> Iterator[tuple[str, list[A], Tensor]]:
        """Yield each slot's kind, addresses and a copy of its sums, still on the device; empty all.

        A slot to which nothing was added yields zeros.
        """
        by_kind: dict[tuple[torch.dtype, torch.device], list[Slot[A]]] = {}
        for slot in self._slots.values():
            by_kind.setdefault((slot.memory.dtype, slot.memory.device), []).append(slot)
        for slots in by_kind.values():
            buffers = [slot.memory for slot in slots]
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            torch._foreach_zero_(buffers)
            parts = flat.split([buffer.numel() for buffer in buffers])
            for slot, part in zip(slots, parts, strict=True):
                yield slot.kind, slot.addresses, part.view(slot.memory.shape)
