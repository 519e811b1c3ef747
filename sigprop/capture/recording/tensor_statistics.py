"""The channel statistics of one tensor, and the taps that it was seen at."""

from __future__ import annotations

import weakref
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sigprop.capture.recording.tap import Tap

Array = npt.NDArray[np.float64]

#: The version of no tensor: nothing is found under it.
FORGOTTEN = -1


class WatchedGradient(Protocol):
    """A hook on a tensor's gradient.

    Attributes:
        taps: what the gradient is of; more may join until it arrives.
    """

    taps: list[Tap]


class TensorStatistics:
    """Channel statistics of one tensor.

    Attributes:
        sums: the statistics, shape (C, 11): on the host, or still on the tensor's device.
        address: of ``sums``, where C writes to it; else 0.
        home: the list that these go back to when their step ends, if their memory is used again.
        taps: where this very tensor was seen; more may join as long as it is `of` the tensor.
        tensor: the tensor, held weakly.
        version: how often the tensor had been written to.
        gradient: the hook on the tensor's gradient.
    """

    __slots__ = ("address", "gradient", "home", "sums", "taps", "tensor", "version")

    def __init__(
        self,
        sums: Array | Tensor,
        address: int = 0,
        home: list[TensorStatistics] | None = None,
    ) -> None:
        self.sums, self.address, self.home = sums, address, home
        self.taps: list[Tap] = []
        self.tensor: weakref.ref[Tensor] | None = None
        self.version = FORGOTTEN
        self.gradient: WatchedGradient | None = None
