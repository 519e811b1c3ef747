"""Networks without normalization or rescaling: the residual one, and those without skips."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from sigprop.errors import BadInput
from sigprop.networks.arguments import check_known
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.gains import he_gain
from sigprop.networks.recipe import Recipe
from sigprop.networks.residual import ResidualNet
from sigprop.networks.weights import Weighted, initialize, orthogonal, xavier

INITS = {"he": initialize, "xavier": xavier, "orthogonal": orthogonal}


@register("plain")
def plain(design: Design) -> nn.Module:
    """Return x_k = x_{k-1} + F_k(x_{k-1}) with He weights and zero-initialized biases after them.

    Each block doubles the second moment of the signal at initialization: 2^L after L blocks.

    Source: He et al. 2015 (initialization), He et al. 2016b (skeleton) without normalization.

    Args:
        design: sizes and orders.
    """
    return ResidualNet(design, Recipe(bias_after=True))


@register("feedforward")
def feedforward(
    design: Design, init: str = "he", sigma_w: float | None = None, sigma_b: float = 0.0
) -> nn.Module:
    """Return h_l = W_l f(h_{l-1}) + b_l without skip connections, for mean-field experiments.

    A block is one nonlinearity and one weight, W_l ~ N(0, σ_w²/fan_in), b_l ~ N(0, σ_b²), l = 1..L;
    the stem gives the first pre-activation h_0 with the same σ_w and σ_b. A ReLU net is critical at
    (σ_w², σ_b²) = (2, 0), which is He's gain; tanh nets at a line through (1, 0).

    Source: Poole et al. 2016; Schoenholz et al. 2017; He et al. 2015; Glorot & Bengio 2010; Saxe et
    al. 2014; Xiao et al. 2018 (convolutions: use padding="circular").

    Args:
        design: sizes; its order, skips and weights per branch are set here.
        init: ``"he"`` (Gaussian, fan_in), ``"xavier"`` (Gaussian, mean of fans) or
            ``"orthogonal"`` (delta-orthogonal convolutions).
        sigma_w: σ_w, the gain; that which keeps the second moment, 1/√E[f²], when not given, and 1
            for Xavier.
        sigma_b: σ_b.

    Raises:
        BadInput: an unknown init, σ_w <= 0, σ_b < 0, or a Transformer.
    """
    check_known("init", init, INITS)
    default = 1.0 if init == "xavier" else he_gain(design.activation)
    gain = default if sigma_w is None else sigma_w
    if not 0 < gain < math.inf or not 0 <= sigma_b < math.inf:
        raise BadInput(f"sigma_w must be above 0 and sigma_b at least 0, got {sigma_w}, {sigma_b}")
    chain = replace(design, skip=False, branch_layers=1, order="norm-act-weight", block="basic")
    recipe = Recipe(
        gain=lambda activation: gain,
        weight=_with_bias(INITS[init], sigma_b),
        bias_after=True,
        stem_gain=1.0 if sigma_w is None else gain,
    )
    return ResidualNet(chain, recipe)


def _with_bias(
    init: Callable[[Weighted, float], None], sigma_b: float
) -> Callable[[Weighted, float], None]:
    def fill(layer: Weighted, gain: float) -> None:
        init(layer, gain)
        if layer.bias is not None and sigma_b:
            nn.init.normal_(layer.bias, std=sigma_b)

    return fill
