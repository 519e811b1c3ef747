"""Where compiled code leaves its sums: buffers that are emptied when a step is fetched."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sigprop.capture.torch_internals import zero

A = TypeVar("A", bound=Hashable)


class Buffers:
    """Every buffer, as an attribute: the one object in which traced code looks for its own.

    Each attribute that it looks at is checked whenever the graph runs.
    """


BUFFERS = Buffers()
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class GraphBuffer(Generic[A]):
    """One buffer.

    Attributes:
        kind: what its numbers are.
        taps: every tap whose sums it holds.
        memory: the buffer's memory under another version counter: a backward still to come may have
            saved the buffer, and must not find it changed.
    """

    kind: str
    taps: list[A]
    memory: Tensor


class GraphBuffers(Generic[A]):
    """The buffers of one recorder.

    A graph has its own, since what two taps share depends on the graph; where it is traced
    again, the same tap has the same buffer.

    Example:
        >>> buffers = GraphBuffers[str]()
        >>> name = buffers.reserve(0, "sums", "fc", (2, 3), torch.float32, torch.device("cpu"))
        >>> buffers.join(name, "relu")
        >>> _ = getattr(BUFFERS, name).add_(1)
        >>> [(kind, taps, sums.sum().item()) for kind, taps, sums in buffers.fetch()]
        [('sums', ['fc', 'relu'], 6.0)]
        >>> getattr(BUFFERS, name).sum().item()
        0.0
    """

    def __init__(self) -> None:
        self._buffers: dict[str, GraphBuffer[A]] = {}
        self._names: dict[Hashable, str] = {}

    def reserve(
        self,
        graph: int,
        kind: str,
        tap: A,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> str:
        """Return the name in `BUFFERS` of the buffer that a graph has for a tap.

        Args:
            graph: the number of the graph.
            kind: what is added up in it.
            tap: whose sums they are.
            shape: of the sums.
            dtype: of the sums.
            device: where the graph computes.
        """
        key = graph, kind, tap, shape, dtype, device
        if key not in self._names:
            name = self._names[key] = f"sums_{next(_NUMBERS)}"
            with torch.inference_mode(False):  # one made in evaluation is used in training too
                buffer = torch.zeros(shape, dtype=dtype, device=device)
                self._buffers[name] = GraphBuffer(kind, [tap], buffer.data)
            setattr(BUFFERS, name, buffer)
            weakref.finalize(self, delattr, BUFFERS, name)
        return self._names[key]

    def join(self, name: str, tap: A) -> None:
        """Have a buffer hold the sums of another tap too.

        Args:
            name: of the buffer.
            tap: whose tensor is the very same.
        """
        taps = self._buffers[name].taps
        if tap not in taps:
            taps.append(tap)

    def empty(self) -> None:
        """Forget what was added."""
        if self._buffers:
            zero([buffer.memory for buffer in self._buffers.values()])

    def fetch(self) -> Iterator[tuple[str, list[A], Tensor]]:
        """Yield each buffer's kind, taps and a copy of its sums, still on the device; empty all.

        A buffer to which nothing was added yields zeros.
        """
        groups: dict[tuple[torch.dtype, torch.device], list[GraphBuffer[A]]] = {}
        for buffer in self._buffers.values():
            groups.setdefault((buffer.memory.dtype, buffer.memory.device), []).append(buffer)
        for (_, device), buffers in groups.items():
            memory = [buffer.memory for buffer in buffers]
            copies = [x.clone() for x in memory] if device.type == "cpu" else _at_once(memory)
            zero(memory)
            for buffer, sums in zip(buffers, copies, strict=True):
                yield buffer.kind, buffer.taps, sums


def _at_once(tensors: list[Tensor]) -> list[Tensor]:
    """Return copies of tensors of one type; on an accelerator one copy costs as much as all."""
    parts = torch.cat([x.reshape(-1) for x in tensors]).split([x.numel() for x in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]
