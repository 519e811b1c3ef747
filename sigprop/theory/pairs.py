"""Moments of an activation over many pairs of Gaussians of different variances at once.

`gaussian` has one pair of one variance; a map with borders has thousands of pairs of many.
"""

from __future__ import annotations

import math

import numpy as np

from sigprop.theory import gaussian
from sigprop.theory.activations import Activation, Array, Function, activation

#: Terms of the Hermite series; ELU's, whose slope has a kink, is then exact to about 1e-5.
_TERMS = 64
_GRID = np.linspace(-12.0, 12.0, 4801)


def covariances(which: str | Activation, variances: Array, matrix: Array, same: bool) -> Array:
    """Return E f(u_p) f(u_p') for Gaussians u of mean 0.

    Args:
        which: the activation.
        variances: E u_p^2, shape (R,).
        matrix: E u_p u_p', shape (R, R).
        same: the diagonal of the matrix is that of one variable with itself.

    Returns:
        A matrix of the same shape.
    """
    return _pairs(activation(which), variances, matrix, same, slope=False)


def slope_covariances(
    which: str | Activation, variances: Array, matrix: Array, same: bool
) -> Array:
    """Return E f'(u_p) f'(u_p') for Gaussians u of mean 0.

    Args:
        which: the activation.
        variances: of the u_p, shape (R,).
        matrix: their covariances, shape (R, R).
        same: whether the diagonal is that of a position with itself.
    """
    return _pairs(activation(which), variances, matrix, same, slope=True)


def means(which: str | Activation, variances: Array) -> Array:
    """Return E f(u_p), shape (R,).

    Args:
        which: the activation.
        variances: of the u_p, shape (R,).
    """
    found, inverse = np.unique(variances, return_inverse=True)
    return np.array([gaussian.mean(which, float(q)) for q in found])[inverse]


def _pairs(f: Activation, variances: Array, matrix: Array, same: bool, slope: bool) -> Array:
    if len(variances) <= 2 and np.ptp(variances) == 0:
        return _scalar(f, float(variances[0]), matrix, slope)
    scale = np.sqrt(variances[:, None] * variances)
    c = np.clip(np.divide(matrix, scale, out=np.zeros_like(matrix), where=scale > 0), -1, 1)
    if f.leak is not None:
        return _leaky(f.leak, scale, c, slope)
    made = _series(f.slope if slope else f.f, variances, c)
    if same:
        exact = gaussian.slope_second_moment if slope else gaussian.second_moment
        found, inverse = np.unique(variances, return_inverse=True)
        np.fill_diagonal(made, np.array([exact(f, float(q)) for q in found])[inverse])
    return made


def _scalar(f: Activation, q: float, matrix: Array, slope: bool) -> Array:
    of = gaussian.slope_covariance if slope else gaussian.covariance
    found, inverse = np.unique(matrix, return_inverse=True)
    values = [of(f, q, 0.0 if q == 0 else min(max(float(v) / q, -1.0), 1.0)) for v in found]
    return np.array(values)[inverse].reshape(matrix.shape)


def _leaky(leak: float, scale: Array, c: Array, slope: bool) -> Array:
    """Return ReLU's arc-cosine kernels (Cho & Saul 2009) with a slope below 0."""
    angle = math.pi - np.arccos(c)
    if slope:
        return leak + (1 - leak) ** 2 * angle / (2 * math.pi)
    arc = (np.sqrt(1 - c * c) + c * angle) / (2 * math.pi)
    return np.asarray(scale * (leak * c + (1 - leak) ** 2 * arc))


def _series(of: Function, variances: Array, c: Array) -> Array:
    """Return sum_n a_n(q) a_n(q') c^n (Mehler), a_n the normalized Hermite coefficients of f."""
    found, inverse = np.unique(variances, return_inverse=True)
    weight = np.exp(-_GRID * _GRID / 2) / math.sqrt(2 * math.pi) * (_GRID[1] - _GRID[0])
    values = of(np.sqrt(found)[:, None] * _GRID) * weight
    before, here = np.zeros_like(_GRID), np.ones_like(_GRID)
    total, power = np.zeros_like(c), np.ones_like(c)
    for n in range(_TERMS):
        coefficient = (values @ here)[inverse]
        total += coefficient[:, None] * coefficient * power
        power = power * c
        before, here = here, (_GRID * here - math.sqrt(n) * before) / math.sqrt(n + 1)
    return total
