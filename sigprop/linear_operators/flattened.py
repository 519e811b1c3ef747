"""Several tensors as one vector, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Flattened:
    """The order in which the elements of several tensors make one vector.

    Args:
        like: the tensors; of them only shapes are kept.

    Attributes:
        size: number of elements in all.

    Example:
        >>> order = Flattened([torch.zeros(2, 2), torch.zeros(3)])
        >>> order.vector([torch.ones(2, 2), torch.zeros(3)])
        tensor([1., 1., 1., 1., 0., 0., 0.])
        >>> [tuple(part.shape) for part in order.tensors(torch.arange(7.0))]
        [(2, 2), (3,)]
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        self._shapes = [tensor.shape for tensor in like]
        self._sizes = [tensor.numel() for tensor in like]
        self.size = sum(self._sizes)

    def vector(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the tensors as one vector, shape (size,)."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def tensors(self, vector: Tensor) -> list[Tensor]:
        """Return a vector of shape (size,) as tensors, views of it."""
        parts = vector.split(self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
