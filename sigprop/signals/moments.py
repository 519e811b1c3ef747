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
        >>> a.channel_variance, a.mean_shift, a.second_moment
        (2.5, 4.0, 6.5)
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

    def scaled(self, factor: float) -> Moments:
        """Return the moments of the samples multiplied by ``factor``."""
        return Moments(
            self.count,
            self.mean * factor,
            *(m * factor**p for p, m in ((2, self.m2), (3, self.m3), (4, self.m4))),
        )

    def pooled(self) -> Moments:
        """Return the moments of all channels taken as one, shape (1,)."""
        n = np.maximum(self.count.sum(keepdims=True), 1.0)
        mean = (self.count * self.mean).sum(keepdims=True) / n
        d = self.mean - mean
        return Moments(
            self.count.sum(keepdims=True),
            mean,
            (self.m2 + self.count * d**2).sum(keepdims=True),
            (self.m3 + 3 * d * self.m2 + self.count * d**3).sum(keepdims=True),
            (self.m4 + 4 * d * self.m3 + 6 * d**2 * self.m2 + self.count * d**4).sum(keepdims=True),
        )

    @property
    def samples(self) -> float:
        """Finite samples over all channels."""
        return float(self.count.sum())

    @property
    def channel_variance(self) -> float:
        """Mean over channels of the biased variance; NaN without samples.

        With unequal counts (non-finite values left out) channels weigh by their counts, so that
        ``second_moment = channel_variance + mean_shift`` stays an identity.
        """
        return self._average(self.m2)

    @property
    def mean_shift(self) -> float:
        """Mean over channels of the squared channel mean; NaN without samples."""
        return self._average(self.count * self.mean**2)

    @property
    def second_moment(self) -> float:
        """Mean of x² over everything; NaN without samples."""
        return self._average(self.m2 + self.count * self.mean**2)

    @property
    def grand_mean(self) -> float:
        """Mean over everything; NaN without samples."""
        return self._average(self.count * self.mean)

    @property
    def kurtosis(self) -> float:
        """E[(x-μ)⁴]/σ⁴ over the layer, 3 for a Gaussian; NaN for a constant."""
        layer = self.pooled()
        m2, m4 = float(layer.m2[0]), float(layer.m4[0])
        # (m4/m2)/m2 and not m4/m2²: the square leaves float64's range at σ = 1e80.
        return m4 / m2 / m2 * self.samples if m2 > 0 else float("nan")

    def _average(self, sums: Array) -> float:
        return float(sums.sum() / self.samples) if self.samples else float("nan")
