"""Convolutions and pooling of maps: which positions see which, with zero or circular borders.

The covariance of two outputs is the mean over taps of that of the two inputs they see; taps that
fall outside a map see zeros (Novak et al. 2019, Garriga-Alonso et al. 2019: Bayesian deep
convolutional networks as Gaussian processes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from sigprop.theory.activations import Activation, Array, activation
from sigprop.theory.kernel import Gradient, Kernel

Index = npt.NDArray[np.int64]

#: Seed and number of draws where a maximum over Gaussians has no closed form.
_SEED, _DRAWS = 0, 20_000


@dataclass(frozen=True)
class Window:
    """A square window that moves over a map.

    Args:
        kernel: its side.
        stride: of its positions.
        circular: the map continues on the other side; zeros otherwise.
    """

    kernel: int = 3
    stride: int = 1
    circular: bool = False

    def output(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the map behind a convolution of padding ``kernel // 2``."""
        high, wide = (math.ceil(side / self.stride) for side in grid)
        return high, wide

    def taps(self, grid: tuple[int, int]) -> list[tuple[Index, Index]]:
        """Return for each tap the outputs that see an input through it, and those inputs."""
        return _taps(self, grid)


@cache
def _taps(window: Window, grid: tuple[int, int]) -> list[tuple[Index, Index]]:
    half, out = window.kernel // 2, window.output(grid)
    rows, columns = np.meshgrid(np.arange(out[0]), np.arange(out[1]), indexing="ij")
    found = []
    for down in range(-half, window.kernel - half):
        for right in range(-half, window.kernel - half):
            y, x = rows * window.stride + down, columns * window.stride + right
            if window.circular:
                y, x = y % grid[0], x % grid[1]
            inside = (y >= 0) & (y < grid[0]) & (x >= 0) & (x < grid[1])
            outputs = (rows * out[1] + columns)[inside]
            found.append((outputs, (y * grid[1] + x)[inside]))
    return found


@dataclass(frozen=True)
class Convolution:
    """A convolution with independent weights of mean 0.

    Args:
        gain_squared: fan_in times the variance of a weight.
        window: kernel, stride and border.
        widening: output channels per input channel.
        standardized: every row's mean, over channels and taps, is taken away. Behind a ReLU the
            mean leaks at a border: the taps inside it do not add up to 0.
        bias: variance of a bias that is drawn anew.
    """

    gain_squared: float
    window: Window = Window()
    widening: float = 1.0
    standardized: bool = False
    bias: float = 0.0

    def forward(self, x: Kernel) -> Kernel:
        """Return gain^2/k^2 times the sum over taps; positions without borders see all of it."""
        if x.grid is None:
            common = x.means[:, None] * x.means if self.standardized else 0.0
            return x.changed(lambda k: self.gain_squared * (k - common) + self.bias)
        out, taps = self.window.output(x.grid), self.window.taps(x.grid)
        count, area = out[0] * out[1], self.window.kernel**2
        common = np.zeros(count)
        for outputs, inputs in taps:
            common[outputs] += x.means[inputs]
        taken = common[:, None] * common / area if self.standardized else 0.0

        def seen(k: Array) -> Array:
            total = np.zeros((count, count))
            for outputs, inputs in taps:
                total[np.ix_(outputs, outputs)] += k[np.ix_(inputs, inputs)]
            return self.gain_squared / area * (total - taken) + self.bias

        return _resized(x.changed(seen), out, x)

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the transposed sum over taps."""
        factor = self.gain_squared * self.widening
        if x.grid is None:
            return g.scaled(factor)
        taps, area = self.window.taps(x.grid), self.window.kernel**2

        def sent(k: Array) -> Array:
            total = np.zeros_like(x.same)
            for outputs, inputs in taps:
                total[np.ix_(inputs, inputs)] += k[np.ix_(outputs, outputs)]
            return factor / area * total

        return Gradient.of(sent(g.same), sent(g.other))


def _resized(y: Kernel, out: tuple[int, int], x: Kernel) -> Kernel:
    count = out[0] * out[1]
    return y.replaced(grid=out, positions=count, samples=x.batch * count)


@dataclass(frozen=True)
class AveragePool:
    """The mean over windows of side and stride ``size``; at an odd border, over what is there."""

    size: int = 2

    def forward(self, x: Kernel) -> Kernel:
        """Return A K A', A the averaging matrix."""
        averaging, out = self._matrix(x)
        made = x.changed(lambda k: averaging @ k @ averaging.T, averaging @ x.means)
        return _resized(made, out, x)

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return A' G A."""
        averaging, _ = self._matrix(x)
        return Gradient.of(averaging.T @ g.same @ averaging, averaging.T @ g.other @ averaging)

    def _matrix(self, x: Kernel) -> tuple[Array, tuple[int, int]]:
        assert x.grid is not None
        blocks, out = _blocks(x.grid, self.size, partial=True)
        matrix = np.zeros((out[0] * out[1], len(blocks)))
        matrix[blocks, np.arange(len(blocks))] = 1.0
        return matrix / matrix.sum(axis=1, keepdims=True), out


def _blocks(grid: tuple[int, int], size: int, partial: bool) -> tuple[Index, tuple[int, int]]:
    """Return the window that each position falls into, -1 for none, and the pooled size."""
    high, wide = (math.ceil(s / size) if partial else s // size for s in grid)
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    rows, columns = rows // size, columns // size
    block = np.where((rows < high) & (columns < wide), rows * wide + columns, -1)
    return block.ravel(), (high, wide)


@dataclass(frozen=True)
class ActMaxPool:
    """An activation and a maximum over windows of side 2 behind it (VGG).

    A maximum of correlated Gaussians has no closed form in 4 or more dimensions: moments are means
    over 20,000 draws of a fixed generator, with a relative error of about 1 %.

    Args:
        which: the activation.
        size: side and stride of the window.
    """

    which: str | Activation
    size: int = 2

    def forward(self, x: Kernel) -> Kernel:
        """Return the moments of the maxima."""
        pooled, _, out = self._draws(x)
        one, two = pooled
        same = (one.T @ one + two.T @ two) / (2 * len(one))
        cross = one.T @ two / len(one)
        made = x.replaced(
            same=same,
            other=(cross + cross.T) / 2,
            means=(one.mean(axis=0) + two.mean(axis=0)) / 2,
            gaussian=False,
        )
        return _resized(made, out, x)

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient that arrives at the positions of the maxima."""
        _, (one, two), _ = self._draws(x)
        assert x.grid is not None
        blocks, _ = _blocks(x.grid, self.size, partial=False)
        alone = (one.T @ one + two.T @ two) / (2 * len(one))
        cross = one.T @ two / len(one)
        inside = blocks >= 0
        kept = np.where(inside, blocks, 0)
        mask = inside[:, None] & inside
        pick = np.ix_(kept, kept)
        return Gradient.of(
            mask * alone * g.same[pick], mask * (cross + cross.T) / 2 * g.other[pick]
        )

    def _draws(self, x: Kernel) -> tuple[tuple[Array, Array], tuple[Array, Array], tuple[int, int]]:
        """Return maxima, slopes at the positions they are of (0 elsewhere), and the new size."""
        assert x.grid is not None
        f = activation(self.which)
        blocks, out = _blocks(x.grid, self.size, partial=False)
        count = len(blocks)
        joint = np.block([[x.same, x.other], [x.other, x.same]])
        values, vectors = np.linalg.eigh(joint)
        root = vectors * np.sqrt(np.clip(values, 0, None))
        z = np.random.default_rng(_SEED).standard_normal((_DRAWS, 2 * count))
        u = z @ root.T
        order = np.argsort(blocks, kind="stable")
        order = order[blocks[order] >= 0].reshape(out[0] * out[1], -1)
        pooled, slopes = [], []
        for part in (u[:, :count], u[:, count:]):
            windows = f.f(part)[:, order]
            best = windows.argmax(axis=2)
            pooled.append(np.take_along_axis(windows, best[..., None], axis=2)[..., 0])
            chosen = order[np.arange(len(order)), best]
            slope = np.zeros_like(part)
            rows = np.arange(len(part))[:, None]
            slope[rows, chosen] = f.slope(part[rows, chosen])
            slopes.append(slope)
        return (pooled[0], pooled[1]), (slopes[0], slopes[1]), out


@dataclass(frozen=True)
class Gather:
    """The mean over all positions, in front of a head."""

    def forward(self, x: Kernel) -> Kernel:
        """Return the kernel of the means: one position."""
        return Kernel(
            x.average(x.same),
            x.average(x.other),
            x.mean,
            x.batch,
            gaussian=x.gaussian,
        )

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return a gradient that is the same at each position."""
        size, square = len(x.same), float(x.positions) ** 2
        return Gradient.of(
            np.full((size, size), g.second_moment / square),
            np.full((size, size), g.covariance / square),
        )
