"""What a finite width adds: how much one draw of weights scatters around the mean-field law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from sigprop.errors import BadInput
from sigprop.theory.activations import Array
from sigprop.theory.arguments import one_of, whole
from sigprop.theory.quadrature import pair_expectation

_LAYER = {"relu": 5.0, "linear": 2.0}  # n Var(q_l / q_{l-1}) of one layer


def squared_ratio(width: int, depth: int, kind: str = "relu") -> float:
    """Return E (q_L / q_0)^2 = (1 + 5/n)^L exactly (linear: 1 + 2/n), He weights, one input.

    Hanin & Rolnick 2018; E q_L / q_0 = 1. The same holds for a Jacobian-vector product. Estimates
    are heavy-tailed: use L/n below 0.1, or the log.

    Args:
        width: n, units of a layer.
        depth: L, number of layers.
        kind: of layer: ``"relu"`` (He weights) or ``"linear"``.

    Raises:
        UnknownName: a kind other than ``"relu"`` or ``"linear"``.
        BadInput: a width below 1 or a negative depth.

    Example:
        >>> round(squared_ratio(100, 10), 6)
        1.628895
    """
    extra = _LAYER[one_of("kind", kind, _LAYER)] / whole("width", width, 1)
    return float((1 + extra) ** whole("depth", depth))


@dataclass(frozen=True)
class LogMoments:
    """Mean and variance of log(q_L / q_0) over weights."""

    mean: float
    variance: float


def log_moments(width: int, depth: int, kind: str = "relu") -> LogMoments:
    """Return the exact mean and variance of log(q_L / q_0); about -5L/2n and 5L/n for ReLU.

    A linear layer is (1/n) chi^2_n: log(2/n) + psi(n/2), psi_1(n/2). A He ReLU layer has K ~
    Bin(n, 1/2) active units: (2/n) chi^2_K, given that K > 0 (a layer is dead with chance 2^-n).

    Args:
        width: n, units of a layer.
        depth: L, number of layers.
        kind: of layer: ``"relu"`` (He weights) or ``"linear"``.

    Returns:
        Mean and variance over weights, of a natural logarithm.

    Raises:
        UnknownName: a kind other than ``"relu"`` or ``"linear"``.
        BadInput: a width below 1 or a negative depth.

    Example:
        >>> found = log_moments(100, 10)
        >>> round(found.mean, 4), round(found.variance, 4)  # near -0.25 and 0.5
        (-0.2542, 0.5194)
    """
    n, layers = whole("width", width, 1), whole("depth", depth)
    if one_of("kind", kind, _LAYER) == "linear":
        center = math.log(2 / n) + float(special.psi(n / 2))
        return LogMoments(layers * center, layers * float(special.polygamma(1, n / 2)))
    active = np.arange(1, n + 1)
    ways = special.gammaln(n + 1) - special.gammaln(active + 1) - special.gammaln(n - active + 1)
    weight = np.exp(ways - n * math.log(2))  # binomial(n, 1/2)
    weight = weight / weight.sum()
    means = math.log(4 / n) + special.psi(active / 2)
    center = float(weight @ means)
    spread = float(weight @ (special.polygamma(1, active / 2) + (means - center) ** 2))
    return LogMoments(layers * center, layers * spread)


def _sign_overlap(correlation: float) -> float:
    """Return E sgn(u)u^2 sgn(v)v^2 / 3: how far two layers rectify the same half."""
    return pair_expectation(lambda u: u * np.abs(u), 1.0, min(correlation, 1.0), (0.0,)) / 3


def _persistent(share: Array) -> float:
    """Return sum_jk s_j s_k R(r_jk), r_jk the cosine between trunks j and k blocks in."""
    kept = np.concatenate([[0.0], np.cumsum(np.log1p(-np.minimum(share[:-1], 1 - 1e-12)) / 2)])
    total = float(np.sum(share**2))
    for gap in range(1, len(share)):
        cosines = np.exp(kept[gap:] - kept[:-gap])
        pairs = share[gap:] * share[:-gap]
        if not pairs.any():
            continue
        # R is smooth: one evaluation at the pairs' weighted cosine is within 1e-3 of the sum
        total += 2 * float(pairs.sum()) * _sign_overlap(float(np.average(cosines, weights=pairs)))
    return total


def residual_log_variance(
    skip: npt.ArrayLike, scale: npt.ArrayLike, width: int, layers: int = 2, kind: str = "relu"
) -> float:
    """Return Var log(q_L / q_0) of a residual stack, one input, norm-keeping branches, order 1/n.

    With s_k = b^2 / (a^2 + b^2): (1/n) [sum 4 s(1-s) + (5m - 3) s^2 + 3 sum_jk s_j s_k R_jk] for
    ReLU: the cross term x.F; each branch's own weights; and the trunk's share above 0, which blocks
    have in common. Linear: sum 4 s(1-s) + 2m s^2. A batch mean scatters less than one input, so
    this is the bound that tolerances use.

    Args:
        skip: a_k, shape ``(L,)``.
        scale: b_k, shape ``(L,)``.
        width: n.
        layers: m, in the order act-weight.
        kind: ``"relu"`` or ``"linear"``.

    Raises:
        UnknownName: another kind.
        BadInput: vectors that differ in length or are empty, a width or m below 1.

    Example:
        >>> round(residual_log_variance([0.0] * 10, [1.0] * 10, 100, 1), 6)  # plain: 5L/n
        0.5
    """
    a, b = np.asarray(skip, dtype=np.float64), np.asarray(scale, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise BadInput(
            f"skip and scale must be vectors of one length; got shapes {a.shape} and {b.shape}"
        )
    n, m = whole("width", width, 1), whole("layers", layers, 1)
    total = a**2 + b**2
    if not np.all(total > 0):
        raise BadInput("every block needs a skip or a scale other than 0")
    share = b**2 / total
    cross = float(np.sum(4 * share * (1 - share)))
    if one_of("kind", kind, _LAYER) == "linear":
        return (cross + 2 * m * float(np.sum(share**2))) / n
    own = (5 * m - 3) * float(np.sum(share**2))
    return (cross + own + 3 * _persistent(share)) / n


def mean_ratio_tolerance(log_variance: float, seeds: int, errors: float = 4.0) -> float:
    """Return ``errors`` standard errors of the mean of q_L / q_0 over seeds, a log-normal's.

    Args:
        log_variance: Var log(q_L / q_0) of one draw of weights.
        seeds: number of draws that are averaged.
        errors: how many standard errors.

    Returns:
        An absolute deviation of the mean ratio from 1.

    Raises:
        BadInput: a negative log variance or number of errors, fewer than one seed.

    Example:
        >>> round(mean_ratio_tolerance(0.01, 25), 4)
        0.0802
    """
    whole("seeds", seeds, 1)
    if not (log_variance >= 0 and errors >= 0):
        raise BadInput("log_variance and errors must not be below 0")
    return errors * math.sqrt(math.expm1(log_variance) / seeds)
