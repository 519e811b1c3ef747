"""The second-order statistics of a batch, and of its gradient: expectations over the weights.

A batch has N samples of T positions each (T = 1 for vectors). ``same`` holds E x_p x_p' of one
sample, ``other`` that of two samples; both are matrices over positions. Where positions are
exchangeable (tokens, a map without borders), two of them stand for all T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sigprop.errors import BadInput
from sigprop.theory.activations import Array
from sigprop.theory.arguments import non_negative, number, sample_count, whole


class Kernel:
    """The second-order statistics of a layer's values over a batch.

    Args:
        second_moment: q = E x_i^2.
        covariance: p = E x_i x_j of two different samples (not centered).
        mean: m, the mean over channels of one sample (0 after a weight layer).
        samples: all samples and positions of a channel, N T; infinite for a population.
        gaussian: whether values are Gaussian over channels (false right after an activation).
        positions: T, exchangeable ones; `Kernel.on_map` is for a map with borders.
        within: covariance of two positions of one sample; that of two samples when left out.

    Attributes:
        same: E x_p x_p' of one sample, shape (R, R), R = 1, 2 (exchangeable) or T.
        other: likewise of two samples.
        means: m at each position, shape (R,).
        excess: kurtosis of a value over channels, minus 3.
        grid: height and width of a map whose positions are all kept; None for exchangeable ones.

    Raises:
        BadInput: a negative q, abs(p) above q, fewer than 1 sample.

    Example:
        >>> k = Kernel(2.0, 0.5, samples=4)
        >>> k.channel_variance, k.mean_shift, k.channel_variance + k.mean_shift
        (1.125, 0.875, 2.0)
    """

    same: Array
    other: Array
    means: Array
    samples: float
    positions: int
    gaussian: bool
    excess: float
    grid: tuple[int, int] | None

    def __init__(
        self,
        second_moment: float = 1.0,
        covariance: float = 0.0,
        mean: float = 0.0,
        samples: float = math.inf,
        gaussian: bool = True,
        *,
        positions: int = 1,
        within: float | None = None,
    ) -> None:
        q, p = non_negative("second_moment", second_moment), number("covariance", covariance)
        w = p if within is None else number("within", within)
        for name, value in (("covariance", p), ("within", w)):
            if abs(value) > q * (1 + 1e-9) + 1e-300:
                raise BadInput(
                    f"{name} must lie within ±second_moment = {q:g}; got {float(value)!r}"
                )
        size = min(whole("positions", positions, 1), 2)
        self.same = spread(size, q, w)
        self.other = np.full((size, size), p)
        self.means = np.full(size, number("mean", mean))
        self.samples, self.positions = sample_count(samples), positions
        self.gaussian, self.excess, self.grid = gaussian, 0.0, None

    def on_map(self, grid: tuple[int, int], profile: npt.ArrayLike | None = None) -> Kernel:
        """Return this kernel on a map all of whose positions are kept apart.

        Args:
            grid: height and width; `samples` counts their positions already.
            profile: relative second moment at each position, of mean 1; all alike when left out.

        Returns:
            A kernel with the same second moment and mean shift.
        """
        count = grid[0] * grid[1]
        shape = np.ones(count) if profile is None else np.asarray(profile, dtype=np.float64)
        root = np.sqrt(shape)
        pairs = root[:, None] * root
        inputs = self.samples / count
        # what is shared by all pairs is such that the mean shift stays
        alone = 1 / self.samples
        total = float(pairs.mean())
        shared = (self.mean_shift - self.second_moment * alone) / (total - alone)
        same = np.where(np.eye(count, dtype=bool), self.second_moment * pairs, shared * pairs)
        return self._with(
            same=same,
            other=shared * pairs,
            means=self.mean * root,
            grid=grid,
            positions=count,
            samples=inputs * count,
        )

    def _with(self, **changes: Any) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update({**self.__dict__, **changes})
        return made

    @property
    def batch(self) -> float:
        """N, the number of samples of T positions each."""
        return self.samples / self.positions

    @property
    def variances(self) -> Array:
        """Second moments at each position, shape (R,)."""
        return np.diagonal(self.same)

    @property
    def second_moment(self) -> float:
        """q, the mean over positions of E x_i^2."""
        return float(self.variances.mean())

    @property
    def covariance(self) -> float:
        """p, the mean of E x_i x_j over the positions of two samples."""
        return self.average(self.other)

    @property
    def mean(self) -> float:
        """m, the mean over channels and positions."""
        return float(self.means.mean())

    @property
    def correlation(self) -> float:
        """The cosine c = p / q between two samples; 0 where q is 0."""
        if self.second_moment == 0:
            return 0.0
        return min(max(self.covariance / self.second_moment, -1.0), 1.0)

    @property
    def channel_variance(self) -> float:
        """The biased variance per channel over the batch: (q - p)(1 - 1/N) without positions."""
        return self.second_moment - self.mean_shift

    @property
    def mean_shift(self) -> float:
        """The squared batch mean per channel: p + (q - p)/N without positions."""
        return max(0.0, self.over_batch(self.average(self.same), self.average(self.other)))

    def over_batch(self, same: float, other: float) -> float:
        """Return the mean over all pairs of samples of a batch.

        Args:
            same: the number of a sample with itself.
            other: that of two samples.
        """
        return other + (same - other) / self.batch

    def row_means(self, matrix: Array) -> Array:
        """Return the mean of a matrix over the T positions of each row, shape (R,)."""
        if self.grid is not None or self.positions == 1:
            return np.asarray(matrix.mean(axis=1))
        own, apart = np.diagonal(matrix), np.diagonal(matrix[:, ::-1])
        return np.asarray((own + (self.positions - 1) * apart) / self.positions)

    def average(self, matrix: Array) -> float:
        """Return the mean of a matrix over all pairs of positions."""
        return float(self.row_means(matrix).mean())

    def scaled(self, factor: float) -> Self:
        """Return the kernel of ``factor`` times the values."""
        square = factor * factor
        return self._with(
            same=square * self.same, other=square * self.other, means=factor * self.means
        )

    def divided(self, variance: float) -> Self:
        """Return the kernel of the values over the square root of ``variance``."""
        root = math.sqrt(variance)
        return self._with(
            same=self.same / variance, other=self.other / variance, means=self.means / root
        )

    def centered(self) -> Self:
        """Return the kernel after each channel's batch mean is taken away.

        Without positions q becomes the channel variance and p becomes -(q - p)/N.

        Raises:
            BadInput: a single sample, of which nothing would be left.
        """
        if self.samples < 2:
            raise BadInput(f"centering a batch needs at least 2 samples; got {self.samples:g}")
        rows = self.row_means(self.other)
        rows = rows + (self.row_means(self.same) - rows) / self.batch
        taken = rows[:, None] + rows - rows.mean()
        return self._with(
            same=self.same - taken,
            other=self.other - taken,
            means=self.means - self.means.mean(),
        )

    def shifted(self, constant: float) -> Self:
        """Return the kernel of the values minus a constant."""
        taken = constant * (self.means[:, None] + self.means) - constant**2
        return self._with(
            same=self.same - taken, other=self.other - taken, means=self.means - constant
        )

    def plus(self, added: Self) -> Self:
        """Return the kernel of the sum of two values that only share their channel means."""
        cross = self.means[:, None] * added.means + added.means[:, None] * self.means
        return self._with(
            same=self.same + added.same + cross,
            other=self.other + added.other + cross,
            means=self.means + added.means,
            gaussian=self.gaussian and added.gaussian,
        )

    def changed(self, pairs: Callable[[Array], Array], means: Array | None = None) -> Self:
        """Return the kernel with a linear map of pairs of positions; Gaussian of mean 0 without.

        Args:
            pairs: of a matrix over positions, another one; applied to ``same`` and ``other``.
            means: the channel means afterwards, 0 when left out.
        """
        same, other = pairs(self.same), pairs(self.other)
        zero = np.zeros(len(same))
        return self._with(
            same=same,
            other=other,
            means=zero if means is None else means,
            gaussian=self.gaussian if means is not None else True,
            excess=self.excess if means is not None else 0.0,
        )

    def replaced(self, **changes: Any) -> Self:
        """Return the kernel with other attributes."""
        return self._with(**changes)


def spread(size: int, diagonal: float, elsewhere: float) -> Array:
    """Return a square matrix with one number on its diagonal and another elsewhere.

    Args:
        size: rows of the matrix.
        diagonal: the number on it.
        elsewhere: the other.
    """
    return np.where(np.eye(size, dtype=bool), float(diagonal), float(elsewhere))


class Gradient:
    """The gradient's kernel: G = E g_i^2 and H = E g_i g_j for two different samples.

    Args:
        second_moment: G.
        covariance: H.
        within: of two positions of one sample; H when left out, G behind a mean over positions.

    Attributes:
        same: E g_p g_p' of one sample, shape (R, R).
        other: likewise of two samples.
        aligned: E (x_p g_p)(x_p' g_p') of one sample and of two, x the values the gradient is of,
            where an activation has just been passed; None elsewhere.

    Example:
        >>> Gradient(2.0).scaled(3.0).second_moment
        6.0
    """

    same: Array
    other: Array
    aligned: tuple[Array, Array] | None

    def __init__(
        self, second_moment: float = 1.0, covariance: float = 0.0, within: float | None = None
    ) -> None:
        self._within = float(covariance if within is None else within)
        self.same = np.full((1, 1), float(second_moment))
        self.other = np.full((1, 1), float(covariance))
        self.aligned = None

    @classmethod
    def of(cls, same: Array, other: Array, aligned: tuple[Array, Array] | None = None) -> Gradient:
        """Return a gradient's kernel from its matrices over positions.

        Args:
            same: E g_p g_p' of one sample, shape (R, R).
            other: of two samples.
            aligned: see the attributes of the class.
        """
        made = cls()
        made.same, made.other, made.aligned = same, other, aligned
        return made

    def on(self, values: Kernel) -> Gradient:
        """Return the same moments over the positions of ``values``."""
        size = len(values.same)
        if len(self.same) == size:
            return self
        same = spread(size, self.second_moment, self._within)
        return Gradient.of(same, np.full((size, size), self.covariance))

    @property
    def second_moment(self) -> float:
        """G, the mean over positions."""
        return float(np.diagonal(self.same).mean())

    @property
    def covariance(self) -> float:
        """H, between the same positions of two samples."""
        return float(np.diagonal(self.other).mean())

    def scaled(self, factor: float) -> Gradient:
        """Return the gradient's kernel after both moments are multiplied by ``factor``."""
        made = Gradient.of(factor * self.same, factor * self.other)
        made._within = factor * self._within
        return made

    def plus(self, added: Gradient) -> Gradient:
        """Return the kernel of the sum of two uncorrelated gradients."""
        return Gradient.of(self.same + added.same, self.other + added.other)
