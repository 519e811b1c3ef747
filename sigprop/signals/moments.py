"""Per-channel central moments on the host: exact merging, pooling, and the numbers they give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Counts, means and central power sums of C channels, in float64.

    ``m2``, ``m3``, ``m4`` are the sums of (x - mean)^p over a channel's finite samples. Two
    disjoint sets of samples merge exactly (Pébay 2008, "Formulas for robust, one-pass parallel
    computation of covariances and arbitrary-order statistical moments").

    Attributes:
        count: samples per channel, shape (C,).
        mean: mean per channel, shape (C,); 0 where a channel has no samples.
        m2: sum of squared deviations, shape (C,).
        m3: sum of cubed deviations, shape (C,).
        m4: sum of fourth powers of deviations, shape (C,).

    Example:
        >>> a = Moments.of(np.array([[1.0, 3.0], [0.0, 4.0]]))
        >>> a.mean, a.m2
        (array([2., 2.]), array([2., 8.]))
    """

    count: Array
    mean: Array
    m2: Array
    m3: Array
    m4: Array

    @classmethod
    def of(cls, rows: npt.ArrayLike) -> Moments:
        """Return the moments of ``rows``, shape (C, n): one channel a row, all finite."""
        x = np.asarray(rows, dtype=np.float64)
        mean = x.mean(axis=1)
        d = x - mean[:, None]
        return cls(
            np.full(len(x), float(x.shape[1])),
            mean,
            *(np.asarray((d**p).sum(axis=1)) for p in (2, 3, 4)),
        )

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of samples together; channel counts must agree."""
        na, nb = self.count, other.count
        n = np.maximum(na + nb, 1.0)  # an empty channel has all sums 0, so any divisor will do
        delta = other.mean - self.mean
        a, b = na / n, nb / n
        return Moments(
            na + nb,
            self.mean + delta * b,
            self.m2 + other.m2 + delta**2 * na * b,
            self.m3
            + other.m3
            + delta**3 * na * b * (a - b)
            + 3 * delta * (a * other.m2 - b * self.m2),
            self.m4
            + other.m4
            + delta**4 * na * b * (a * a - a * b + b * b)
            + 6 * delta**2 * (a * a * other.m2 + b * b * self.m2)
            + 4 * delta * (a * other.m3 - b * self.m3),
        )

    def about(self, center: Array) -> tuple[Array, Array, Array]:
        """Return the sums of (x - center)^p for p = 2, 3, 4.

        Sums about one center add over disjoint sets of samples.

        Args:
            center: one number a channel, shape (C,).

        Example:
            >>> Moments.of(np.array([[1.0, 3.0]])).about(np.array([1.0]))
            (array([4.]), array([8.]), array([16.]))
        """
        n, d = self.count, self.mean - center
        d2 = d * d
        return (
            self.m2 + n * d2,
            self.m3 + d * (3 * self.m2 + n * d2),
            self.m4 + d * (4 * self.m3) + d2 * (6 * self.m2 + n * d2),
        )
