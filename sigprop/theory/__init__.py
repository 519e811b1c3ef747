"""What the laws predict: numbers in, numbers out. No modules, no tensors, no I/O.

Expectations over weights at initialization; wide layers unless a width is an argument.
"""

from __future__ import annotations

# activations and their Gaussian integrals
from sigprop.theory.activations import ACTIVATIONS, Activation, activation, leaky_relu

# recursions: a branch, a stack, a family by name
from sigprop.theory.branch import Branch, gain_squared, weight_branch
from sigprop.theory.dead import dead_fraction, he_dead_fraction
from sigprop.theory.decay import Fit, decay_fits
from sigprop.theory.errata import ERRATA, Erratum, sgd_noise
from sigprop.theory.families import (
    FAMILIES,
    fixup,
    fixup_scale,
    mlp,
    plain,
    predict,
    rescale,
    rezero,
    skipinit,
    unit_scaled,
    weightnorm,
)
from sigprop.theory.finite_width import (
    LogMoments,
    log_moments,
    mean_ratio_tolerance,
    residual_log_variance,
    squared_ratio,
)
from sigprop.theory.gaussian import (
    correlation_map,
    covariance,
    gain,
    gamma,
    mean,
    second_moment,
    slope_covariance,
    slope_second_moment,
    variance,
)
from sigprop.theory.kernel import Gradient, Kernel
from sigprop.theory.matrices import (
    fuss_catalan,
    fuss_catalan_edge,
    jacobian_dispersion,
    log_determinant,
    log_norm,
    lyapunov_exponents,
    product_second_moment,
    stack_growth,
)
from sigprop.theory.meanfield import (
    MeanField,
    chi,
    critical_weight_variance,
    fixed_correlation,
    fixed_point,
    iterate_correlation,
    layer_correlation,
    mean_field,
    relu_correlation_gap,
    variance_map,
)
from sigprop.theory.normalized import (
    CENTERED_RELU,
    NORMPROP_JACOBIAN,
    NORMPROP_MEAN,
    NORMPROP_STD,
    PI_CONSTANT,
    batchnorm_gradient_factor,
    batchnorm_growth,
    block_share,
    nf_growth,
    padding_factor,
)
from sigprop.theory.normed_families import batchnorm, layernorm, nf
from sigprop.theory.quadrature import expectation, pair_expectation
from sigprop.theory.residual import (
    Block,
    Coefficients,
    Prediction,
    Shares,
    coefficients,
    depth_exponents,
    depth_multiplier,
    recursion,
    shares,
)
from sigprop.theory.skeleton import Skeleton, Treatment, predict_stack
from sigprop.theory.spectral_laws import (
    fuss_catalan_density,
    largest_singular_value,
    marchenko_pastur,
    marchenko_pastur_edges,
)
from sigprop.theory.transformers import deepnorm, t_fixup, transformer

__all__ = [
    "ACTIVATIONS",
    "CENTERED_RELU",
    "ERRATA",
    "FAMILIES",
    "NORMPROP_JACOBIAN",
    "NORMPROP_MEAN",
    "NORMPROP_STD",
    "PI_CONSTANT",
    "Activation",
    "Block",
    "Branch",
    "Coefficients",
    "Erratum",
    "Fit",
    "Gradient",
    "Kernel",
    "LogMoments",
    "MeanField",
    "Prediction",
    "Shares",
    "Skeleton",
    "Treatment",
    "activation",
    "batchnorm",
    "batchnorm_gradient_factor",
    "batchnorm_growth",
    "block_share",
    "chi",
    "coefficients",
    "correlation_map",
    "covariance",
    "critical_weight_variance",
    "dead_fraction",
    "decay_fits",
    "deepnorm",
    "depth_exponents",
    "depth_multiplier",
    "expectation",
    "fixed_correlation",
    "fixed_point",
    "fixup",
    "fixup_scale",
    "fuss_catalan",
    "fuss_catalan_density",
    "fuss_catalan_edge",
    "gain",
    "gain_squared",
    "gamma",
    "he_dead_fraction",
    "iterate_correlation",
    "jacobian_dispersion",
    "largest_singular_value",
    "layer_correlation",
    "layernorm",
    "leaky_relu",
    "log_determinant",
    "log_moments",
    "log_norm",
    "lyapunov_exponents",
    "marchenko_pastur",
    "marchenko_pastur_edges",
    "mean",
    "mean_field",
    "mean_ratio_tolerance",
    "mlp",
    "nf",
    "nf_growth",
    "padding_factor",
    "pair_expectation",
    "plain",
    "predict",
    "predict_stack",
    "product_second_moment",
    "recursion",
    "relu_correlation_gap",
    "rescale",
    "residual_log_variance",
    "rezero",
    "second_moment",
    "sgd_noise",
    "shares",
    "skipinit",
    "slope_covariance",
    "slope_second_moment",
    "squared_ratio",
    "stack_growth",
    "t_fixup",
    "transformer",
    "unit_scaled",
    "variance",
    "variance_map",
    "weight_branch",
    "weightnorm",
]
