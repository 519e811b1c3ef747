"""The products of two operands of one addition, and the tap of their branch."""

from __future__ import annotations

from torch import Tensor

from sigprop.capture.recording.tap import Tap
from sigprop.capture.recording.tensor_statistics import Array


class PairProducts:
    """The products of two operands.

    Attributes:
        sums: on the host, or still on the operands' device.
        tap: where the branch was seen.
        address: of ``sums``, where C writes to it; else 0.
        home: the list that these go back to when their step ends.
        counted: whether a count stands before the sums, as in compiled graphs.
    """

    __slots__ = ("address", "counted", "home", "sums", "tap")

    def __init__(
        self,
        sums: Array | Tensor,
        tap: Tap,
        address: int = 0,
        home: list[PairProducts] | None = None,
        counted: bool = False,
    ) -> None:
        self.sums, self.tap, self.address, self.home = sums, tap, address, home
        self.counted = counted
