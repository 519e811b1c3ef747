"""The plain residual network: x + F(x), He initialisation, nothing that holds the signal."""

from __future__ import annotations

from torch import nn

from sigprop.networks.catalogue import register
from sigprop.networks.design import Design
from sigprop.networks.residual import Recipe, ResidualNet


@register("plain")
def plain(design: Design) -> nn.Module:
    """Return x_k = x_{k-1} + F_k(x_{k-1}) with He weights and zero-initialised biases after them.

    Each block doubles the second moment of the signal at initialisation: 2^L after L blocks.

    Source: He et al. 2015 (initialisation), He et al. 2016b (skeleton) without normalisation.

    Args:
        design: sizes and orders.
    """
    return ResidualNet(design, Recipe(bias_after=True))
