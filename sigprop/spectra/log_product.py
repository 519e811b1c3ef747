"""A product of many matrices in the form U D T, with the scales D kept as logarithms.

U has orthonormal columns, D is diagonal and T well conditioned, so that no value is lost to the
rounding of larger ones (Loh et al. 1989, as in determinant quantum Monte Carlo).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Natural logarithm of the ratio that float64 holds with its full precision, with some to spare.
_SPAN = 600.0


class LogProduct:
    """The product of the matrices given so far, the last on the left.

    Args:
        columns: of the first matrix.

    Attributes:
        growth: Σ ln |R_ii| over the factors, which tends to factors times the Lyapunov exponents.
        factors: how many.
    """

    def __init__(self, columns: int) -> None:
        self._basis: Array = np.eye(columns)
        self._logs: Array = np.zeros(columns)
        self._rest: Array = np.eye(columns)
        self._orbit: Array = np.eye(columns)
        self._lost = np.zeros(columns, dtype=bool)
        self.growth: Array = np.zeros(columns)
        self.factors = 0

    def multiply(self, matrix: Array) -> None:
        """Multiply by a matrix from the left.

        Args:
            matrix: of shape (m, rows so far).
        """
        self.factors += 1
        self._orbit, triangle = np.linalg.qr(matrix @ self._orbit)
        with np.errstate(divide="ignore"):
            steps = np.log(np.abs(np.diag(triangle)))
        self.growth = self.growth[: len(steps)] + steps
        order = np.argsort(-self._logs, kind="stable")
        logs = self._logs[order]
        self._basis, triangle = np.linalg.qr(matrix @ self._basis[:, order])
        rank = len(triangle)
        heights = np.abs(np.diag(triangle))
        eps = np.finfo(float).eps * max(matrix.shape)
        self._lost = self._lost[order][:rank] | (heights <= eps * np.abs(triangle).max())
        divisor = np.where(heights > 0, heights, 1.0)[:, None]
        with np.errstate(invalid="ignore"):  # -inf - -inf of scales that are 0
            ratios = np.exp(np.minimum(logs[None, :] - logs[:rank, None], 0))
        above = np.triu(triangle / divisor * np.nan_to_num(ratios, nan=0.0))
        above[heights == 0, :] = 0
        above[np.arange(rank), np.arange(rank)] = np.sign(np.diag(triangle)) + (heights == 0)
        self._rest = above @ self._rest[order]
        with np.errstate(divide="ignore"):
            self._logs = logs[:rank] + np.log(heights)

    def values(self) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return the logarithms of the singular values, largest first, and where float64 ends.

        D T is decomposed by one-sided Jacobi rotations, which find each value to the relative
        precision that the scales D have (Drmač & Veselić 2008). Scales more than e^600 below the
        largest do not fit into one float64 matrix; their values are read from the triangular
        factor of T, which is what they tend to as their ratios grow.

        Returns:
            Shape (r,) each, r the fewest rows or columns of any factor.
        """
        order = np.argsort(-self._logs, kind="stable")
        logs, rest, lost = self._logs[order], self._rest[order], self._lost[order]
        if not len(logs) or not np.isfinite(logs[0]):
            return logs, lost
        lower = np.linalg.qr(rest.T)[1].T  # T = L Q
        inside = logs > logs[0] - _SPAN
        count = int(inside.sum())
        with np.errstate(divide="ignore"):
            found = logs + np.log(np.abs(np.diag(lower)))
            scaled = (np.exp(logs[:count] - logs[0])[:, None] * lower[:count, :count]).T
            found[:count] = np.log(_jacobi(scaled)) + logs[0]
        beyond = lost | ~inside
        order = np.argsort(-found, kind="stable")
        return found[order], beyond[order]


def _jacobi(matrix: Array) -> Array:
    """Return the singular values of a square matrix whose columns have very different lengths."""
    from scipy.linalg.lapack import dgejsv

    # joba 0: precision relative to each column; jobu, jobv 3: no vectors; jobr 0: full range
    values, _, _, work, _, info = dgejsv(matrix, joba=0, jobu=3, jobv=3, jobr=0, jobp=0)
    if info != 0:
        return np.asarray(np.linalg.svd(matrix, compute_uv=False))
    return np.asarray(values * (work[0] / work[1]))
