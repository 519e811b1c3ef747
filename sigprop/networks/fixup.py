"""Residual networks that start as the identity: Fixup, SkipInit, ReZero, LayerScale."""

from __future__ import annotations

from torch import nn

from sigprop.networks.arguments import check_number
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.layers import Multiplier, ScalarBias
from sigprop.networks.norms import layer_norm
from sigprop.networks.recipe import LayerFactory, Recipe
from sigprop.networks.residual import ResidualNet


def _scalar_bias(channels: int, dims: int) -> nn.Module:
    return ScalarBias()


def _scale_and_bias(channels: int, dims: int) -> nn.Module:
    return nn.Sequential(Multiplier(), ScalarBias())


@register("fixup")
def fixup(design: Design) -> nn.Module:
    """Return x + s F(x) + b with F's last weight and the head at 0, the others times L^(-1/(2m-2)).

    A scalar bias stands in front of every nonlinearity and every weight of a branch, a scalar scale
    s (1 at first) and a bias after it. The network starts as its stem: loss = ln(classes) exactly,
    and only the head has a gradient. One SGD step changes the output by an amount that does not
    depend on L. The authors train scales and biases with a tenth of the learning rate and take
    He's fan_out; here it is fan_in, the same for square layers.

    Source: Zhang, Dauphin & Ma 2019, sec. 3.2.

    Args:
        design: sizes and orders.
    """
    m = design.m
    scale = design.additions ** (-1 / (2 * m - 2)) if m > 1 else 1.0
    recipe = Recipe(
        before_act=_scalar_bias,
        before_weight=_scalar_bias,
        multiplier=_scale_and_bias,
        weight_scale=lambda k: scale,
        last_weight_scale=0.0,
        head_gain=0.0,
        head_bias=True,
    )
    return ResidualNet(design, recipe)


@register("skipinit")
def skipinit(design: Design, gain: float = 0.0) -> nn.Module:
    """Return x_k = x_{k-1} + a_k F_k(x_{k-1}), a_k a learned scalar that starts at 0.

    The trunk's second moment is (1 + a²)^L at the start, so that at most a = 1/√L keeps it; with
    a = 0 every weight of a branch has gradient 0 and only the a_k move first.

    Source: De & Smith 2020, sec. 4.

    Args:
        design: sizes and orders.
        gain: a_k at the start; 0, or at most 1/√L.

    Raises:
        BadInput: a negative gain.
    """
    check_number("gain", gain)
    recipe = Recipe(bias_after=True, multiplier=lambda width, dims: Multiplier(gain))
    return ResidualNet(design, recipe)


@register("rezero")
def rezero(design: Design) -> nn.Module:
    """Return x_k = x_{k-1} + a_k F_k(x_{k-1}), a_k = 0 at first; one a per Transformer layer.

    SkipInit's equation, found independently; in a Transformer, which goes without normalization,
    the attention and the feed-forward branch of a layer share theirs. The input-output Jacobian of
    the blocks is exactly I at the start.

    Source: Bachlechner et al. 2021, eq. 1 and sec. 5.

    Args:
        design: sizes and orders.
    """
    shared = design.architecture == "transformer"
    maker = _each_twice() if shared else (lambda width, dims: Multiplier(0.0))
    return ResidualNet(design, Recipe(bias_after=True, multiplier=maker))


@register("layerscale")
def layerscale(design: Design, start: float | None = None) -> nn.Module:
    """Return x + diag(λ) F(norm x), λ learned per channel and small at first, norm a layer norm.

    λ starts at 0.1 up to depth 18, 1e-5 up to 24, and 1e-6 beyond.

    Source: Touvron et al. 2021 (CaiT), sec. 2 and appendix.

    Args:
        design: sizes and orders.
        start: λ at the start; by the depth when not given.

    Raises:
        BadInput: a negative start.
    """
    value = layer_scale_start(design.depth, start)
    recipe = Recipe(
        norm=layer_norm,
        bias_after=True,
        multiplier=lambda width, dims: Multiplier(value, width, dims),
    )
    return ResidualNet(design, recipe)


def layer_scale_start(depth: int, start: float | None = None) -> float:
    """Return LayerScale's λ at the start: as asked, else by the depth (Touvron et al. 2021).

    Args:
        depth: of the network.
        start: what was asked for, if anything.

    Raises:
        BadInput: a negative start.

    Example:
        >>> layer_scale_start(18), layer_scale_start(24), layer_scale_start(36)
        (0.1, 1e-05, 1e-06)
    """
    if start is not None:
        return check_number("start", start)
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6


def _each_twice() -> LayerFactory:
    """Return a maker whose first two calls give one multiplier, the next two another, ..."""
    made: list[Multiplier] = []

    def make(width: int, dims: int) -> nn.Module:
        if made:
            return made.pop()
        made.append(Multiplier(0.0))
        return made[-1]

    return make
