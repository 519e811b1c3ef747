"""Mean-field theory of deep plain nets: q*, chi_1, c*, the depth scales, the critical line.

Variances, never standard deviations: ``weight_variance`` is sigma_w^2 (fan_in times the variance of
a weight), ``bias_variance`` sigma_b^2. Poole et al. 2016; Schoenholz et al. 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sigprop.errors import BadInput
from sigprop.theory import gaussian
from sigprop.theory.activations import Activation, Array, activation
from sigprop.theory.arguments import non_negative, positive, whole, within
from sigprop.theory.quadrature import expectation


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    from scipy import optimize  # 0.2 s to import, and only these few functions need it

    return float(optimize.brentq(f, low, high, xtol=1e-15, rtol=1e-14))


def variance_map(
    which: str | Activation, q: float, weight_variance: float, bias_variance: float
) -> float:
    """Return q' = sigma_w^2 E f(sqrt(q) z)^2 + sigma_b^2, a layer's pre-activation variance.

    Args:
        which: the activation, by name or as an `Activation`.
        q: the variance of the pre-activation that enters.
        weight_variance: sigma_w^2, fan_in times the variance of a weight.
        bias_variance: sigma_b^2.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance.

    Example:
        >>> variance_map("relu", 1.0, 2.0, 0.0)
        1.0
    """
    sw2 = non_negative("weight_variance", weight_variance)
    sb2 = non_negative("bias_variance", bias_variance)
    return sw2 * gaussian.second_moment(which, q) + sb2


def fixed_point(which: str | Activation, weight_variance: float, bias_variance: float) -> float:
    """Return q*, the variance that layers converge to (the stable one of a concave variance map).

    Args:
        which: the activation, by name or as an `Activation`.
        weight_variance: sigma_w^2, fan_in times the variance of a weight.
        bias_variance: sigma_b^2.

    Raises:
        UnknownName: no such activation.
        BadInput: the variance grows without bound, or every q is a fixed point (critical ReLU).

    Example:
        >>> round(fixed_point("tanh", 1.0, 0.05), 6)
        0.193593
    """
    f = activation(which)

    def excess(q: float) -> float:
        """Return how far a layer lifts the variance q."""
        return variance_map(f, q, weight_variance, bias_variance) - q

    scale = excess(1.0) - bias_variance
    if bias_variance == 0 and abs(scale) < 1e-12 and abs(excess(7.0)) < 1e-11:
        raise BadInput(
            f"every q is a fixed point of {f.name!r} at weight_variance {weight_variance:g}:"
            " the signal keeps the variance it starts with"
        )
    low = 1e-12
    if excess(low) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > -1e-12 * high:  # not 0: rounding must not pass for a fixed point
        high *= 2
        if high > 2.0**40:
            raise BadInput(
                f"the variance of {f.name!r} grows without bound at weight_variance"
                f" {weight_variance:g}, bias_variance {bias_variance:g}; lower the weight variance"
            )
    return _root(excess, low, high)


def chi(
    which: str | Activation, weight_variance: float, q: float, correlation: float = 1.0
) -> float:
    """Return chi = sigma_w^2 E f'(u) f'(v): the gradient's growth per layer (chi_1 at c = 1).

    Args:
        which: the activation, by name or as an `Activation`.
        weight_variance: sigma_w^2, fan_in times the variance of a weight.
        q: the variance of the pre-activation that enters.
        correlation: c of two inputs.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, or a correlation outside [-1, 1].

    Example:
        >>> round(chi("tanh", 1.0, 0.193593), 5)
        0.75903
    """
    sw2 = non_negative("weight_variance", weight_variance)
    return sw2 * gaussian.slope_covariance(which, q, correlation)


def layer_correlation(
    which: str | Activation,
    correlation: float,
    q: float,
    weight_variance: float,
    bias_variance: float,
) -> float:
    """Return c' = (sigma_w^2 E f(u) f(v) + sigma_b^2) / q', the correlation map of a layer.

    Args:
        which: the activation, by name or as an `Activation`.
        correlation: c of two inputs, before the layer.
        q: the variance of the pre-activation that enters.
        weight_variance: sigma_w^2, fan_in times the variance of a weight.
        bias_variance: sigma_b^2.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, a correlation outside [-1, 1], or q' = 0.

    Example:
        >>> round(layer_correlation("relu", 0.0, 1.0, 2.0, 0.0), 6)
        0.31831
    """
    after = positive("q'", variance_map(which, q, weight_variance, bias_variance))
    both = weight_variance * gaussian.covariance(which, q, correlation) + bias_variance
    return within("c'", both / after, -1, 1)


def iterate_correlation(
    depth: int,
    which: str | Activation = "relu",
    *,
    start: float = 0.0,
    weight_variance: float | None = None,
    bias_variance: float = 0.0,
    q: float = 1.0,
) -> Array:
    """Return c_0..c_L of the correlation map, shape ``(L + 1,)``; the variance moves along.

    Args:
        depth: L.
        which: the activation.
        start: c_0.
        weight_variance: sigma_w^2; He's 1/E f^2 when left out.
        bias_variance: sigma_b^2.
        q: the variance of the first pre-activation.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth or variance, or a correlation outside [-1, 1].

    Example:
        >>> iterate_correlation(10)[[1, 2, 3, 10]].round(6).tolist()
        [0.31831, 0.493731, 0.604826, 0.871536]
    """
    sw2 = gaussian.gain(which) ** 2 if weight_variance is None else weight_variance
    found = [within("start", start, -1, 1)]
    for _ in range(whole("depth", depth)):
        found.append(layer_correlation(which, found[-1], q, sw2, bias_variance))
        q = variance_map(which, q, sw2, bias_variance)
    return np.array(found)


def relu_correlation_gap(depth: int) -> float:
    """Return 9 pi^2 / (2 l^2): what 1 - c_l tends to in a deep He ReLU net.

    Raises:
        BadInput: a depth below 1.

    Example:
        >>> round(relu_correlation_gap(1000), 9)
        4.4413e-05
    """
    return 9 * math.pi**2 / (2 * whole("depth", depth, 1) ** 2)


def fixed_correlation(
    which: str | Activation, weight_variance: float, bias_variance: float, q: float
) -> float:
    """Return c*: 1 in the ordered phase (chi_1 <= 1), the root below 1 in the chaotic one.

    Args:
        which: the activation, by name or as an `Activation`.
        weight_variance: sigma_w^2, fan_in times the variance of a weight.
        bias_variance: sigma_b^2.
        q: the variance at which layers are, q* as a rule.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance.

    Example:
        >>> round(fixed_correlation("tanh", 2.5, 0.05, 1.0639579), 5)
        0.4468
    """
    if q == 0 or chi(which, weight_variance, q) <= 1:
        return 1.0

    def excess(c: float) -> float:
        """Return how far a layer lifts the correlation c."""
        return layer_correlation(which, c, q, weight_variance, bias_variance) - c

    gap = 0.5
    while excess(1 - gap) >= 0 and gap > 1e-9:
        gap /= 4
    if gap <= 1e-9:
        return 1.0
    return 0.0 if abs(excess(0.0)) < 1e-14 else _root(excess, 0.0, 1 - gap)


@dataclass(frozen=True)
class MeanField:
    """Where a plain net converges.

    Args:
        q: q*.
        chi1: sigma_w^2 E f'^2 at q*, the squared gradient's factor per layer.
        c: c*.
        chi_c: the correlation map's slope at c*.
        xi_c: -1/log(chi_c), the depth scale of correlations in layers (infinite at criticality).
        xi_q: that of the variance.
        phase: ``"ordered"``, ``"critical"`` or ``"chaotic"``.
    """

    q: float
    chi1: float
    c: float
    chi_c: float
    xi_c: float
    xi_q: float
    phase: str


def _depth_scale(rate: float) -> float:
    rate = abs(rate)
    if rate == 0:
        return 0.0
    return math.inf if abs(rate - 1) < 1e-9 else -1 / math.log(rate)


def _variance_rate(f: Activation, q: float, weight_variance: float) -> float:
    """Return dq'/dq = chi_1 + sigma_w^2 E f f'' = sigma_w^2 E f^2 (z^2 - 1) / 2q (Stein)."""
    if q == 0:
        return chi(f, weight_variance, 0.0)
    weighted = expectation(lambda u: f.f(u) ** 2 * (u * u / q - 1), q, f.kinks)
    return weight_variance * weighted / (2 * q)


def mean_field(which: str | Activation, weight_variance: float, bias_variance: float) -> MeanField:
    """Return q*, chi_1, c*, chi_c, xi_c, xi_q and the phase (Schoenholz et al. 2017, sections 3-4).

    Args:
        which: the activation, by name or as an `Activation`.
        weight_variance: sigma_w^2, fan_in times the variance of a weight.
        bias_variance: sigma_b^2.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, or no fixed point of the variance.

    Example:
        >>> found = mean_field("tanh", 1.0, 0.05)
        >>> round(found.chi1, 6), round(found.xi_c, 3), found.phase
        (0.759032, 3.627, 'ordered')
    """
    f = activation(which)
    q = fixed_point(f, weight_variance, bias_variance)
    chi1 = chi(f, weight_variance, q)
    c = fixed_correlation(f, weight_variance, bias_variance, q)
    chi_c = chi(f, weight_variance, q, c)
    phase = "critical" if abs(chi1 - 1) < 1e-9 else "ordered" if chi1 < 1 else "chaotic"
    xi_q = _depth_scale(_variance_rate(f, q, weight_variance))
    return MeanField(q, chi1, c, chi_c, _depth_scale(chi_c), xi_q, phase)


def critical_weight_variance(which: str | Activation, bias_variance: float) -> float:
    """Return the sigma_w^2 at which chi_1 = 1, on the order-to-chaos line.

    On the line sigma_w^2 = 1 / E f'^2 at q, and q solves q = E f^2 / E f'^2 + sigma_b^2.

    Args:
        which: the activation, by name or as an `Activation`.
        bias_variance: sigma_b^2.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative bias variance, or no critical point with it (ReLU has only (2, 0)).

    Example:
        >>> round(critical_weight_variance("tanh", 0.05), 6)
        1.760955
    """
    f, sb2 = activation(which), non_negative("bias_variance", bias_variance)

    def excess(q: float) -> float:
        """Return how far q lies below that of a critical layer."""
        ratio = gaussian.second_moment(f, q) / gaussian.slope_second_moment(f, q)
        return ratio + sb2 - q

    if abs(excess(1.0) - sb2) < 1e-12 and abs(excess(7.0) - sb2) < 1e-11:
        if sb2 == 0:
            return 1 / gaussian.slope_second_moment(f, 1.0)
        raise BadInput(f"{f.name!r} is critical only at bias_variance 0; got {bias_variance!r}")
    if sb2 == 0 and abs(float(f.f(np.zeros(1))[0])) < 1e-15:
        return 1 / gaussian.slope_second_moment(f, 0.0)
    grid = np.geomspace(max(sb2, 1e-6), 1e3, 200)
    signs = [excess(float(q)) > 0 for q in grid]
    turns = [i for i in range(len(grid) - 1) if signs[i] != signs[i + 1]]
    if not turns:
        raise BadInput(f"{f.name!r} has no critical point at bias_variance {bias_variance!r}")
    q = _root(excess, float(grid[turns[0]]), float(grid[turns[0] + 1]))
    return 1 / gaussian.slope_second_moment(f, q)
