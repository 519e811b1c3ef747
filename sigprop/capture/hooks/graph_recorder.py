"""What a recorder keeps for code that is compiled: buffers, and the graph that is being made."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sigprop.capture.hooks.graph_buffers import GraphBuffers
from sigprop.capture.hooks.tracing import Trace
from sigprop.capture.recording.accumulator import Accumulator
from sigprop.capture.recording.pair_products import PairProducts
from sigprop.capture.recording.tap import Tap
from sigprop.capture.recording.tensor_statistics import TensorStatistics
from sigprop.capture.torch_internals import TRACEABLE


def _nothing() -> None:
    """Stand in for a weak reference to what does not live."""


class GraphRecorder:
    """The part of a recorder that compiled code writes to.

    Attributes:
        buffers: where graphs leave their sums.
        trace: the graph that is being made.
        traceable: whether hooks can be traced into graphs.
        rectified: the taps in graphs at which a rectifier's output is seen.
        root: gives the model while it lives; its mode is that of a forward pass.
        whole: whether a graph of the whole model was made: its forward runs no hook eagerly.
        warned: what the user was warned of.
    """

    def __init__(self) -> None:
        self.buffers: GraphBuffers[Tap] = GraphBuffers()
        self.trace = Trace()
        self.traceable = TRACEABLE
        self.rectified: set[Tap] = set()
        self.root: Callable[[], nn.Module | None] = _nothing
        self.whole = False
        self.warned: set[str] = set()

    def collect(self, accumulator: Accumulator) -> None:
        """Hand over what graphs have added up since the last time."""
        for kind, taps, sums in self.buffers.fetch():
            if kind == "products":
                accumulator.add_products(PairProducts(sums, taps[0], counted=True))
                continue
            statistics = TensorStatistics(sums.T if kind == "sums" else sums)
            statistics.taps += taps
            accumulator.waiting.append(statistics)
        accumulator.rectified |= self.rectified
