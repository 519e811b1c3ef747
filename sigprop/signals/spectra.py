"""Singular values of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprop.errors import BadInput


def weight_matrix(weight: Tensor) -> Tensor:
    """Return a weight as (output units, everything else), the matrix an im2col product uses.

    Raises:
        BadInput: the weight has fewer than two axes.
    """
    if weight.ndim < 2:
        raise BadInput(
            f"singular values need a matrix, not a tensor of shape {tuple(weight.shape)}"
        )
    return weight.detach().flatten(1)


def singular_values(weight: Tensor) -> Tensor:
    """Return the singular values of a weight's matrix, largest first, float64 on the CPU.

    For a convolution these are the values of the flattened kernel (out, in·kh·kw), not of the
    convolution as an operator on images, which are up to sqrt(kh·kw) times larger.

    Args:
        weight: shape (out, in) or (out, in, kh, kw, ...), any float dtype.

    Returns:
        Shape (min(out, in·kh·kw),); all NaN when the weight holds a non-finite value.

    Raises:
        BadInput: the weight has fewer than two axes.

    Example:
        >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
        tensor([4., 3.], dtype=torch.float64)
    """
    matrix = weight_matrix(weight).to("cpu", torch.float64)
    if not bool(matrix.isfinite().all()):
        return torch.full((min(matrix.shape),), float("nan"), dtype=torch.float64)
    return torch.linalg.svdvals(matrix)
