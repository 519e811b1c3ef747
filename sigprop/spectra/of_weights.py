"""Singular values of weights, each as the matrix of its output units by all else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprop.capture.model.naming import parameters
from sigprop.errors import BadInput
from sigprop.linear_operators import Extremes, Operator, largest_singular_values
from sigprop.signals.spectra import singular_values, weight_matrix
from sigprop.spectra.rows import Columns, frame, spectrum

if TYPE_CHECKING:
    import pandas as pd

#: Matrices with fewer rows or columns are decomposed whole, which is then faster than iterations;
#: one at least twice as long as wide, whose Gram matrix is small, up to twice as many.
_LARGE = 1000


def weights(model: nn.Module, k: int | None = None) -> pd.DataFrame:
    """Return the singular values of every weight with two axes or more.

    A kernel of shape (out, in, kh, kw) is read as the matrix (out, in·kh·kw); as the map of images
    that it is, see `sigprop.spectra.convolution`.

    Args:
        model: any module; where its weights are spread over ranks, every rank calls this.
        k: only the k largest of each weight, by Lanczos' iteration where the weight is large; all
            of a weight that has fewer.

    Returns:
        A `spectra` frame with ``operator="matrix"``.

    Raises:
        BadInput: the model has no such weight, one that is not finite, or none with k values.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
        >>> weights(layer)["singular_value"].tolist()
        [4.0, 3.0]
    """
    found = dict(matrices(model))
    if not found:
        raise BadInput(
            f"this {type(model).__name__} has no weight with two axes or more, so there is no "
            "matrix to decompose"
        )
    for name, weight in found.items():
        check_finite(name, weight)
    if k is not None:
        largest = max(_size(weight) for weight in found.values())
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= largest:
            raise BadInput(
                f"k is a whole number from 1 to {largest}, the most values of a weight here, "
                f"not {k!r}"
            )
    return frame(
        spectrum(name, "matrix", largest_values(name, weight, k).values, size=_size(weight))
        for name, weight in found.items()
    )


def weight_rows(model: nn.Module) -> Iterator[tuple[Columns, int]]:
    """Yield (columns, rows) of every weight, for a probe; NaN where a weight is not finite."""
    for name, weight in matrices(model):
        columns = spectrum(name, "matrix", singular_values(weight).numpy())
        yield columns, len(columns["index"])


def matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, weight) of every parameter with two axes or more and numbers in it."""
    for name, parameter in parameters(model):
        if is_lazy(parameter) or parameter.is_meta or not parameter.is_floating_point():
            continue
        if parameter.ndim >= 2 and parameter.numel():
            yield name, _gathered(parameter.detach())


def _gathered(x: Tensor) -> Tensor:
    """Return a tensor that is spread over ranks put together: a collective, called on all of them.

    The singular values of parts do not give those of the whole.
    """
    gather = getattr(x, "full_tensor", None)
    return x if gather is None else gather()


def check_finite(name: str, weight: Tensor) -> None:
    """Raise for a weight that holds NaN or infinity.

    Args:
        name: the parameter's name.
        weight: its value.

    Raises:
        BadInput: it is not finite.
    """
    bad = int((~weight.isfinite()).sum())
    if bad:
        raise BadInput(
            f"{name} of shape {tuple(weight.shape)} holds {bad} non-finite values of "
            f"{weight.numel()}, so it has no singular values"
        )


def largest_values(
    name: str, weight: Tensor, k: int | None, start: np.ndarray | None = None
) -> Extremes:
    """Return the k largest singular values of a weight as a matrix, all where k is None.

    Args:
        name: the parameter's name.
        weight: shape (out, in, ...).
        k: how many; a weight that has fewer gives all.
        start: where the iteration starts, from `Extremes.start` of nearly the same weight.

    Returns:
        The values, and their vectors; no vectors where the matrix was decomposed whole.
    """
    size = _size(weight)
    long = weight.numel() >= 2 * size**2
    if k is None or size < (2 * _LARGE if long else _LARGE) or k > size // 10:
        values = singular_values(weight).numpy()[:k]
        return Extremes(values, np.zeros((0, 0)))
    matrix = weight_matrix(weight).to("cpu", torch.float64)
    shape = (matrix.shape[0], matrix.shape[1])
    operator = Operator(name, shape, matrix.mv, matrix.mT.mv, torch.float64)
    return largest_singular_values(operator, k, start=start)


def _size(weight: Tensor) -> int:
    return min(weight.shape[0], weight.shape[1:].numel())
