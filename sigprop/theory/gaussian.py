"""Gaussian integrals of activations: moments, gains, correlation maps; closed form or quadrature.

u, v ~ N(0, q) with correlation c throughout. ``method="auto"`` takes the closed form where one is
known; ``"quadrature"`` is its twin, built without it, so that each can check the other.
"""

from __future__ import annotations

import math
from typing import Literal

from sigprop.errors import BadInput
from sigprop.theory.activations import Activation, ClosedForm, activation
from sigprop.theory.arguments import non_negative, one_of, positive, within
from sigprop.theory.quadrature import expectation, pair_expectation

Method = Literal["auto", "closed", "quadrature"]


def _closed(which: Activation, method: str) -> ClosedForm | None:
    one_of("method", method, ("auto", "closed", "quadrature"))
    if method == "closed" and which.closed is None:
        raise BadInput(f"no closed form is known for {which.name!r}; use method='quadrature'")
    return None if method == "quadrature" else which.closed


def mean(which: str | Activation, variance: float = 1.0, *, method: Method = "auto") -> float:
    """Return E f(u), u ~ N(0, variance); ReLU: sqrt(q / 2 pi).

    Args:
        which: the activation, by name or as an `Activation`.
        variance: q of u.
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, or a closed form that is not known.

    Example:
        >>> round(mean("relu"), 6)  # NormProp's constant, Arpit et al. 2016
        0.398942
    """
    f, q = activation(which), non_negative("variance", variance)
    closed = _closed(f, method)
    return closed.mean(q) if closed else expectation(f.f, q, f.kinks)


def second_moment(
    which: str | Activation, variance: float = 1.0, *, method: Method = "auto"
) -> float:
    """Return E f(u)^2, u ~ N(0, variance); ReLU: q / 2 (He et al. 2015).

    Args:
        which: the activation, by name or as an `Activation`.
        variance: q of u.
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, or a closed form that is not known.

    Example:
        >>> second_moment("relu", 3.0)
        1.5
    """
    return covariance(which, variance, 1.0, method=method)


def variance(which: str | Activation, variance: float = 1.0, *, method: Method = "auto") -> float:
    """Return Var f(u), u ~ N(0, variance); ReLU: q (1 - 1/pi) / 2.

    Args:
        which: the activation, by name or as an `Activation`.
        variance: q of u.
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, or a closed form that is not known.

    Example:
        >>> round(variance("relu"), 6)
        0.340845
    """
    first = mean(which, variance, method=method)
    return second_moment(which, variance, method=method) - first * first


def excess_kurtosis(which: str | Activation, variance: float = 1.0) -> float:
    """Return E (f(u) - E f)^4 / Var^2 f - 3, u ~ N(0, variance); ReLU: 2.4, whatever q.

    Args:
        which: the activation, by name or as an `Activation`.
        variance: q of u, above 0.

    Raises:
        UnknownName: no such activation.
        BadInput: a variance of 0 or less.

    Example:
        >>> round(excess_kurtosis("relu"), 6), round(excess_kurtosis("identity"), 6)
        (2.407639, 0.0)
    """
    f, q = activation(which), positive("variance", variance)
    center = expectation(f.f, q, f.kinks)
    second, fourth = (
        expectation(lambda u, p=p: (f.f(u) - center) ** p, q, f.kinks)  # type: ignore[misc]
        for p in (2, 4)
    )
    return fourth / second / second - 3  # the square of a variance may leave float64


def slope_second_moment(
    which: str | Activation, variance: float = 1.0, *, method: Method = "auto"
) -> float:
    """Return E f'(u)^2, u ~ N(0, variance): what a gradient keeps; ReLU: 1/2.

    Args:
        which: the activation, by name or as an `Activation`.
        variance: q of u.
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, or a closed form that is not known.

    Example:
        >>> slope_second_moment("relu")
        0.5
    """
    return slope_covariance(which, variance, 1.0, method=method)


def covariance(
    which: str | Activation, variance: float, correlation: float, *, method: Method = "auto"
) -> float:
    """Return E f(u) f(v), not centered; ReLU: q kappa(c) / 2 (Cho & Saul 2009).

    Args:
        which: the activation, by name or as an `Activation`.
        variance: q of u and v.
        correlation: c of u and v, in [-1, 1].
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, a correlation outside [-1, 1], or no closed form.

    Example:
        >>> round(covariance("relu", 1.0, 0.0), 6)  # 1 / 2 pi
        0.159155
    """
    f, q = activation(which), non_negative("variance", variance)
    c = within("correlation", correlation, -1, 1)
    closed = _closed(f, method)
    return closed.covariance(q, c) if closed else pair_expectation(f.f, q, c, f.kinks)


def slope_covariance(
    which: str | Activation, variance: float, correlation: float, *, method: Method = "auto"
) -> float:
    """Return E f'(u) f'(v); ReLU: (pi - arccos c) / 2 pi.

    Args:
        which: the activation, by name or as an `Activation`.
        variance: q of u and v.
        correlation: c of u and v, in [-1, 1].
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative variance, a correlation outside [-1, 1], or no closed form.

    Example:
        >>> round(slope_covariance("relu", 1.0, 0.0), 12)
        0.25
    """
    f, q = activation(which), non_negative("variance", variance)
    c = within("correlation", correlation, -1, 1)
    closed = _closed(f, method)
    return closed.slope_covariance(q, c) if closed else pair_expectation(f.slope, q, c, f.kinks)


def correlation_map(
    which: str | Activation, correlation: float, variance: float = 1.0, *, method: Method = "auto"
) -> float:
    """Return E f(u)f(v) / E f(u)^2: the correlation after a bias-free layer (ReLU: kappa).

    Args:
        which: the activation, by name or as an `Activation`.
        correlation: c of u and v, in [-1, 1].
        variance: q of u and v.
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.
        BadInput: a variance of 0 or less, a correlation outside [-1, 1], or no closed form.

    Example:
        >>> round(correlation_map("relu", 0.0), 6)  # 1 / pi
        0.31831
    """
    q = positive("variance", variance)
    both = covariance(which, q, correlation, method=method)
    return both / second_moment(which, q, method=method)


def gamma(which: str | Activation, *, method: Method = "auto") -> float:
    """Return 1 / std f(z), z ~ N(0, 1): the gain of NF-ResNets (Brock et al. 2021, section 4).

    Args:
        which: the activation, by name or as an `Activation`.
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.

    Example:
        >>> round(gamma("relu"), 6), round(gamma("silu"), 6)
        (1.712859, 1.787187)
    """
    return 1 / math.sqrt(variance(which, method=method))


def gain(which: str | Activation, *, method: Method = "auto") -> float:
    """Return 1 / sqrt(E f(z)^2), z ~ N(0, 1): the He-type gain (He et al. 2015).

    Args:
        which: the activation, by name or as an `Activation`.
        method: ``"auto"``, ``"closed"`` or ``"quadrature"``.

    Raises:
        UnknownName: no such activation.

    Example:
        >>> round(gain("relu"), 6), round(gain("gelu"), 4)
        (1.414214, 1.5335)
    """
    return 1 / math.sqrt(second_moment(which, method=method))
