"""Gains of initializers: the scale of a weight that keeps the variance. No networks.

With W of independent N(0, gain²/fan_in) entries and z ~ N(0, q) the pre-activation that came in,
the output has E[(W φ(z))²] = gain² E[φ(z)²]. It equals q when gain² = q / E[φ(z)²].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from sigprop.errors import BadInput, suggestion
from sigprop.networks.activations import ACTIVATIONS

#: γ as DeepMind's NFNets code has it: Monte-Carlo values, up to 0.09 % off the exact 1/std φ(z).
OFFICIAL_GAMMAS: Mapping[str, float] = MappingProxyType(
    {
        "identity": 1.0,
        "celu": 1.270927,
        "elu": 1.271600,
        "gelu": 1.701504,
        "leaky_relu": 1.705903,
        "logsigmoid": 1.919348,
        "relu": 1.713959,
        "selu": 1.000852,
        "sigmoid": 4.803835,
        "silu": 1.788129,
        "softplus": 1.920332,
        "tanh": 1.593912,
    }
)


def he_gain(activation: str) -> float:
    """Return 1/√E[φ(z)²], z ~ N(0, 1): keeps the second moment after φ.

    relu: √2; identity: 1; others by quadrature, and only right at unit variance.

    Source: He et al. 2015, eq. 10 (ReLU); the same condition for other φ.

    Raises:
        BadInput: the activation has no gain here.

    Example:
        >>> round(he_gain("relu"), 6), round(he_gain("tanh"), 4)
        (1.414214, 1.5925)
    """
    return 1 / math.sqrt(gaussian_moments(activation)[1])


def centered_gain(activation: str) -> float:
    """Return γ = 1/√Var[φ(z)], z ~ N(0, 1): keeps the second moment after φ minus its mean.

    For ReLU and z ~ N(0, q): E[φ²] = q/2 and E[φ]² = q/(2π), so that subtracting the mean leaves
    Var[φ] = (q/2)(1 - 1/π), and gain² = 2/(1 - 1/π) = 2.9339. With He's gain² = 2 each layer keeps
    only 1 - 1/π = 0.68 of the variance. For odd φ (identity, tanh) the mean is 0: he_gain.

    Source: NF-ResNets' γ (Brock et al. 2021a, sec. 3); derived here for a bias that centers.

    Raises:
        BadInput: the activation has no gain here.

    Example:
        >>> round(centered_gain("relu"), 6), round(centered_gain("silu"), 6)
        (1.712859, 1.787187)
    """
    mean, second = gaussian_moments(activation)
    return 1 / math.sqrt(second - mean**2)


def official_gamma(activation: str) -> float:
    """Return γ as DeepMind's NFNets code has it, from a Monte-Carlo run (`OFFICIAL_GAMMAS`).

    Source: deepmind-research, nfnets/base.py; exact values: `centered_gain`.

    Raises:
        BadInput: that code has no γ for it.

    Example:
        >>> official_gamma("relu")
        1.713959
    """
    if activation not in OFFICIAL_GAMMAS:
        known = suggestion(activation, OFFICIAL_GAMMAS, most=len(OFFICIAL_GAMMAS))
        raise BadInput(f"no official gamma is known for {activation!r}; {known}")
    return OFFICIAL_GAMMAS[activation]


def jacobian_gain(activation: str) -> float:
    """Return std φ(z)/√E[φ'(z)²], z ~ N(0, 1): 1/1.21 = √(1 - 1/π) for ReLU.

    A layer z -> (φ(γ W z) - E φ)/std φ with W of unit rows has a Jacobian whose squared singular
    values are 1 in the mean when γ is this.

    Source: Arpit et al. 2016 (Normalization Propagation), sec. 3.3.

    Raises:
        BadInput: the activation has no gain here.

    Example:
        >>> round(1 / jacobian_gain("relu"), 4)
        1.2112
    """
    mean, second = gaussian_moments(activation)
    return math.sqrt((second - mean**2) / _slope_moment(activation))


@cache
def gaussian_moments(activation: str) -> tuple[float, float]:
    """Return E[φ(z)] and E[φ(z)²] for z ~ N(0, 1).

    Raises:
        BadInput: the activation has no gain here.

    Example:
        >>> [round(m, 6) for m in gaussian_moments("relu")]
        [0.398942, 0.5]
    """
    if activation not in ACTIVATIONS:
        known = suggestion(activation, ACTIVATIONS, most=len(ACTIVATIONS))
        raise BadInput(f"no gain is known for {activation!r}; {known}")
    if activation == "relu":
        return 1 / math.sqrt(2 * math.pi), 0.5
    if activation == "identity":
        return 0.0, 1.0
    z, weights = _simpson()
    with torch.no_grad():
        values = ACTIVATIONS[activation]()(z)
    mean = float((values * weights).sum())
    # odd functions: symmetric nodes leave a rounding error where the mean is 0
    return (0.0 if abs(mean) < 1e-12 else mean), float((values**2 * weights).sum())


@cache
def _slope_moment(activation: str) -> float:
    """Return E[φ'(z)²] for z ~ N(0, 1)."""
    if activation == "relu":
        return 0.5
    nodes, _ = _simpson()
    step = float(nodes[1] - nodes[0])
    # between the nodes: a slope may jump at a kink, which is a node
    middle = (nodes[:-1] + step / 2).requires_grad_()
    with torch.enable_grad():
        values = ACTIVATIONS[activation]()(middle)
        (slope,) = torch.autograd.grad(values.sum(), middle)
    density = torch.exp(-(middle.detach() ** 2) / 2) / math.sqrt(2 * math.pi)
    return float((slope**2 * density).sum() * step)


def _simpson(ends: float = 12.0, nodes: int = 24_001) -> tuple[Tensor, Tensor]:
    """Return Simpson's nodes on [-ends, ends] and their weights times the normal density.

    Nodes fall on 0 and ±3, where ELU and hard-swish have their kinks, so that each piece is smooth.
    On the host and in float64 wherever the network itself is being built (torch.device("meta")).
    """
    z = torch.linspace(-ends, ends, nodes, dtype=torch.float64, device="cpu")
    simpson = torch.ones(nodes, dtype=torch.float64, device="cpu")
    simpson[1:-1:2], simpson[2:-1:2] = 4.0, 2.0
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return z, simpson * density * (2 * ends / (nodes - 1)) / 3
