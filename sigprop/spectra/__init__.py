"""Singular-value spectra: of weights, convolutions, Jacobians, products and activations.

Each function returns a frame with the columns of `spectra` (`docs/columns.md`), one row per
singular value; `summary` makes norms, ranks and condition numbers of any of them.
"""

from __future__ import annotations

from sigprop.records.spectrum_summary import summary
from sigprop.spectra.of_activations import covariance
from sigprop.spectra.of_convolutions import convolution
from sigprop.spectra.of_jacobians import jacobian
from sigprop.spectra.of_products import product
from sigprop.spectra.of_weights import weights
from sigprop.spectra.partial_jacobians import jacobian_norms
from sigprop.spectra.training import WeightWatch

__all__ = [
    "WeightWatch",
    "convolution",
    "covariance",
    "jacobian",
    "jacobian_norms",
    "product",
    "summary",
    "weights",
]
