"""The largest eigenvalues and singular values of a linear map, by ARPACK's restarted Lanczos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from sigprop.errors import BadInput
from sigprop.inputs.devices import normal
from sigprop.linear_operators.operator import Operator

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Array = npt.NDArray[np.float64]
By = Literal["magnitude", "algebraic"]

#: Below so many rows a symmetric map is written out: LAPACK is then faster than iterations.
_SMALL = 64

#: ARPACK's stopping rule, relative to an eigenvalue: a bound of its error, and mostly far above it.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-6}


@dataclass(frozen=True)
class Extremes:
    """The largest values of a linear map.

    Attributes:
        values: largest first, shape (k,).
        vectors: of an eigenvector each, shape (n, k); of a map that is not symmetric those of its
            smaller side.
    """

    values: Array
    vectors: Array

    @property
    def start(self) -> Array:
        """A vector to start from when the map has changed a little, shape (n,)."""
        return np.asarray(self.vectors.sum(axis=1))


def check_count(k: object, most: int, name: str) -> int:
    """Return k, the number of values that are asked for.

    Args:
        k: as it was given.
        most: how many there are.
        name: of the linear map, for the error.

    Raises:
        BadInput: it is no whole number from 1 to ``most``.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise BadInput(f"{name} has {most} values; k is a whole number from 1 to {most}, not {k!r}")
    return k


def largest_eigenvalues(
    operator: Operator, k: int = 1, *, by: By = "magnitude", start: Array | None = None
) -> Extremes:
    """Return the k largest eigenvalues of a symmetric map, and their eigenvectors.

    Args:
        operator: a symmetric map of shape (n, n).
        k: how many.
        by: ``"magnitude"`` for the largest |λ|, ``"algebraic"`` for the largest λ.
        start: where the iteration starts, shape (n,): `Extremes.start` of a map that was nearly
            the same. A fixed random vector where it is not given.

    Returns:
        The eigenvalues in the order asked for.

    Raises:
        BadInput: k is more than there are, the map gives numbers that are not finite, or the
            iteration does not converge.

    Example:
        >>> d = torch.tensor([3.0, -5.0, 1.0])
        >>> largest_eigenvalues(Operator("d", (3, 3), lambda v: d * v), 2).values.round(6).tolist()
        [-5.0, 3.0]
    """
    size = operator.shape[0]
    check_count(k, size, operator.name)
    if size <= _SMALL or k >= size - 1:
        matrix = operator.dense().to("cpu", torch.float64).numpy()
        _check_finite(matrix, operator)
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    else:
        values, vectors = _iterate(operator, k, "LM" if by == "magnitude" else "LA", start)
    order = np.argsort(-(np.abs(values) if by == "magnitude" else values), kind="stable")[:k]
    return Extremes(values[order], vectors[:, order])


def _iterate(
    operator: Operator, k: int, which: Literal["LM", "LA"], start: Array | None
) -> tuple[Array, Array]:
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    size = operator.shape[0]
    tolerance = _TOLERANCE.get(operator.dtype, 1e-3)
    first = normal((size,), seed=0).double().numpy() if start is None else start
    linear: LinearOperator = operator.scipy()
    _check_finite(linear.matvec(first), operator)
    try:
        values, vectors = eigsh(
            linear, k, which=which, v0=first, ncv=min(size, max(4 * k, 40)), tol=tolerance
        )
    except ArpackNoConvergence as error:
        raise BadInput(
            f"{len(error.eigenvalues)} of the {k} largest values of {operator.name} converged; "
            "ask for fewer, or compute in float64"
        ) from error
    return values, vectors


def _check_finite(numbers: Array, operator: Operator) -> None:
    if not np.isfinite(numbers).all():
        raise BadInput(f"{operator.name} holds numbers that are not finite, so it has no spectrum")


def largest_singular_values(
    operator: Operator, k: int = 1, *, start: Array | None = None
) -> Extremes:
    """Return the k largest singular values: square roots of eigenvalues of A Aᵀ or Aᵀ A.

    Args:
        operator: of shape (m, n).
        k: how many.
        start: as in `largest_eigenvalues`, of shape (min(m, n),).

    Returns:
        Singular values, largest first, and the singular vectors of the smaller side.

    Raises:
        BadInput: k is more than there are, the map gives numbers that are not finite, or the
            iteration does not converge.

    Example:
        >>> a = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
        >>> largest_singular_values(Operator("a", (2, 3), a.mv, a.T.mv)).values.round(6).tolist()
        [2.0]
    """
    squares = largest_eigenvalues(operator.gram(), k, by="algebraic", start=start)
    return Extremes(np.sqrt(np.maximum(squares.values, 0)), squares.vectors)
