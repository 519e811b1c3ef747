"""The second-order statistics of a batch of exchangeable samples, and of its gradient.

Three numbers: q = E x_i^2, p = E x_i x_j (i != j) and the mean m over channels, expectations over
the weights. Positions of a map count as samples where they are exchangeable (white inputs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sigprop.errors import BadInput
from sigprop.theory.arguments import non_negative, number, sample_count


@dataclass(frozen=True)
class Kernel:
    """The second-order statistics of a batch: of a layer's values, expectation over weights.

    Args:
        second_moment: q = E x_i^2.
        covariance: p = E x_i x_j for two different samples (not centered).
        mean: m, the mean over channels of one sample (0 after a weight layer).
        samples: N, all samples and positions of a channel; infinite for a population.
        gaussian: whether values are Gaussian over channels (false right after an activation).

    Raises:
        BadInput: a negative q, abs(p) above q, fewer than 1 sample.

    Example:
        >>> k = Kernel(2.0, 0.5, samples=4)
        >>> k.channel_variance, k.mean_shift, k.channel_variance + k.mean_shift
        (1.125, 0.875, 2.0)
    """

    second_moment: float = 1.0
    covariance: float = 0.0
    mean: float = 0.0
    samples: float = math.inf
    gaussian: bool = True

    def __post_init__(self) -> None:
        non_negative("second_moment", self.second_moment)
        number("covariance", self.covariance)
        sample_count(self.samples)
        if abs(self.covariance) > self.second_moment * (1 + 1e-9) + 1e-300:
            raise BadInput(
                f"covariance must lie within ±second_moment = {self.second_moment:g};"
                f" got {self.covariance!r}"
            )

    @property
    def correlation(self) -> float:
        """The cosine c = p / q between two samples; 0 where q is 0."""
        if self.second_moment == 0:
            return 0.0
        return min(max(self.covariance / self.second_moment, -1.0), 1.0)

    @property
    def channel_variance(self) -> float:
        """The biased batch variance per channel: (q - p)(1 - 1/N)."""
        return (self.second_moment - self.covariance) * (1 - 1 / self.samples)

    @property
    def mean_shift(self) -> float:
        """The squared batch mean per channel: p + (q - p)/N."""
        return self.covariance + (self.second_moment - self.covariance) / self.samples

    def scaled(self, factor: float) -> Kernel:
        """Return the kernel of ``factor`` times the values."""
        square = factor * factor
        return replace(
            self,
            second_moment=square * self.second_moment,
            covariance=square * self.covariance,
            mean=factor * self.mean,
        )

    def centered(self) -> Kernel:
        """Return the kernel after each channel's batch mean is taken away.

        q becomes the channel variance and p becomes -(q - p)/N, which is 0 for a population.

        Raises:
            BadInput: a single sample, of which nothing would be left.
        """
        if self.samples < 2:
            raise BadInput(f"centering a batch needs at least 2 samples; got {self.samples:g}")
        spread = self.second_moment - self.covariance
        return replace(
            self,
            second_moment=self.channel_variance,
            covariance=-spread / self.samples,
            mean=0.0,
        )

    def plus(self, other: Kernel) -> Kernel:
        """Return the kernel of the sum of two values that only share their channel means."""
        cross = 2 * self.mean * other.mean
        return Kernel(
            self.second_moment + other.second_moment + cross,
            self.covariance + other.covariance + cross,
            self.mean + other.mean,
            self.samples,
            self.gaussian and other.gaussian,
        )


@dataclass(frozen=True)
class Gradient:
    """The gradient's kernel: G = E g_i^2 and H = E g_i g_j for two different samples."""

    second_moment: float = 1.0
    covariance: float = 0.0

    def scaled(self, factor: float) -> Gradient:
        """Return the gradient's kernel after both moments are multiplied by ``factor``."""
        return Gradient(factor * self.second_moment, factor * self.covariance)

    def plus(self, other: Gradient) -> Gradient:
        """Return the kernel of the sum of two uncorrelated gradients."""
        return Gradient(
            self.second_moment + other.second_moment, self.covariance + other.covariance
        )
