"""Per-channel central moments on the host: exact merging, pooling, and the numbers they give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Where groups of channels begin when all of them are one group.
WHOLE: npt.NDArray[np.intp] = np.zeros(1, dtype=np.intp)


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

    def scaled(self, factor: float | Array) -> Moments:
        """Return the moments of the samples multiplied by ``factor``, one or one a channel."""
        return Moments(
            self.count,
            self.mean * factor,
            *(m * factor**p for p, m in ((2, self.m2), (3, self.m3), (4, self.m4))),
        )

    def join(self, other: Moments) -> Moments:
        """Return the channels of both, the other's after these."""
        return Moments(*map(np.append, vars(self).values(), vars(other).values()))

    def take(self, channels: npt.NDArray[np.intp]) -> Moments:
        """Return the moments of the channels with these indices."""
        return Moments(*(numbers[channels] for numbers in vars(self).values()))

    def pooled(self, starts: npt.NDArray[np.intp] = WHOLE) -> Moments:
        """Return the moments of each group of channels taken as one, shape (len(starts),).

        Args:
            starts: where each group begins; by default all channels are one group.
        """

        def add(numbers: Array) -> Array:
            return np.add.reduceat(numbers, starts)

        n = add(self.count)
        mean = add(self.count * self.mean) / np.maximum(n, 1.0)
        d = self.mean - np.repeat(mean, np.diff(starts, append=len(self.mean)))
        d2 = d * d  # higher powers from products: numpy's own take a hundred times as long
        return Moments(
            n,
            mean,
            add(self.m2 + self.count * d2),
            add(self.m3 + d * (3 * self.m2 + self.count * d2)),
            add(self.m4 + 4 * d * self.m3 + d2 * (6 * self.m2 + self.count * d2)),
        )

    def channel_variances(self, starts: npt.NDArray[np.intp] = WHOLE) -> Array:
        """Return the mean over each group's channels of the biased variance; NaN without samples.

        With unequal counts (non-finite values left out) channels weigh by their counts, so that
        ``second_moment = channel_variance + mean_shift`` stays an identity.
        """
        return self._averages(self.m2, starts)

    def mean_shifts(self, starts: npt.NDArray[np.intp] = WHOLE) -> Array:
        """Return the mean over each group's channels of the squared channel mean."""
        return self._averages(self.count * self.mean**2, starts)

    def second_moments(self, starts: npt.NDArray[np.intp] = WHOLE) -> Array:
        """Return the mean of x² over each group; NaN without samples."""
        return self._averages(self.m2 + self.count * self.mean**2, starts)

    def grand_means(self, starts: npt.NDArray[np.intp] = WHOLE) -> Array:
        """Return the mean over each group; NaN without samples."""
        return self._averages(self.count * self.mean, starts)

    def kurtoses(self, starts: npt.NDArray[np.intp] = WHOLE) -> Array:
        """Return E[(x-μ)⁴]/σ⁴ over each group, 3 for a Gaussian; NaN for a constant."""
        group = self.pooled(starts)
        m2 = np.where(group.m2 > 0, group.m2, np.nan)
        # (m4/m2)/m2 and not m4/m2²: the square leaves float64's range at σ = 1e80.
        return group.m4 / m2 / m2 * group.count

    @property
    def channel_variance(self) -> float:
        """Mean over all channels of the biased variance; see `channel_variances`."""
        return float(self.channel_variances()[0])

    @property
    def mean_shift(self) -> float:
        """Mean over all channels of the squared channel mean; see `mean_shifts`."""
        return float(self.mean_shifts()[0])

    @property
    def second_moment(self) -> float:
        """Mean of x² over everything; see `second_moments`."""
        return float(self.second_moments()[0])

    @property
    def grand_mean(self) -> float:
        """Mean over everything; see `grand_means`."""
        return float(self.grand_means()[0])

    @property
    def kurtosis(self) -> float:
        """E[(x-μ)⁴]/σ⁴ over everything; see `kurtoses`."""
        return float(self.kurtoses()[0])

    def _averages(self, sums: Array, starts: npt.NDArray[np.intp]) -> Array:
        samples = np.add.reduceat(self.count, starts)
        return np.add.reduceat(sums, starts) / np.where(samples > 0, samples, np.nan)
