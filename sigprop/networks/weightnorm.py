"""Weights of unit norm times a gain: weight normalization, its scaled form, NormProp."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import nn

from sigprop.networks.arguments import check_number
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.first_batch import Affine
from sigprop.networks.gains import gaussian_moments, jacobian_gain
from sigprop.networks.layers import Standardize
from sigprop.networks.norms import MeanOnlyBatchNorm, refuse_transformer
from sigprop.networks.recipe import Recipe
from sigprop.networks.residual import ResidualNet
from sigprop.networks.weights import Weighted, unit_rows

_TOKENS = "weights of a Transformer are not reparametrized here"


@register("weightnorm")
def weightnorm(design: Design, mean_only: bool = False, data_dependent: bool = True) -> nn.Module:
    """Return x + F(x) with weights w = g v/‖v‖, g and b set from the first mini-batch.

    v ~ N(0, 0.05²); with t = v.x/‖v‖, g = 1/std[t] and b = -mean[t]/std[t] on the first training
    batch, layer by layer in the forward of that batch, so that every pre-activation has mean 0 and
    variance 1 on it. (A slide's g = 1/√(var(v.x)/‖v‖) leaves the std at ‖v‖^(-1/2).) The trunk is
    a sum of such branches: k + 1 as with batch normalization, at the start only.

    Source: Salimans & Kingma 2016, eqs. 2, 6 and 10; skip connections as in their ResNets.

    Args:
        design: sizes and orders; skip=False is the paper's plain network.
        mean_only: mean-only batch normalization after the weight, which makes b superfluous.
        data_dependent: as above; else g = ‖v‖, torch's choice, which changes nothing.

    Raises:
        BadInput: a Transformer; or, in the first forward, a batch with one value per channel.
    """
    refuse_transformer(design, "weightnorm", _TOKENS)

    def after(layer: Weighted, gain: float, dims: int) -> nn.Module:
        """Return the learned scale and bias after a weight of unit rows."""
        channels = layer.weight.shape[0]
        # ‖v‖ of torch's choice is 0.05 √fan_in in the mean
        start = 1.0 if data_dependent else 0.05 * math.sqrt(layer.weight[0].numel())
        affine = Affine(channels, dims, start, not mean_only, data_dependent)
        return nn.Sequential(affine, MeanOnlyBatchNorm(channels, dims)) if mean_only else affine

    return ResidualNet(design, Recipe(weight=_directions, after_weight=after, head_bias=True))


@register("scaled-weightnorm")
def scaled_weightnorm(design: Design, power: float = 0.5, scaled: bool = True) -> nn.Module:
    """Return x + B^(-power) F(x) with rows of norm √(2 fan_in/fan_out), B the number of blocks.

    Squared norms grow as (1 + B^(-2 power))^B at the start, forward and backward: towards e for
    1/√B, which the authors' code has, by 1 + 1/B for the 1/B of their text, 2^B without.

    Source: Arpit, Campos & Bengio 2019; E‖Wx‖² = ‖x‖² for ReLU's gain 2, 1 for a linear layer.

    Args:
        design: sizes and orders.
        power: 1/2, 1 or 0.
        scaled: False is g = 1, which halves the squared norm at every square layer.

    Raises:
        BadInput: a power that is negative or infinite, or a Transformer.
    """
    refuse_transformer(design, "scaled-weightnorm", _TOKENS)
    check_number("power", power)

    def after(layer: Weighted, gain: float, dims: int) -> nn.Module:
        """Return the learned scale, which begins at the gain, and a bias."""
        fan_in, fan_out = layer.weight[0].numel(), _fan_out(layer)
        norm = gain * math.sqrt(fan_in / fan_out) if scaled else 1.0
        return Affine(layer.weight.shape[0], dims, norm)

    scale = design.additions**-power
    recipe = Recipe(
        weight=_orthogonal_rows, after_weight=after, beta=lambda k: scale, head_bias=True
    )
    return ResidualNet(design, recipe)


@register("normprop")
def normprop(design: Design, jacobian: bool = True) -> nn.Module:
    """Return h_l = (f(γ w.h_{l-1}/‖w‖ + b) - E f)/std f without skips: normalized by constants.

    For ReLU the constants are √(1/2π) = 0.3989 and √((1-1/π)/2) = 0.5838, and γ starts at 1/1.21,
    1.21 = √(π/(π-1)), which gives the layer's Jacobian unit singular values on average and makes
    the output's variance 1/1.4669 of what the constants assume. Inputs should be standardized.

    Source: Arpit et al. 2016 (Normalization Propagation), eqs. 5, 8 and 10.

    Args:
        design: sizes; depth is the number of layers; its order, skips and branches are set here.
        jacobian: γ = std f/√E f'², 1/1.21 for ReLU; else 1.

    Raises:
        BadInput: a Transformer.
    """
    refuse_transformer(design, "normprop", _TOKENS)
    gamma = jacobian_gain(design.activation) if jacobian else 1.0
    mean, second = gaussian_moments(design.activation)
    std = math.sqrt(second - mean**2)
    chain = replace(design, skip=False, branch_layers=1, order="weight-norm-act", block="basic")
    recipe = Recipe(
        weight=_directions,
        after_weight=lambda layer, gain, dims: Affine(layer.weight.shape[0], dims, gamma),
        after_act=lambda channels, dims: Standardize(mean, std),
        head_bias=True,
    )
    return ResidualNet(chain, recipe)


def _directions(layer: Weighted, gain: float) -> None:
    nn.init.normal_(layer.weight, std=0.05)
    unit_rows(layer)


def _orthogonal_rows(layer: Weighted, gain: float) -> None:
    nn.init.orthogonal_(layer.weight)
    unit_rows(layer)


def _fan_out(layer: Weighted) -> int:
    # k·k of a convolution counts on both sides, so that only channels decide; groups share inputs
    return layer.weight.shape[0] // getattr(layer, "groups", 1) * layer.weight[0, 0].numel()
