"""Singular values of a product of matrices, and of the layers of a deep linear net."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.spectra.log_product import LogProduct
from sigprop.spectra.of_weights import matrices as matrices_of
from sigprop.spectra.rows import Columns, frame, spectrum

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]
Estimator = Literal["finite", "svd", "lyapunov"]


def product(
    matrices: nn.Module | Iterable[Tensor | npt.ArrayLike],
    estimator: Estimator = "finite",
    *,
    name: str = "product",
) -> pd.DataFrame:
    """Return the singular values of W_M ... W_2 W_1.

    Three numbers go by this name, and the frame's ``operator`` says which one it holds:

    - ``"finite"`` (``product:finite``): the values of this product, accumulated in log space, each
      to its own precision however far it lies below the largest;
    - ``"svd"`` (``product:svd``): the product is multiplied out in float64 and decomposed. Values
      below about 1e-16 of the largest are rounding, and are flagged in ``beyond_float64``;
    - ``"lyapunov"`` (``product:lyapunov``): the mean of ln |R_ii| over the QR factors of
      W_1, W_2 Q_1, ..., the stretch of one factor, e^{μ_i}; it tends to the Lyapunov exponents μ_i
      as M grows (Benettin et al. 1980; for Gaussian factors `sigprop.theory.lyapunov_exponents`).

    Args:
        matrices: W_1, W_2, ... of shapes (n_1, n_0), (n_2, n_1), ..., each used once, in order; or
            a model whose weights are all matrices that fit each other in this way.
        estimator: which of the three.
        name: the name in the frame.

    Returns:
        A `spectra` frame with min(n_M, n_0) rows, largest first. Read ``log_singular_value``: the
        value itself may be 0 or infinite where float64 ends.

    Raises:
        UnknownName: no such estimator.
        BadInput: there is no matrix, one is not finite or does not fit the one before it, or, for
            Lyapunov exponents, one is not square.

    Example:
        >>> tiny = np.diag([1.0, 1e-3])
        >>> product([tiny] * 200)["log_singular_value"].round(3).tolist()
        [0.0, -1381.551]
    """
    if estimator not in get_args(Estimator):
        known = suggestion(str(estimator), get_args(Estimator))
        raise UnknownName(f"no estimator of products is called {estimator!r}; {known}")
    found = _given(matrices)
    if estimator == "svd":
        return frame([_multiplied_out(found, name)])
    return frame([_accumulated(found, name, estimator)])


def _given(matrices: nn.Module | Iterable[Tensor | npt.ArrayLike]) -> Iterator[Array]:
    """Yield the factors as float64 arrays, each checked against the one before it.

    Raises:
        BadInput: there is none, or one cannot be multiplied.
    """
    if isinstance(matrices, nn.Module):
        named: Iterable[tuple[str, object]] = matrices_of(matrices)
    else:
        named = ((f"matrix {i}", matrix) for i, matrix in enumerate(matrices, 1))
    before: tuple[str, tuple[int, ...]] | None = None
    for name, matrix in named:
        array = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else matrix
        factor = np.asarray(array, dtype=np.float64)
        if factor.ndim != 2 or 0 in factor.shape:
            raise BadInput(
                f"{name} of shape {factor.shape} is no matrix; for convolutions and what lies "
                "between layers, see sigprop.spectra.jacobian"
            )
        if before is not None and factor.shape[1] != before[1][0]:
            raise BadInput(
                f"{name} of shape {factor.shape} takes {factor.shape[1]} inputs, and {before[0]} "
                f"of shape {before[1]} has {before[1][0]} outputs; a product needs them to agree"
            )
        if not np.isfinite(factor).all():
            raise BadInput(f"{name} of shape {factor.shape} holds non-finite values")
        before = name, factor.shape
        yield factor
    if before is None:
        raise BadInput("a product needs at least one matrix, and there is none")


def _multiplied_out(factors: Iterator[Array], name: str) -> Columns:
    whole: Array = next(factors)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for factor in factors:
            whole = factor @ whole
    size = min(whole.shape)
    if not np.isfinite(whole).all():
        return spectrum(name, "product:svd", np.full(size, np.nan), beyond=True)
    values = np.linalg.svd(whole, compute_uv=False)
    lost = values <= max(whole.shape) * np.finfo(float).eps * values[0]
    return spectrum(name, "product:svd", values, beyond=lost)


def _accumulated(factors: Iterator[Array], name: str, estimator: Estimator) -> Columns:
    first = next(factors)
    columns = first.shape[1]
    whole = LogProduct(columns)
    rows = columns
    for factor in _chained(first, factors):
        rows = factor.shape[0]
        if estimator == "lyapunov" and rows != factor.shape[1]:
            raise BadInput(
                f"Lyapunov exponents are of square matrices; one of shape {factor.shape} is not: "
                "take estimator='finite'"
            )
        whole.multiply(factor)
    if estimator == "lyapunov":
        logs = np.sort(whole.growth / whole.factors)[::-1]
        beyond = np.zeros(len(logs), dtype=bool)
    else:
        logs, beyond = whole.values()
    size = min(rows, columns)
    logs = np.append(logs, np.full(size - len(logs), -np.inf))  # a narrow factor: the rest is 0
    beyond = np.append(beyond, np.zeros(size - len(beyond), dtype=bool))
    with np.errstate(over="ignore", under="ignore"):
        values = np.exp(logs)
    outside = (values == 0) & np.isfinite(logs) | np.isinf(values)
    return spectrum(name, f"product:{estimator}", values, logarithms=logs, beyond=beyond | outside)


def _chained(first: Array, rest: Iterator[Array]) -> Iterator[Array]:
    yield first
    yield from rest
