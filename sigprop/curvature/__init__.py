"""Curvature of a loss: Hessian eigenvalues, and how they stand to what an optimizer can follow."""

from sigprop.curvature.directional import critical_sharpness
from sigprop.curvature.hessian import sharpness
from sigprop.curvature.lines import Stability, look_at_stability, stability, stability_line
from sigprop.curvature.regression import Regression, linear_regression, whitened

__all__ = [
    "Regression",
    "Stability",
    "critical_sharpness",
    "linear_regression",
    "look_at_stability",
    "sharpness",
    "stability",
    "stability_line",
    "whitened",
]
