"""Small layers that residual networks are made of. No networks, no initializers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigprop.networks.arguments import check_rate


class Add(nn.Module):
    """The residual addition, as a module so that a hook sees both operands at once.

    Shapes: ``skip`` and ``branch`` alike (or broadcastable); the result has their shape.

    Attributes:
        ports: the names of the positional operands, which a probe records.

    Example:
        >>> Add()(torch.ones(2), torch.tensor([1.0, 2.0]))
        tensor([2., 3.])
    """

    ports = ("skip", "branch")

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return ``skip + branch``.

        Args:
            skip: the operand that passes the block by.
            branch: the output of the residual function.

        Returns:
            The sum, of the broadcast shape.
        """
        return skip + branch


class Scale(nn.Module):
    """Multiplication by a constant: y = factor * x, of x's shape.

    Args:
        factor: the constant; neither learned nor stored in the state_dict.

    Example:
        >>> Scale(0.5)
        Scale(factor=0.5)
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``factor * x``."""
        return self.factor * x

    def extra_repr(self) -> str:
        """Return the factor, for the module's repr."""
        return f"factor={self.factor:.6g}"


class Multiplier(nn.Module):
    """A learned multiplier: y = m x, of x's shape; one number, or one per channel.

    Source: Shao et al. 2020 (RescaleNet), the multiplier m_k of a residual branch; SkipInit's and
    ReZero's gain (start 0), LayerScale's diagonal (per channel).

    Args:
        start: m at the start.
        channels: how many numbers; 1 is a scalar.
        dims: spatial axes after the channel axis (per channel only).

    Example:
        >>> Multiplier(0.5)(torch.ones(1, 2)).tolist(), Multiplier(1.0, 6, dims=2).m.shape
        ([[0.5, 0.5]], torch.Size([6, 1, 1]))
    """

    def __init__(self, start: float = 1.0, channels: int = 1, dims: int = 0) -> None:
        super().__init__()
        shape = (channels, *[1] * dims) if channels > 1 else (1,)
        self.m = nn.Parameter(torch.full(shape, float(start)))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``m * x``."""
        return self.m * x


class ScalarBias(nn.Module):
    """One learned number added to everything: y = x + b, of x's shape; 0 at the start.

    Source: Zhang, Dauphin & Ma 2019 (Fixup), sec. 3.2, rule 3.

    Example:
        >>> ScalarBias()(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + b``."""
        return x + self.bias


class Standardize(nn.Module):
    """Fixed standardization: y = (x - mean)/std, of x's shape.

    Source: Arpit et al. 2016 (Normalization Propagation), the constants after a ReLU.

    Args:
        mean: the constant that is subtracted.
        std: the constant that is divided by.

    Example:
        >>> Standardize(1.0, 2.0)(torch.tensor([5.0])).item()
        2.0
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = float(mean), float(std)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std``."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Return the constants, for the module's repr."""
        return f"mean={self.mean:.6g}, std={self.std:.6g}"


class StochasticDepth(nn.Module):
    """Drops a branch for whole samples in training: y = mask x, of x's shape, mask (N, 1, ...).

    The survivors are not divided by 1 - rate unless asked: DeepMind's NFNets do not, Huang et al.
    multiply in evaluation instead.

    Source: Huang et al. 2016; Brock et al. 2021b.

    Args:
        rate: probability that a sample's branch is dropped.
        rescale: divide the survivors by 1 - rate.

    Raises:
        BadInput: the rate is not in [0, 1).

    Example:
        >>> StochasticDepth(0.5).eval()(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, rate: float, rescale: bool = False) -> None:
        super().__init__()
        self.rate, self.rescale = check_rate("the rate of stochastic depth", rate), rescale

    def forward(self, x: Tensor) -> Tensor:
        """Return x with dropped samples at 0; unchanged in evaluation mode."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.rate
        kept = x * keep
        return kept / (1 - self.rate) if self.rescale else kept

    def extra_repr(self) -> str:
        """Return the rate, for the module's repr."""
        return f"rate={self.rate:.6g}"


class SqueezeExcite(nn.Module):
    """Channel gates: y = gain sigmoid(W2 relu(W1 mean(x))) x; x and y of shape (N, C, H, W).

    Source: Hu et al. 2018; gain 2 (1 at a gate half open) as in NFNets (Brock et al. 2021b).

    Args:
        channels: C.
        ratio: hidden units per channel.
        gain: factor on the gate.

    Example:
        >>> SqueezeExcite(8)(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, channels: int, ratio: float = 0.5, gain: float = 2.0) -> None:
        super().__init__()
        hidden = max(1, int(channels * ratio))
        self.gain = gain
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return x times its gates."""
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return self.gain * gate[..., None, None] * x
