"""Limits of spectra: Marchenko-Pastur, quarter circle, Fuss-Catalan, and the edge at width N."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sigprop.errors import BadInput
from sigprop.theory.activations import Array
from sigprop.theory.arguments import whole

#: Mean and standard deviation of the Tracy-Widom law of real matrices (Bornemann 2010, Table 10).
_TRACY_WIDOM_MEAN, _TRACY_WIDOM_DEVIATION = -1.2065335745820, 1.2681241586127


@dataclass(frozen=True)
class Edges:
    """The least and the largest singular value of a limit law."""

    low: float
    high: float


def _ratio(ratio: float) -> float:
    if not 0 < ratio <= 1:
        raise BadInput(f"ratio is rows over columns of the flat side, in (0, 1]; got {ratio!r}")
    return float(ratio)


def marchenko_pastur_edges(ratio: float = 1.0) -> Edges:
    """Return 1 - √r and 1 + √r: the edges of the singular values of a wide Gaussian matrix.

    Args:
        ratio: r = m/n of a matrix of m rows and n ≥ m columns, entries of variance 1/n.

    Raises:
        BadInput: a ratio outside (0, 1].

    Example:
        >>> marchenko_pastur_edges(0.25)
        Edges(low=0.5, high=1.5)
    """
    root = math.sqrt(_ratio(ratio))
    return Edges(1 - root, 1 + root)


def marchenko_pastur(sigma: npt.ArrayLike, ratio: float = 1.0) -> Array:
    """Return the density of singular values √((b² - σ²)(σ² - a²)) / (π r σ) between the edges.

    Marchenko & Pastur 1967, for σ in place of σ². At r = 1 it is the quarter circle
    √(4 - σ²) / π.

    Args:
        sigma: where, shape (k,).
        ratio: r = m/n of a matrix of m rows and n ≥ m columns, entries of variance 1/n.

    Returns:
        The density at each, shape (k,); it integrates to 1 over σ.

    Raises:
        BadInput: a ratio outside (0, 1].

    Example:
        >>> marchenko_pastur([0.0, 1.0, 3.0]).round(6).tolist()  # 2/π, √3/π
        [0.63662, 0.551329, 0.0]
    """
    edges = marchenko_pastur_edges(ratio)
    s = np.asarray(sigma, dtype=np.float64)
    if ratio == 1:
        return np.sqrt(np.maximum(4 - s**2, 0)) / math.pi * (s >= 0)
    inside = (s > edges.low) & (s < edges.high)
    square = np.where(inside, (edges.high**2 - s**2) * (s**2 - edges.low**2), 0)
    return np.where(inside, np.sqrt(square) / (math.pi * ratio * np.where(inside, s, 1)), 0)


def fuss_catalan_density(factors: int, points: int = 400) -> tuple[Array, Array]:
    """Return the density of the squared singular values of a product of M square matrices.

    x = sin^{M+1}((M+1)φ) / (sin φ sin^M(Mφ)) has the density
    sin²φ sin^{M-1}(Mφ) / (π sin^M((M+1)φ)) for 0 < φ < π/(M+1) (Forrester & Liu 2015, section 2).
    Its k-th moment is `fuss_catalan`; it diverges at 0 as x^{-M/(M+1)}.

    Args:
        factors: M, of entries of variance 1/N, N -> infinity.
        points: how many values of φ, evenly spaced inside its range.

    Returns:
        x in ascending order and the density there, shape (points,) each.

    Raises:
        BadInput: fewer than one factor or point.

    Example:
        >>> x, density = fuss_catalan_density(2, 4000)
        >>> round(float(np.trapezoid(x * density, x)), 3)  # the first moment
        1.0
    """
    m, count = whole("factors", factors, 1), whole("points", points, 1)
    phi = math.pi / (m + 1) * (np.arange(count, 0, -1) - 0.5) / count
    high, low = np.sin((m + 1) * phi), np.sin(m * phi)
    x = high ** (m + 1) / (np.sin(phi) * low**m)
    return x, np.sin(phi) ** 2 * low ** (m - 1) / (math.pi * high**m)


@dataclass(frozen=True)
class Largest:
    """Mean and standard deviation of the largest singular value over draws."""

    mean: float
    deviation: float


def largest_singular_value(rows: int, columns: int) -> Largest:
    """Return what the largest singular value of a Gaussian matrix of finite size is.

    n σ² lies μ + s·TW_1 with μ = (√(n - 1) + √m)² and s = √μ (1/√(n - 1) + 1/√m)^{1/3}
    (Johnstone 2001, for entries of variance 1): below the edge 1 + √(m/n) by about N^{-2/3}.

    Args:
        rows: m.
        columns: n, entries of variance 1/n.

    Returns:
        Mean and deviation, to first order in the spread.

    Raises:
        BadInput: a size below 2.

    Example:
        >>> found = largest_singular_value(400, 400)
        >>> round(found.mean, 4), round(found.deviation, 4)
        (1.9847, 0.0148)
    """
    m, n = whole("rows", rows, 2), whole("columns", columns, 2)
    a, b = math.sqrt(n - 1), math.sqrt(m)
    center, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    mean = center + scale * _TRACY_WIDOM_MEAN
    deviation = scale * _TRACY_WIDOM_DEVIATION / (2 * math.sqrt(mean * n))
    return Largest(math.sqrt(mean / n), deviation)
