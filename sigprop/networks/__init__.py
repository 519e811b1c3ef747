"""The zoo: networks to compare, by name. Plain nn.Modules one could paste into a project.

Nothing here measures anything. `register` adds a network of one's own; `rescale_` and its siblings
change a model of one's own.
"""

# isort: off
# in the order in which they are listed
from sigprop.networks import plain, normalized, rescale
from sigprop.networks import fixup, weightnorm, nf_networks, deepnorm, width_transfer, vgg, lstm

# isort: on
from sigprop.networks.agc import AGC, clip_adaptively, unit_norms
from sigprop.networks.catalog import NETWORKS, build, names, options, register, resolve
from sigprop.networks.deepnorm import deepnorm_constants
from sigprop.networks.design import Design
from sigprop.networks.first_batch import Affine, BiasBefore, DataDependentLayer
from sigprop.networks.gains import centered_gain, he_gain, jacobian_gain, official_gamma
from sigprop.networks.layers import (
    Add,
    Multiplier,
    ScalarBias,
    Scale,
    SqueezeExcite,
    Standardize,
    StochasticDepth,
)
from sigprop.networks.lsuv import lsuv_
from sigprop.networks.network import Network
from sigprop.networks.nf import expected_stds
from sigprop.networks.norms import MeanOnlyBatchNorm
from sigprop.networks.recipe import Recipe
from sigprop.networks.rescale import coefficients
from sigprop.networks.residual import ChainBlock, ResidualBlock, ResidualNet
from sigprop.networks.submodules import Change
from sigprop.networks.surgery import RescaledAdd, center_, rescale_, standardize_
from sigprop.networks.weights import Standardized, UnitRows
from sigprop.networks.width_transfer import mup_groups, unit_scaled_taus

__all__ = [
    "AGC",
    "NETWORKS",
    "Add",
    "Affine",
    "BiasBefore",
    "ChainBlock",
    "Change",
    "DataDependentLayer",
    "Design",
    "MeanOnlyBatchNorm",
    "Multiplier",
    "Network",
    "Recipe",
    "RescaledAdd",
    "ResidualBlock",
    "ResidualNet",
    "ScalarBias",
    "Scale",
    "SqueezeExcite",
    "Standardize",
    "Standardized",
    "StochasticDepth",
    "UnitRows",
    "build",
    "center_",
    "centered_gain",
    "clip_adaptively",
    "coefficients",
    "deepnorm",
    "deepnorm_constants",
    "expected_stds",
    "fixup",
    "he_gain",
    "jacobian_gain",
    "lstm",
    "lsuv_",
    "mup_groups",
    "names",
    "nf_networks",
    "normalized",
    "official_gamma",
    "options",
    "plain",
    "register",
    "rescale",
    "rescale_",
    "resolve",
    "standardize_",
    "unit_norms",
    "unit_scaled_taus",
    "vgg",
    "weightnorm",
    "width_transfer",
]
