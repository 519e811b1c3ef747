"""Networks that claims are measured on: a few lines of plain torch each, independent of the zoo."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprop.claims.claim import Trial
from sigprop.inputs.datasets import resolve
from sigprop.inputs.factories import initialize

Array = npt.NDArray[np.float64]

#: He's gain² for ReLU, and the one that keeps the variance of a centered ReLU: 1/Var relu(z).
HE, CENTERED = 2.0, 2 / (1 - 1 / math.pi)


Norm = Callable[[Tensor], Tensor]


def batch_norm(x: Tensor) -> Tensor:
    """Return x with mean 0 and biased variance 1 over the batch; eps as small as torch allows."""
    return functional.batch_norm(x, None, None, training=True, eps=1e-30)


def batch_norm_eps(x: Tensor) -> Tensor:
    """Return the same with the usual eps of 1e-5."""
    return functional.batch_norm(x, None, None, training=True)


def layer_norm(x: Tensor) -> Tensor:
    """Return x with mean 0 and variance 1 over each sample's features; no eps."""
    return functional.layer_norm(x, x.shape[1:], eps=1e-30)


class NormLayer(nn.Module):
    """A norm as a module."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized input."""
        return self.norm(x)


class Center(nn.Module):
    """A bias in front of a weight, set to minus the mean of the first batch (Shao et al. 2020).

    Args:
        width: channels.
        dims: spatial axes after the channel axis.
    """

    def __init__(self, width: int, dims: int = 0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width, *[1] * dims))
        self.fresh = True

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + b``."""
        if self.fresh:
            self.bias.data = -channel_mean(x.detach()).view_as(self.bias)
            self.fresh = False
        return x + self.bias


class CenterForgotten(Center):
    """The same bias, left at zero: the aliasing mistake of a public port."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x + self.bias


class Residual(nn.Module):
    """x -> alpha x + beta branch(x); plain when both are 1, a plain layer when alpha is 0.

    Args:
        branch: F.
        alpha: coefficient of the skip.
        beta: coefficient of the branch.
    """

    def __init__(self, branch: nn.Module, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        self.branch, self.alpha, self.beta = branch, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        added: Tensor = self.beta * self.branch(x)
        return added if self.alpha == 0 else self.alpha * x + added


class Detached(nn.Module):
    """A branch whose gradient is cut off."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch's value without its history."""
        out: Tensor = self.branch(x).detach()
        return out


class CorrelatedBranch(nn.Module):
    """(F(x) + lean x)/√(1 + lean²): as large as F, but correlated with the skip.

    Args:
        branch: F.
        lean: share of x in the branch.
    """

    def __init__(self, branch: nn.Module, lean: float = 0.5) -> None:
        super().__init__()
        self.branch, self.lean = branch, lean

    def forward(self, x: Tensor) -> Tensor:
        """Return the leaning branch."""
        out: Tensor = (self.branch(x) + self.lean * x) / math.sqrt(1 + self.lean**2)
        return out


class Net(nn.Module):
    """Blocks in a row, with a stem and a head around them when they are given.

    Args:
        blocks: applied in order.
        stem: in front of them.
        head: after them.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        stem: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stem = nn.Identity() if stem is None else stem
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Identity() if head is None else head

    def forward(self, x: Tensor) -> Tensor:
        """Return head(blocks(stem(x)))."""
        out: Tensor = self.head(self.blocks(self.stem(x)))
        return out


def dense(inputs: int, outputs: int, gain2: float) -> nn.Linear:
    """Return a linear map without bias and with weights N(0, gain²/fan_in).

    Args:
        inputs: features read.
        outputs: features returned.
        gain2: gain².
    """
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=math.sqrt(gain2 / inputs))
    return layer


def conv(inputs: int, outputs: int, gain2: float, kernel: int = 3) -> nn.Conv2d:
    """Return a circular convolution without bias and with weights N(0, gain²/fan_in).

    Args:
        inputs: channels read.
        outputs: channels returned.
        gain2: gain².
        kernel: side of the kernel, odd.
    """
    layer = nn.Conv2d(
        inputs, outputs, kernel, padding=kernel // 2, padding_mode="circular", bias=False
    )
    nn.init.normal_(layer.weight, std=math.sqrt(gain2 / (inputs * kernel**2)))
    return layer


def relu_branch(
    width: int,
    layers: int = 1,
    gain2: float = HE,
    spread: float = 1.0,
    center: type[Center] | None = None,
    act: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return (activation, bias in front if asked, weight), ``layers`` times.

    Args:
        width: units.
        layers: weights.
        gain2: gain².
        spread: factor on the standard deviation of weights.
        center: the bias in front of every weight, if any.
        act: the nonlinearity.
    """
    made: list[nn.Module] = []
    for _ in range(layers):
        made.append(act())
        if center is not None:
            made.append(center(width))
        made.append(dense(width, width, gain2 * spread**2))
    return nn.Sequential(*made)


def digits(count: int = 256) -> tuple[Tensor, Tensor]:
    """Return the first images (N, 1, 8, 8) and labels of the digits' training split."""
    source = resolve("digits").train
    assert isinstance(source, tuple)
    return source[0][:count].float(), source[1][:count]


def channel_mean(x: Tensor) -> Tensor:
    """Return the mean over all axes but the channel axis 1, shape (C,)."""
    return x.mean(dim=[axis for axis in range(x.dim()) if axis != 1])


def moments(x: Tensor) -> tuple[float, float, float]:
    """Return second moment, mean biased channel variance, mean squared channel mean."""
    mean = channel_mean(x)
    second, shift = float(x.double().square().mean()), float(mean.double().square().mean())
    spread = x.movedim(1, 0).flatten(1).var(dim=1, correction=0)
    return second, float(spread.double().mean()), shift


def gaussian(generator: torch.Generator, *shape: int, double: bool = False) -> Tensor:
    """Return standard normal numbers.

    Args:
        generator: the stream.
        *shape: of the tensor.
        double: float64; float32 otherwise.
    """
    return torch.randn(
        *shape, generator=generator, dtype=torch.float64 if double else torch.float32
    )


@torch.no_grad()
def trajectory(net: Net, inputs: Tensor) -> Array:
    """Return the moments of x_0..x_L, shape (L + 1, 3).

    Args:
        net: whose stem and blocks are run.
        inputs: a batch.
    """
    x = net.stem(inputs)
    seen = [moments(x)]
    for block in net.blocks:
        x = block(x)
        seen.append(moments(x))
    return np.array(seen)


def trajectories(
    trial: Trial,
    make: Callable[[], Net],
    shape: Sequence[int],
    seeds: tuple[int, int],
) -> Array:
    """Return the moments over freshly initialized nets and inputs, shape (seeds, L + 1, 3).

    Args:
        trial: with which seeds.
        make: builds a net from torch's global generator.
        shape: of the standard normal inputs.
        seeds: how many, in a full and in a quick trial.

    Returns:
        Second moment, channel variance and mean shift of each x_k.
    """
    return np.stack(
        [
            trajectory(
                initialized(make, seed), gaussian(torch.Generator().manual_seed(seed), *shape)
            )
            for seed in trial.seeds(*seeds)
        ]
    )


def initialized(make: Callable[[], Net], seed: int) -> Net:
    """Return a net built from a seed; the global random state is left alone.

    Args:
        make: builds a net from torch's global generator.
        seed: of the draw.
    """
    net = initialize(make, seed + 500_000)  # not the stream that the inputs come from
    assert isinstance(net, Net)
    return net


def backward_trajectory(net: Net, inputs: Tensor, generator: torch.Generator) -> Array:
    """Return the second moments of the gradient at x_0..x_L, for a standard normal one at x_L.

    Args:
        net: whose stem and blocks are run.
        inputs: a batch.
        generator: draws the gradient at x_L.

    Returns:
        An array of shape (L + 1,).
    """
    x = net.stem(inputs).detach().requires_grad_()
    trunk = [x]
    for block in net.blocks:
        trunk.append(block(trunk[-1]))
    gradient = torch.randn(trunk[-1].shape, generator=generator)
    found = torch.autograd.grad(trunk[-1], trunk, gradient)
    return np.array([float(g.double().square().mean()) for g in found])
