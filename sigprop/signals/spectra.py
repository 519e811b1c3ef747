"""Singular values of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprop.errors import BadInput

#: The least ratio of smallest to largest eigenvalue at which a Gram matrix resolves all of them.
_RESOLVED = 1e-5


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

    The error of a value is at most 1e-9 of itself, or rounding in float64 of the largest.

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
    # LAPACK takes up to six times as long on a wide matrix as on its transpose.
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    if weight.dtype != torch.float64 and tall.shape[0] >= 2 * tall.shape[1] > 0:
        # Half that time again. Products of float32 are exact in float64 and their sums round by
        # about 1e-15 of the largest eigenvalue: 1e-10 of the smallest if that stands clear, as in
        # most rectangular weights. One that is nearly singular is left to the exact way below.
        squares = torch.linalg.eigvalsh(tall.mT @ tall)
        if squares[0] > _RESOLVED * squares[-1]:
            return squares.sqrt().flip(0)
    return torch.linalg.svdvals(tall)
