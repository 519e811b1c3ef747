"""Where compiled code leaves its sums: one buffer per address, emptied when a step is fetched."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

A = TypeVar("A", bound=Hashable)


class Slots(Generic[A]):
    """Buffers as attributes, so that a traced hook finds its own by name.

    A graph is traced again for another shape or mode; the same address then has the same buffer.

    Example:
        >>> slots = Slots[str]()
        >>> buffer = getattr(slots, slots.reserve("fc", (2, 3), torch.float32, torch.device("cpu")))
        >>> _ = buffer.add_(1)
        >>> [(address, sums.tolist()) for address, sums in slots.fetch()], buffer.sum().item()
        ([('fc', [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])], 0.0)
    """

    def __init__(self) -> None:
        self._names: dict[tuple[A, tuple[int, ...], torch.dtype, torch.device], str] = {}
        # The same memory under another version counter: a backward still to come may have saved
        # the buffer, and must not find it changed.
        self._memory: dict[str, Tensor] = {}

    def reserve(
        self, address: A, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> str:
        """Return the name of the attribute that is the buffer of an address; made when new."""
        key = address, shape, dtype, device
        if key not in self._names:
            name = f"slot_{len(self._names)}"
            with torch.inference_mode(False):  # one made in evaluation serves training too
                buffer = torch.zeros(shape, dtype=dtype, device=device)
                self._memory[name] = buffer.data
            setattr(self, name, buffer)
            self._names[key] = name
        return self._names[key]

    def empty(self) -> None:
        """Forget what was added."""
        for buffer in self._memory.values():
            buffer.zero_()

    def fetch(self) -> Iterator[tuple[A, Tensor]]:
        """Yield every address with a copy of its sums, still on the device, and empty the slots."""
        by_kind: dict[tuple[torch.dtype, torch.device], list[tuple[A, Tensor]]] = {}
        for (address, _, dtype, device), name in self._names.items():
            by_kind.setdefault((dtype, device), []).append((address, self._memory[name]))
        for held in by_kind.values():
            buffers = [buffer for _, buffer in held]
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            torch._foreach_zero_(buffers)
            parts = flat.split([buffer.numel() for buffer in buffers])
            for (address, buffer), part in zip(held, parts, strict=True):
                yield address, part.view(buffer.shape)
