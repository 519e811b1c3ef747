"""What is known of the graph that is being made, by Python that runs while a compiler traces.

Code of one forward pass is one graph or several, in order; any of them may be made again later, by
itself. While it is traced tensors stand in for others: they have shapes and versions, no numbers.
Traced code cannot compare them; Python at trace time can, once it is shown one.
"""

from __future__ import annotations

import weakref
from collections import Counter
from types import CodeType
from typing import Any

from torch import Tensor

from sigprop.capture.model.channels import Maker
from sigprop.capture.recording.tensor_cache import TensorCache
from sigprop.capture.torch_internals import Shown

#: How the compiler names the rest of a function, behind what it cannot trace.
_REST = "torch_dynamo_resume"


def shown() -> Tensor:
    """Return the tensor that was shown last."""
    assert Shown.x is not None
    return Shown.x


class Trace:
    """The graph that is being made.

    Attributes:
        graph: counts the graphs that record.
        on: whether this one does.
        mode: "train" or "eval", whichever it is for.
        calls: how often each module was met in the forward pass up to now.
        maker: what made channels last.
        rectified: tensors of this graph that rectifiers made.
    """

    def __init__(self) -> None:
        self.graph = 0
        self.on, self.mode = False, ""
        self.calls: Counter[str] = Counter()
        self.maker: Maker | None = None
        self.rectified: TensorCache[bool] = TensorCache()
        self._now: weakref.ref[Any] | None = None
        self._begins: dict[CodeType, tuple[Counter[str], Maker | None]] = {}
        self._buffers: dict[str, TensorCache[str]] = {}

    @property
    def new(self) -> bool:
        """Whether the graph that was shown is another one than before."""
        return self._now is None or self._now is not Shown.graph

    def begin(self, on: bool, mode: str, maker: Maker | None) -> None:
        """Begin with the graph that was shown.

        Args:
            on: whether it records.
            mode: of the model, in this graph.
            maker: what made channels last in the eager code around it.
        """
        self._now, code = Shown.graph, Shown.code
        self.on, self.mode = on, mode
        if not on:
            return
        self.graph += 1
        self.rectified.clear()
        self._buffers = {"forward": TensorCache(), "backward": TensorCache()}
        if code is None or not code.co_name.startswith(_REST):
            self.calls, self.maker = Counter(), maker
            return
        # The rest of a function goes on from what came before it, also when it is made again.
        calls, self.maker = self._begins.setdefault(code, (self.calls.copy(), self.maker))
        self.calls = calls.copy()

    def buffer(self, direction: str, channel_dim: int) -> str | None:
        """Return the buffer of the tensor that was shown, if it has one in this graph.

        Args:
            direction: ``"forward"`` or ``"backward"``.
            channel_dim: the axis of its channels.
        """
        return self._buffers[direction].get(shown(), channel_dim)

    def put(self, direction: str, channel_dim: int, buffer: str) -> None:
        """Note the buffer of the tensor that was shown.

        Args:
            direction: ``"forward"`` or ``"backward"``.
            channel_dim: the axis of its channels.
            buffer: its name in `BUFFERS`.
        """
        self._buffers[direction].put(shown(), channel_dim, buffer)
