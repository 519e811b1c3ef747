"""The operations that a branch is made of: what each does to a kernel, and to a gradient's.

Wide layers (n -> inf), independent weights in each layer, gradients independent of activations:
the usual mean-field assumptions. Batches and groups may be small: what a normalization does to
them is exact for Gaussian values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from sigprop.errors import BadInput
from sigprop.theory import gaussian, pairs
from sigprop.theory.activations import Activation, Array, activation
from sigprop.theory.kernel import Gradient, Kernel

#: Fewer values behind an activation may all be 0 too often for 1/sigma^2 to have a mean.
_FEWEST = 24


class Operation(Protocol):
    """What a kernel, and on the way back a gradient's kernel, can be sent through."""

    def forward(self, x: Kernel) -> Kernel:
        """Return the kernel behind the operation."""

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient's kernel in front of the operation.

        Args:
            x: the kernel in front of the operation.
            g: the gradient's kernel after it.
        """


@dataclass(frozen=True)
class Act:
    """A nonlinearity f, elementwise.

    Args:
        which: its name or itself.

    Raises:
        UnknownName: no such activation.
    """

    which: str | Activation

    def __post_init__(self) -> None:
        activation(self.which)

    def forward(self, x: Kernel) -> Kernel:
        """Return E f(u) f(v) of all pairs.

        Raises:
            BadInput: the values are not Gaussian of mean 0.
        """
        if not x.gaussian or x.means.any():
            raise BadInput(
                "an activation needs Gaussian input of mean 0: put a weight layer before it"
            )
        q = x.variances
        return x.replaced(
            same=pairs.covariances(self.which, q, x.same, same=True),
            other=pairs.covariances(self.which, q, x.other, same=False),
            means=pairs.means(self.which, q),
            gaussian=False,
            excess=_excess(self.which, x.second_moment),
        )

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return G E f'(u) f'(v) of all pairs."""
        q, aligned = x.variances, None
        if activation(self.which).leak is not None:  # u f'(u) = f(u)
            y = self.forward(x)
            aligned = (y.same * g.same, y.other * g.other)
        return Gradient.of(
            g.same * pairs.slope_covariances(self.which, q, x.same, same=True),
            g.other * pairs.slope_covariances(self.which, q, x.other, same=False),
            aligned,
        )


@lru_cache(maxsize=4096)
def _excess(which: str | Activation, variance: float) -> float:
    return gaussian.excess_kurtosis(which, variance) if variance > 0 else 0.0


@dataclass(frozen=True)
class Weight:
    """A linear map with independent weights of mean 0, at each position alone.

    Args:
        gain_squared: fan_in times the variance of a weight.
        widening: outputs per input, which multiplies the gradient's second moment.
        standardized: every row's mean is taken away (Brock et al. 2021), so that what all channels
            have in common does not pass.
        bias: variance of a bias that is drawn anew (mean-field sigma_b^2).
    """

    gain_squared: float
    widening: float = 1.0
    standardized: bool = False
    bias: float = 0.0

    def forward(self, x: Kernel) -> Kernel:
        """Return gain^2 K + bias."""
        common = x.means[:, None] * x.means if self.standardized else 0.0
        return x.changed(lambda k: self.gain_squared * (k - common) + self.bias)

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return gain^2 G outputs/inputs."""
        return g.scaled(self.gain_squared * self.widening)


@dataclass(frozen=True)
class Zero:
    """A weight layer that starts at 0."""

    def forward(self, x: Kernel) -> Kernel:
        """Return a kernel of zeros."""
        return x.changed(np.zeros_like)

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return a gradient of zeros."""
        return Gradient.of(np.zeros_like(x.same), np.zeros_like(x.same))


@dataclass(frozen=True)
class Scale:
    """Multiplication by a number."""

    factor: float

    def forward(self, x: Kernel) -> Kernel:
        """Return the scaled kernel."""
        return x.scaled(self.factor)

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient's kernel times the squared factor."""
        return g.scaled(self.factor**2)


@dataclass(frozen=True)
class Shift:
    """Subtraction of a constant, as NormProp does behind an activation."""

    constant: float

    def forward(self, x: Kernel) -> Kernel:
        """Return the shifted kernel."""
        return x.shifted(self.constant)

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient as it is."""
        return g


@dataclass(frozen=True)
class Drop:
    """Values that are set to 0 at random: each alone (dropout), or a sample's all together.

    Args:
        rate: probability of 0.
        rescale: survivors are divided by 1 - rate (dropout); stochastic depth leaves them.
        samples: a sample's values are dropped together (stochastic depth).
    """

    rate: float
    rescale: bool = True
    samples: bool = False

    def forward(self, x: Kernel) -> Kernel:
        """Return the kernel, expectation over the masks too."""
        keep = 1 - self.rate
        alone = keep if self.samples else spread_of(x, keep, keep * keep)
        factor = keep if self.rescale else 1.0
        same, other = x.same * alone / factor**2, x.other * keep**2 / factor**2
        return x.replaced(same=same, other=other, means=x.means * keep / factor)

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient through the same masks."""
        keep = 1 - self.rate
        alone = keep if self.samples else spread_of(x, keep, keep * keep)
        factor = keep if self.rescale else 1.0
        return Gradient.of(g.same * alone / factor**2, g.other * keep**2 / factor**2)


def spread_of(x: Kernel, diagonal: float, elsewhere: float) -> Array:
    """Return one number for a position with itself, another for two positions.

    Args:
        x: a kernel, of R positions.
        diagonal: the number of a position with itself.
        elsewhere: that of two positions.
    """
    return np.where(np.eye(len(x.same), dtype=bool), diagonal, elsewhere)


@dataclass(frozen=True)
class Center:
    """A bias of minus each channel's batch mean: a constant for the gradient (RescaleNet)."""

    def forward(self, x: Kernel) -> Kernel:
        """Return the centered kernel."""
        return x.centered()

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient as it is."""
        return g


@dataclass(frozen=True)
class MeanOnlyNorm(Center):
    """Minus the batch mean, through which the gradient passes too (Salimans & Kingma 2016)."""

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the centered gradient."""
        return _batch_centered(x, g)


def _batch_centered(x: Kernel, g: Gradient) -> Gradient:
    rows = x.row_means(g.other)
    rows = rows + (x.row_means(g.same) - rows) / x.batch
    taken = rows[:, None] + rows - rows.mean()
    return Gradient.of(g.same - taken, g.other - taken, g.aligned)


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization: each channel minus its mean, over its standard deviation, in a batch.

    Of Gaussian values, sigma^2 is a sum of squares of nu degrees of freedom (N - 1 for independent
    samples), so that E 1/sigma^2 = nu/((nu - 2) E sigma^2), and the gradient loses its parts along
    1 and along y: (B - 2)/(B - 3) a layer when all is linear; for ReLU
    ((B-2)/2 + a + kappa/2)/((B-3)(1 - kappa)/2), a and kappa at c = -1/(B-1), which is
    3.08, 1.79, 1.51 at B = 4, 8, 32 and pi/(pi-1) at infinity (Yang et al. 2019, section 4).

    Args:
        fixed: mean and deviation are constants for the gradient, set from this batch as in the
            data-dependent start of weight normalization (Salimans & Kingma 2016).
    """

    fixed: bool = False

    def forward(self, x: Kernel) -> Kernel:
        """Return the normalized kernel.

        Raises:
            BadInput: nothing varies over the batch.
        """
        centered = x.centered()
        return centered.divided(_positive("batchnorm", centered.second_moment))

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient through (I - 11'/N - yy'/N)/sigma; NaN where 1/sigma^2 has no mean.

        It has none for batches of at most 3 samples, nor, behind an activation, for less than 24:
        rare channels, of which no sample is active, decide.
        """
        centered = x.centered()
        size = _positive("batchnorm", centered.second_moment)
        squares = x.over_batch(x.average(centered.same**2), x.average(centered.other**2))
        inverse = _inverse_square(x, size, squares, x.samples)
        if self.fixed:
            return g.scaled(inverse)
        y, centered_g = centered.divided(size), _batch_centered(x, g)
        aligned = g.aligned or (y.same * g.same, y.other * g.other)
        along = x.over_batch(x.average(aligned[0]), x.average(aligned[1]))
        return Gradient.of(
            centered_g.same - along * y.same, centered_g.other - along * y.other
        ).scaled(inverse)


@dataclass(frozen=True)
class GroupNorm:
    """Normalization of each sample alone, over its positions and the channels of a group.

    Args:
        per_group: m, channels of a group; 1 is instance normalization, infinity layer
            normalization (of all channels; see ``per_position``). Of m independent values,
            E 1/sigma^2 = (m-1)/(m-3) and the gradient loses 2 of m directions: (m-2)/(m-3) a
            layer. It has no mean for m <= 3 without positions.
        per_position: each position alone, as layer normalization does with tokens.
    """

    per_group: float = math.inf
    per_position: bool = False

    def forward(self, x: Kernel) -> Kernel:
        """Return the normalized kernel.

        Raises:
            BadInput: nothing varies over the group.
        """
        y = self._centered(x)
        if self.per_position:
            root = np.sqrt(y.variances)
            _positive(self._name, float(root.min()))
            scale = root[:, None] * root
            return y.replaced(same=y.same / scale, other=y.other / scale)
        return y.divided(_positive(self._name, y.second_moment))

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient through (I - 11'/M - yy'/M)/sigma, M the values of a group.

        NaN for groups of at most 3 independent values, whose 1/sigma^2 has no mean.
        """
        y = self._centered(x)
        if self.per_position:
            root = np.sqrt(y.variances)
            scale = root[:, None] * root
            return Gradient.of(g.same / scale, g.other / scale)
        size, m = _positive(self._name, y.second_moment), self.per_group
        if math.isinf(m):
            return g.scaled(1 / size)
        apart = self._taken(x, x.same - x.means[:, None] * x.means)
        squares = (x.average(y.same**2) + (m - 1) * x.average(apart**2)) / m
        inverse = _inverse_square(x, size, squares, m * x.positions)
        aligned = g.aligned or (y.same * g.same / size, y.other * g.other / size)
        same, other = (
            part - self._taken(x, part) - x.average(along) / m * values / size
            for part, along, values in (
                (g.same, aligned[0], y.same),
                (g.other, aligned[1], y.other),
            )
        )
        return Gradient.of(same, other).scaled(inverse)

    @property
    def _name(self) -> str:
        return "layernorm" if math.isinf(self.per_group) else "groupnorm"

    def _centered(self, x: Kernel) -> Kernel:
        common = x.means[:, None] * x.means
        level = np.zeros_like(x.means) if self.per_position else x.means - x.means.mean()
        left = level[:, None] * level  # of the channels' common profile, its mean over positions
        same, other = (k - common - self._taken(x, k - common) + left for k in (x.same, x.other))
        return x.replaced(same=same, other=other, means=level)

    def _taken(self, x: Kernel, matrix: Array) -> Array:
        """Return what removing the mean of a group takes from the covariances of its channels."""
        if math.isinf(self.per_group):
            return np.zeros_like(matrix)
        rows = x.row_means(matrix)
        return np.asarray((rows[:, None] + rows - rows.mean()) / self.per_group)


def _positive(what: str, variance: float) -> float:
    if variance <= 0:
        raise BadInput(f"{what} needs a variance above 0; got {variance!r}")
    return variance


def _inverse_square(x: Kernel, size: float, squares: float, count: float) -> float:
    """Return E 1/sigma^2 of a sample variance, nu/((nu - 2) E sigma^2); NaN where it has none.

    2/nu is the relative variance of sigma^2: twice the mean squared covariance of its values, and
    their excess kurtosis over their number.

    Args:
        x: the values.
        size: E sigma^2.
        squares: mean squared covariance of all pairs of values, the mean taken away.
        count: number of values.
    """
    relative = 2 * squares / size**2 + x.excess / count
    if relative > 1 - 1e-9 or (x.excess > 0 and count < _FEWEST):
        return math.nan
    return 1 / ((1 - relative) * size)
