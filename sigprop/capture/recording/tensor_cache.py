"""What was made of a tensor, found again as long as nothing has been written to it."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

from torch import Tensor

from sigprop.capture.torch_internals import version_of

T = TypeVar("T")


class TensorCache(Generic[T]):
    """Finds what was made of this very tensor at this very version, so that it is read once.

    Inference tensors do not count their versions: whether one has been written to since cannot be
    known, so nothing is filed under them.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], tuple[weakref.ref[Tensor], T]] = {}

    def get(self, x: Tensor, channel_dim: int) -> T | None:
        """Return what `put` filed for this tensor, if it has not been written to since.

        Args:
            x: the tensor.
            channel_dim: the axis of its channels.
        """
        known = None if x.is_inference() else self._known.get((id(x), version_of(x), channel_dim))
        return known[1] if known and known[0]() is x else None

    def put(self, x: Tensor, channel_dim: int, thing: T) -> None:
        """File a thing under a tensor; the tensor is not kept alive.

        Args:
            x: the tensor.
            channel_dim: the axis of its channels.
            thing: what `get` is to return.
        """
        if not x.is_inference():
            self._known[id(x), version_of(x), channel_dim] = weakref.ref(x), thing

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
