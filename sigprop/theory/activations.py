"""Activations by name: function, slope, kinks, and closed Gaussian integrals where known.

Plain numpy functions of an array; no modules, no parameters but a leaky slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from sigprop.registry import Registry
from sigprop.theory.arguments import number

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class ClosedForm:
    """Gaussian integrals known in closed form; u, v ~ N(0, q) with correlation c.

    Args:
        mean: ``q -> E f(u)``.
        covariance: ``(q, c) -> E f(u) f(v)`` (not centered).
        slope_covariance: ``(q, c) -> E f'(u) f'(v)``.
    """

    mean: Callable[[float], float]
    covariance: Callable[[float, float], float]
    slope_covariance: Callable[[float, float], float]


@dataclass(frozen=True)
class Activation:
    """One activation: everything the Gaussian integrals need.

    Args:
        name: its name in ``ACTIVATIONS``.
        f: the function, array to array.
        slope: its derivative (any value at a kink).
        kinks: where f or f' is not smooth; quadrature splits there.
        closed: closed forms, or None when only quadrature is known.
        leak: the slope below 0 of a leaky ReLU, None for any other activation.
    """

    name: str
    f: Function
    slope: Function
    kinks: tuple[float, ...] = ()
    closed: ClosedForm | None = None
    leak: float | None = None


ACTIVATIONS: Registry[Activation] = Registry("activation")


def activation(which: str | Activation) -> Activation:
    """Return the activation called ``which``, or ``which`` itself.

    Raises:
        UnknownName: no activation has that name.

    Example:
        >>> activation("relu").kinks
        (0.0,)
    """
    return which if isinstance(which, Activation) else ACTIVATIONS[which]


def leaky_relu(slope: float) -> Activation:
    """Return max(u, slope u): ReLU at 0, the identity at 1.

    With f(u) = s u + (1-s) relu(u) every integral follows from ReLU's arc-cosine kernels
    (Cho & Saul 2009): E f(u)^2 = q (1+s^2)/2.

    Raises:
        BadInput: the slope is not a finite number.

    Example:
        >>> round(leaky_relu(0.2).closed.covariance(1.0, 1.0), 12)
        0.52
    """
    s = number("slope", slope)

    def rectified(u: Array) -> Array:
        """Return f(u)."""
        return np.where(u > 0, u, s * u)

    def gradient(u: Array) -> Array:
        """Return f'(u)."""
        return np.where(u > 0, 1.0, s)

    def covariance(q: float, c: float) -> float:
        """Return E f(u) f(v)."""
        angle = math.acos(c)
        arc = (math.sqrt(1 - c * c) + c * (math.pi - angle)) / (2 * math.pi)
        return q * (s * c + (1 - s) ** 2 * arc)

    def slope_covariance(q: float, c: float) -> float:
        """Return E f'(u) f'(v)."""
        return s + (1 - s) ** 2 * (math.pi - math.acos(c)) / (2 * math.pi)

    closed = ClosedForm(
        lambda q: (1 - s) * math.sqrt(q / (2 * math.pi)), covariance, slope_covariance
    )
    return Activation(f"leaky_relu({s:g})", rectified, gradient, (0.0,), closed, s)


def _erf_covariance(q: float, c: float) -> float:
    return 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))


def _erf_slope_covariance(q: float, c: float) -> float:
    return 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)


_ERF = ClosedForm(lambda q: 0.0, _erf_covariance, _erf_slope_covariance)
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017


def _elu(u: Array) -> Array:
    return np.where(u > 0, u, np.expm1(np.minimum(u, 0.0)))


def _elu_slope(u: Array) -> Array:
    return np.exp(np.minimum(u, 0.0))


def _selu(u: Array) -> Array:
    return _SELU_SCALE * np.where(u > 0, u, _SELU_ALPHA * np.expm1(np.minimum(u, 0.0)))


def _selu_slope(u: Array) -> Array:
    return _SELU_SCALE * np.where(u > 0, 1.0, _SELU_ALPHA * np.exp(np.minimum(u, 0.0)))


def _density(u: Array) -> Array:
    return np.exp(-u * u / 2) / math.sqrt(2 * math.pi)


def _tanh_slope(u: Array) -> Array:
    return 1 - np.tanh(u) ** 2


def _gelu_tanh_inner(u: Array) -> Array:
    return np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))


def _gelu_tanh_slope(u: Array) -> Array:
    t = _gelu_tanh_inner(u)
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * u * u)
    return 0.5 * (1 + t) + 0.5 * u * (1 - t * t) * inner


def _swish_slope(u: Array, beta: float) -> Array:
    s = special.expit(beta * u)
    return s + beta * u * s * (1 - s)


def _mish_slope(u: Array) -> Array:
    t = np.tanh(np.logaddexp(0, u))
    return t + u * (1 - t * t) * special.expit(u)


def _hardswish_slope(u: Array) -> Array:
    return np.where(u <= -3, 0.0, np.where(u >= 3, 1.0, (2 * u + 3) / 6))


def _register(name: str, f: Function, slope: Function, *kinks: float) -> None:
    closed = _ERF if name == "erf" else None
    ACTIVATIONS.register(name)(Activation(name, f, slope, kinks, closed))


def _register_leaky(name: str, slope: float) -> None:
    made = leaky_relu(slope)
    kinks = () if slope == 1 else made.kinks
    ACTIVATIONS.register(name)(Activation(name, made.f, made.slope, kinks, made.closed, slope))


_register_leaky("identity", 1.0)
_register_leaky("relu", 0.0)
_register_leaky("leaky_relu", 0.01)
_register("erf", special.erf, lambda u: 2 / math.sqrt(math.pi) * np.exp(-u * u))
_register("tanh", np.tanh, _tanh_slope)
_register("sigmoid", special.expit, lambda u: special.expit(u) * special.expit(-u))
_register("gelu", lambda u: u * special.ndtr(u), lambda u: special.ndtr(u) + u * _density(u))
_register("gelu_tanh", lambda u: 0.5 * u * (1 + _gelu_tanh_inner(u)), _gelu_tanh_slope)
_register("silu", lambda u: u * special.expit(u), lambda u: _swish_slope(u, 1.0))
_register("quickgelu", lambda u: u * special.expit(1.702 * u), lambda u: _swish_slope(u, 1.702))
_register("elu", _elu, _elu_slope, 0.0)
_register("celu", _elu, _elu_slope, 0.0)  # with alpha = 1, the default, it is elu
_register("selu", _selu, _selu_slope, 0.0)
_register("softplus", lambda u: np.logaddexp(0, u), special.expit)
_register("logsigmoid", lambda u: -np.logaddexp(0, -u), lambda u: special.expit(-u))
_register("softsign", lambda u: u / (1 + np.abs(u)), lambda u: 1 / (1 + np.abs(u)) ** 2, 0.0)
_register("mish", lambda u: u * np.tanh(np.logaddexp(0, u)), _mish_slope)
_register("hardswish", lambda u: u * np.clip(u + 3, 0, 6) / 6, _hardswish_slope, -3.0, 3.0)
