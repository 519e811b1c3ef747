"""What a tensor's channels come to together: the sums behind every number of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sigprop.registry import Registry

Array = npt.NDArray[np.float64]

#: Below this a sum of powers has left float64's range, or lost digits to it.
SMALLEST = 1e-290


@dataclass(frozen=True)
class Pooled:
    """Sums over all channels, one value a tensor; each of shape (T,).

    Attributes:
        elements: how many there are, finite or not.
        samples: how many are finite.
        zeros: how many are 0.
        max_abs: the largest finite magnitude.
        mean: over the finite ones; 0 where there are none.
        within: Σ (x - its channel's mean)².
        between: Σ (its channel's mean)².
        m2: Σ (x - mean)².
        m4: Σ (x - mean)⁴.
    """

    elements: Array
    samples: Array
    zeros: Array
    max_abs: Array
    mean: Array
    within: Array
    between: Array
    m2: Array
    m4: Array

    def take(self, tensors: Sequence[int]) -> Pooled:
        """Return the sums of the tensors with these indices."""
        return Pooled(*(numbers[tensors] for numbers in vars(self).values()))

    def scaled(self, factor: npt.ArrayLike) -> Pooled:
        """Return the sums over tensors multiplied by positive factors, one or one a tensor."""
        f = np.asarray(factor, dtype=np.float64)
        f2 = f * f
        return Pooled(
            self.elements,
            self.samples,
            self.zeros,
            self.max_abs * f,
            self.mean * f,
            self.within * f2,
            self.between * f2,
            self.m2 * f2,
            self.m4 * f2 * f2,
        )

    def average(self, sums: Array) -> Array:
        """Return sums over the finite samples as means, NaN without any."""
        return sums / np.where(self.samples > 0, self.samples, np.nan)

    def average_square(self, sums: Array) -> Array:
        """Return sums of squares as means, NaN also where squares leave float64's range."""
        lost = (self.max_abs > 0) & (self.max_abs < SMALLEST**0.5)
        return np.where(lost, np.nan, self.average(sums))


Quantity = Callable[[Pooled], Array]

#: The columns of the `signals` frame that follow from one tensor alone.
QUANTITIES: Registry[Quantity] = Registry("metric")


@QUANTITIES.register("mean")
def mean(pooled: Pooled) -> Array:
    """Return the mean over everything; NaN without samples."""
    return pooled.average(pooled.samples * pooled.mean)


@QUANTITIES.register("second_moment")
def second_moment(pooled: Pooled) -> Array:
    """Return the mean of x² over everything; NaN without samples."""
    return pooled.average_square(pooled.within + pooled.between)


@QUANTITIES.register("channel_variance")
def channel_variance(pooled: Pooled) -> Array:
    """Return the mean over channels of the biased variance; NaN without samples.

    With unequal counts (non-finite values left out) channels weigh by their counts, so that
    ``second_moment = channel_variance + mean_shift`` stays an identity.
    """
    return pooled.average_square(pooled.within)


@QUANTITIES.register("mean_shift")
def mean_shift(pooled: Pooled) -> Array:
    """Return the mean over channels of the squared channel mean; NaN without samples."""
    return pooled.average_square(pooled.between)


@QUANTITIES.register("kurtosis")
def kurtosis(pooled: Pooled) -> Array:
    """Return E[(x-μ)⁴]/σ⁴ over everything, 3 for a Gaussian; NaN for a constant.

    NaN also where fourth powers leave float64's range: σ beyond 1e±72.
    """
    known = (pooled.m2 > 0) & (pooled.m4 > SMALLEST) & (pooled.m4 < np.inf)
    m2 = np.where(known, pooled.m2, np.nan)
    # (m4/m2)/m2 and not m4/m2²: the square may leave the range where m4 itself does not.
    return pooled.m4 / m2 / m2 * pooled.samples


@QUANTITIES.register("zero_fraction")
def zero_fraction(pooled: Pooled) -> Array:
    """Return the share of elements equal to 0."""
    return pooled.zeros / pooled.elements


@QUANTITIES.register("max_abs")
def max_abs(pooled: Pooled) -> Array:
    """Return the largest finite magnitude; NaN when nothing is finite."""
    return np.where(pooled.samples > 0, pooled.max_abs, np.nan)
