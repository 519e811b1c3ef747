"""Gains of initialisers: the scale of a weight that keeps the variance. Closed forms, no modules.

With W of independent N(0, gain²/fan_in) entries and z ~ N(0, q) the pre-activation that came in,
the output has E[(W φ(z))²] = gain² E[φ(z)²]. It equals q when gain² = q / E[φ(z)²].
"""

from __future__ import annotations

import math

import torch

from sigprop.errors import BadInput, suggestion


def he_gain(activation: str) -> float:
    """Return 1/√E[φ(z)²], z ~ N(0, 1): keeps the second moment behind φ.

    relu: √2; identity: 1; tanh: 1.5925 (by quadrature; only right at unit variance).

    Source: He et al. 2015, eq. 10 (ReLU); the same condition for other φ.

    Raises:
        BadInput: the activation has no gain here.

    Example:
        >>> round(he_gain("relu"), 6), round(he_gain("tanh"), 4)
        (1.414214, 1.5925)
    """
    return 1 / math.sqrt(_moments(activation)[1])


def centred_gain(activation: str) -> float:
    """Return 1/√Var[φ(z)], z ~ N(0, 1): keeps the second moment behind φ minus its mean.

    For ReLU and z ~ N(0, q): E[φ²] = q/2 and E[φ]² = q/(2π), so that subtracting the mean leaves
    Var[φ] = (q/2)(1 - 1/π), and gain² = 2/(1 - 1/π) = 2.9339. With He's gain² = 2 each layer keeps
    only 1 - 1/π = 0.68 of the variance. For odd φ (identity, tanh) the mean is 0: he_gain.

    Source: derived here; the same number is NF-ResNets' γ of ReLU (Brock et al. 2021a, sec. 3).

    Raises:
        BadInput: the activation has no gain here.

    Example:
        >>> round(centred_gain("relu"), 6)
        1.712859
    """
    mean, second = _moments(activation)
    return 1 / math.sqrt(second - mean**2)


def _moments(activation: str) -> tuple[float, float]:
    """Return E[φ(z)] and E[φ(z)²] for z ~ N(0, 1)."""
    if activation == "relu":
        return 1 / math.sqrt(2 * math.pi), 0.5
    if activation == "identity":
        return 0.0, 1.0
    if activation == "tanh":
        return 0.0, _tanh_second_moment()
    known = ("identity", "relu", "tanh")
    raise BadInput(f"no gain is known for {activation!r}; {suggestion(activation, known)}")


def _tanh_second_moment() -> float:
    # the trapezoidal rule converges exponentially for an analytic integrand that dies at both ends
    z = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(torch.tanh(z) ** 2 * density, z))
