"""Linear maps that are known by their products with vectors: Jacobians, Hessians, convolutions.

What the instruments on a user's model share: the map and its transpose, its largest values, its
spectral density, a model as a function of its tensors, and whether that function is deterministic.
"""

from __future__ import annotations

from sigprop.linear_operators.density import Quadrature, spectral_density, tridiagonal
from sigprop.linear_operators.determinism import require_deterministic
from sigprop.linear_operators.extremes import (
    Extremes,
    largest_eigenvalues,
    largest_singular_values,
)
from sigprop.linear_operators.flattened import Flattened
from sigprop.linear_operators.operator import Operator
from sigprop.linear_operators.stateless import Stateless

__all__ = [
    "Extremes",
    "Flattened",
    "Operator",
    "Quadrature",
    "Stateless",
    "largest_eigenvalues",
    "largest_singular_values",
    "require_deterministic",
    "spectral_density",
    "tridiagonal",
]
