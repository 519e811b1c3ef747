"""Linear regression, where everything is known: each error component shrinks by 1 - eta lambda."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sigprop.curvature.hessian import Array
from sigprop.errors import BadInput


@dataclass(frozen=True)
class Regression:
    """Gradient descent on ‖X w - y‖²/(2N), in the eigenvectors of its Hessian X^T X/N.

    Attributes:
        eigenvalues: lambda_i of the Hessian, largest first, shape (n,).
        rate: eta.
        table: a row per step and eigenvalue: ``step, index, eigenvalue, measured, predicted``; the
            last two are the component of w_t - w* along eigenvector i over that of w_0 - w*, as
            gradient descent gives it and as (1 - eta lambda_i)^t.
        loss: of each step above the least one, shape (steps + 1,).
    """

    eigenvalues: Array
    rate: float
    table: pd.DataFrame
    loss: Array

    @property
    def condition_number(self) -> float:
        """Largest over smallest eigenvalue: how many steps the slowest direction needs."""
        return float(self.eigenvalues[0] / self.eigenvalues[-1])


def linear_regression(
    inputs: npt.ArrayLike,
    targets: npt.ArrayLike,
    rate: float | None = None,
    steps: int = 50,
    whiten: bool = False,
) -> Regression:
    """Run gradient descent from w = 0 and follow it along every eigenvector of the Hessian.

    Args:
        inputs: X, shape (N, n), of full column rank.
        targets: y, shape (N,).
        rate: eta; 1/lambda_max when not given.
        steps: of gradient descent.
        whiten: replace X by `whitened` inputs, whose Hessian is the identity.

    Returns:
        Eigenvalues, and measured beside predicted shrinkage.

    Raises:
        BadInput: shapes that do not fit, values that are not finite, too few samples, a rank below
            n, or a rate or number of steps that is not positive.

    Source: LeCun, Kanter & Solla 1991; the quadratic picture of every text on optimization.

    Example:
        >>> made = linear_regression([[2.0, 0.0], [0.0, 1.0]], [1.0, 1.0], steps=3)
        >>> made.eigenvalues.tolist(), made.condition_number
        ([2.0, 0.5], 4.0)
        >>> made.table.query("index == 1 and step == 3")[["measured", "predicted"]].values.tolist()
        [[0.421875, 0.421875]]
    """
    x, y = _checked(inputs, targets)
    if whiten:
        x = whitened(x)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    values, vectors = values[::-1], vectors[:, ::-1]
    if not values[-1] > 1e-12 * values[0]:
        raise BadInput(
            f"the inputs have rank {int((values > 1e-12 * values[0]).sum())} of {len(values)}: a "
            "direction without curvature has no minimum; leave out constant or repeated columns"
        )
    eta = 1 / float(values[0]) if rate is None else float(rate)
    if not eta > 0 or steps < 1:
        raise BadInput(f"rate and steps are positive, got rate={eta!r}, steps={steps!r}")
    best = np.linalg.solve(x.T @ x, x.T @ y)
    w = np.zeros_like(best)
    rows, losses = [], []
    for _ in range(steps + 1):
        rows.append(vectors.T @ (w - best))
        losses.append(0.5 * float(np.mean((x @ (w - best)) ** 2)))
        w = w - eta * (x.T @ (x @ w - y)) / len(x)
    return Regression(values, eta, _shrinkage(np.array(rows), values, eta), np.array(losses))


def whitened(inputs: npt.ArrayLike) -> Array:
    """Return X (X^T X/N)^(-1/2), whose second moment is the identity (ZCA whitening, uncentered).

    Args:
        inputs: X, shape (N, n), of full column rank.
    """
    x = np.asarray(inputs, dtype=np.float64)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    return np.asarray(x @ (vectors / np.sqrt(values)) @ vectors.T)


def _shrinkage(components: Array, values: Array, eta: float) -> pd.DataFrame:
    steps, count = components.shape
    step, index = np.divmod(np.arange(steps * count), count)
    with np.errstate(invalid="ignore", divide="ignore"):  # a start without this component: NaN
        measured = components / components[0]
    return pd.DataFrame(
        {
            "step": step,
            "index": index,
            "eigenvalue": values[index],
            "measured": measured.reshape(-1),
            "predicted": (1 - eta * values[index]) ** step,
        }
    )


def _checked(inputs: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(inputs, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise BadInput(f"inputs are (N, n) and targets (N,), got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadInput("inputs and targets must be finite")
    if len(x) < x.shape[1]:
        raise BadInput(f"{len(x)} samples do not determine {x.shape[1]} weights")
    return x, y
