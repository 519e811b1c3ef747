"""Initializers of a weight, and its parametrizations: standardized, or rows of unit norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sigprop.errors import BadInput

Weighted = nn.Conv2d | nn.Linear


def initialize(layer: Weighted, gain: float) -> None:
    """Fill a weight with N(0, gain²/fan_in) and its bias with 0, in place.

    fan_in is the number of inputs of one output: in_features, or (in_channels/groups)·kH·kW.

    Source: He et al. 2015, eq. 10 for gain √2.

    Args:
        layer: a linear layer or a convolution, changed in place.
        gain: factor on the standard deviation.
    """
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def xavier(layer: Weighted, gain: float) -> None:
    """Fill a weight with N(0, 2 gain²/(fan_in + fan_out)) and its bias with 0, in place.

    fan_out is fan_in with outputs for inputs: (out_channels/groups)·kH·kW.

    Source: Glorot & Bengio 2010, eq. 12.

    Args:
        layer: a linear layer or a convolution, changed in place.
        gain: factor on the standard deviation.
    """
    weight = layer.weight
    fan_in, groups = weight[0].numel(), getattr(layer, "groups", 1)
    fan_out = weight.shape[0] // groups * weight[0, 0].numel()
    nn.init.normal_(weight, std=gain * math.sqrt(2 / (fan_in + fan_out)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def orthogonal(layer: Weighted, gain: float) -> None:
    """Fill a weight with gain times an orthogonal matrix, and its bias with 0, in place.

    A convolution gets the matrix at its central tap and zeros elsewhere (delta-orthogonal), which
    makes it an isometry too. Rows are orthonormal when there are no more outputs than inputs,
    columns otherwise, and then scaled by √(outputs/inputs) so that the second moment is kept.

    Source: Saxe et al. 2014; Xiao et al. 2018, algorithm 1 (convolutions).

    Args:
        layer: a linear layer or a convolution, changed in place.
        gain: factor on the standard deviation.

    Raises:
        BadInput: a grouped convolution.
    """
    if getattr(layer, "groups", 1) != 1:
        raise BadInput("an orthogonal start of a grouped convolution is not defined; use groups=1")
    weight = layer.weight
    outputs, inputs = weight.shape[:2]
    matrix = torch.empty(outputs, inputs, dtype=weight.dtype, device=weight.device)
    nn.init.orthogonal_(matrix, gain * max(1.0, math.sqrt(outputs / inputs)))
    with torch.no_grad():
        weight.zero_()
        taps = weight.view(outputs, inputs, -1)  # a kernel of odd sides has its center half way
        taps[:, :, taps.shape[2] // 2] = matrix
        if layer.bias is not None:
            layer.bias.zero_()


class Standardized(nn.Module):
    """Scaled weight standardization: Ŵ_i = γ g_i (W_i - mean W_i)/√(fan_in Var W_i), per output i.

    Rows have mean 0 and, at g = 1, sum of squares γ², so that the layer neither shifts the mean nor
    changes the variance of what γ = 1/std φ(z) makes of N(0, 1). Var is biased; fan_in Var is
    floored at ``eps`` as in DeepMind's code.

    Source: Brock et al. 2021a, eq. 1 and sec. 3.

    Args:
        outputs: number of output units.
        axes: axes of the weight, 2 or 4.
        gain: γ.
        eps: the floor.

    Example:
        >>> row = Standardized(1, 2)(torch.tensor([[1.0, 2.0, 3.0]]))
        >>> abs(row.sum().item()) < 1e-6, round(row.square().sum().item(), 5)
        (True, 1.0)
    """

    def __init__(self, outputs: int, axes: int, gain: float = 1.0, eps: float = 1e-4) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(outputs, *[1] * (axes - 1)))
        self.gamma, self.eps = float(gain), eps

    def forward(self, weight: Tensor) -> Tensor:
        """Return Ŵ, of W's shape (outputs, ...)."""
        axes = list(range(1, weight.dim()))
        variance, mean = torch.var_mean(weight, dim=axes, correction=0, keepdim=True)
        fan_in = weight[0].numel()
        scale = torch.rsqrt(torch.clamp(fan_in * variance, min=self.eps))
        return (weight - mean) * (scale * self.gain * self.gamma)

    def extra_repr(self) -> str:
        """Return γ, for the module's repr."""
        return f"gamma={self.gamma:.6g}"


class UnitRows(nn.Module):
    """Rows of unit norm: ŵ_i = v_i/‖v_i‖, of v's shape; the direction of weight normalization.

    Source: Salimans & Kingma 2016, eq. 2 with g apart.

    Example:
        >>> [round(v, 6) for v in UnitRows()(torch.tensor([[3.0, 4.0]])).flatten().tolist()]
        [0.6, 0.8]
    """

    def forward(self, v: Tensor) -> Tensor:
        """Return v with every output's row divided by its norm; a row of zeros is not allowed."""
        return v / v.flatten(1).norm(dim=1).view(-1, *[1] * (v.dim() - 1))


def standardize(layer: Weighted, gain: float = 1.0) -> None:
    """Give a layer a `Standardized` weight with γ = ``gain``, in place; W itself stays as it is.

    Args:
        layer: a linear layer or a convolution, changed in place.
        gain: γ.
    """
    form = Standardized(layer.weight.shape[0], layer.weight.dim(), gain)
    parametrize.register_parametrization(layer, "weight", form.to(layer.weight))


def unit_rows(layer: Weighted) -> None:
    """Give a layer a weight of unit rows, in place."""
    parametrize.register_parametrization(layer, "weight", UnitRows())
