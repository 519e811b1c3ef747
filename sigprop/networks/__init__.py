"""Residual networks to look at, by name: plain nn.Modules one could paste into a project.

Nothing here measures anything. `register` adds a network of one's own.
"""

from sigprop.networks import batchnorm, plain, rescale
from sigprop.networks.catalogue import NETWORKS, build, names, options, register
from sigprop.networks.design import Design
from sigprop.networks.gains import centred_gain, he_gain
from sigprop.networks.layers import Add, BiasBefore, Multiplier, Scale
from sigprop.networks.rescale import coefficients
from sigprop.networks.residual import Recipe, ResidualBlock, ResidualNet

__all__ = [
    "NETWORKS",
    "Add",
    "BiasBefore",
    "Design",
    "Multiplier",
    "Recipe",
    "ResidualBlock",
    "ResidualNet",
    "Scale",
    "batchnorm",
    "build",
    "centred_gain",
    "coefficients",
    "he_gain",
    "names",
    "options",
    "plain",
    "register",
    "rescale",
]
