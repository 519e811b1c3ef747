"""Which tensors a graph that is being made has met: one that is met again is not read again.

While a compiler traces, tensors stand in for others: they have shapes and versions, no numbers.
Traced code cannot compare them; Python that runs at trace time can, once it is shown one.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from sigprop.capture.memo import Memo

_SHOWN: list[Tensor] = []


def show(x: Tensor) -> None:
    """Show a traced tensor to Python that runs at trace time: `Met` asks for it."""
    from torch._dynamo.comptime import comptime  # only where somebody compiles

    comptime(_hold)


def _hold(context: Any) -> None:
    _SHOWN[:] = [context.get_local("x").as_fake()]


class Met:
    """The tensors of the graph that is being made, each with the slot in which it is read.

    Attributes:
        graph: counts the graphs.
    """

    def __init__(self) -> None:
        self.graph = 0
        self._mode: weakref.ref[Any] | None = None
        self._slots: dict[str, Memo[str]] = {}

    def look(self) -> None:
        """Look at the tensor that was shown: the first one of another graph begins that graph."""
        mode = getattr(_SHOWN[0], "fake_mode", None)
        if self._mode is None or self._mode() is not mode:
            self.graph += 1
            self._mode = weakref.ref(mode)
            self._slots = {"forward": Memo(), "backward": Memo()}

    def slot(self, direction: str, channel_dim: int) -> str | None:
        """Return the slot of the tensor that was shown, if it has one."""
        return self._slots[direction].get(_SHOWN[0], channel_dim)

    def put(self, direction: str, channel_dim: int, slot: str) -> None:
        """File the slot of the tensor that was shown."""
        self._slots[direction].put(_SHOWN[0], channel_dim, slot)
