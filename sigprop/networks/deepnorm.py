"""Very deep Transformers by scales at the start: DeepNorm and T-Fixup."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sigprop.networks.arguments import check_whole
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.norms import layer_norm
from sigprop.networks.recipe import Recipe
from sigprop.networks.residual import ResidualNet
from sigprop.networks.weights import xavier


@dataclass(frozen=True)
class DeepNormConstants:
    """DeepNorm's α (on the skip) and β (gain of values, output and feed-forward weights).

    Attributes:
        alpha: of the encoder, or of a decoder that is alone.
        beta: likewise.
        decoder_alpha: of a decoder after an encoder; None without one.
        decoder_beta: likewise.
    """

    alpha: float
    beta: float
    decoder_alpha: float | None = None
    decoder_beta: float | None = None


def deepnorm_constants(layers: int, decoder_layers: int = 0) -> DeepNormConstants:
    """Return α = (2N)^(1/4), β = (8N)^(-1/4), or those of an encoder-decoder of N and M layers.

    Encoder: α = 0.81 (N⁴M)^(1/16), β = 0.87 (N⁴M)^(-1/16); decoder: α = (3M)^(1/4),
    β = (12M)^(-1/4). (A public library divides by (N⁴M)^(1/16)/1.15: 1.15 in place of 0.87.)

    Source: Wang et al. 2022, fig. 2.

    Args:
        layers: N, of the encoder, or of a decoder that is alone.
        decoder_layers: M; 0 for a Transformer of one kind.

    Raises:
        BadInput: layers < 1 or decoder_layers < 0.

    Example:
        >>> made = deepnorm_constants(8)
        >>> made.alpha, round(made.beta, 6)
        (2.0, 0.353553)
    """
    check_whole("layers", layers)
    check_whole("decoder_layers", decoder_layers, least=0)
    if not decoder_layers:
        return DeepNormConstants((2 * layers) ** 0.25, (8 * layers) ** -0.25)
    both = (layers**4 * decoder_layers) ** (1 / 16)
    return DeepNormConstants(
        0.81 * both, 0.87 / both, (3 * decoder_layers) ** 0.25, (12 * decoder_layers) ** -0.25
    )


@register("deepnorm")
def deepnorm(design: Design) -> nn.Module:
    """Return x_k = LN(α x_{k-1} + F_k(x_{k-1})), α = (2N)^(1/4), weights of F_k times (8N)^(-1/4).

    N is the number of encoder layers, half the number of blocks. Weights are Xavier's; queries and
    keys keep gain 1. The larger skip bounds the change of the output per step whatever N.

    Source: Wang et al. 2022 (DeepNet), eq. 1 and fig. 2.

    Args:
        design: sizes; other architectures count two blocks as a layer.
    """
    constants = deepnorm_constants(max(1, design.additions // 2))
    recipe = Recipe(
        gain=lambda activation: 1.0,
        weight=xavier,
        norm=layer_norm,
        post_norm=True,
        bias_after=True,
        alpha=lambda k: constants.alpha,
        weight_scale=lambda k: constants.beta,
    )
    return ResidualNet(design, recipe)


@register("t-fixup", architecture="transformer")
def t_fixup(design: Design) -> nn.Module:
    """Return a Transformer x + F(x) without normalization, weights of F times 0.67 N^(-1/4).

    N is the number of encoder layers; Xavier weights, of values, output and both feed-forward
    layers scaled so; queries and keys at gain 1/√2; the first layer, in place of embeddings, at
    (9N)^(-1/4). No warm-up is needed. It is a Transformer whatever architecture is asked for.

    Source: Huang et al. 2020, sec. 3.2 and their code.

    Args:
        design: sizes; depth is N.

    Raises:
        BadInput: heads do not divide the width, or inputs are no sequence and no image.
    """
    scale = 0.67 * design.depth**-0.25
    recipe = Recipe(
        gain=lambda activation: 1.0,
        weight=xavier,
        bias_after=True,
        weight_scale=lambda k: scale,
        stem_gain=(9 * design.depth) ** -0.25,
        query_gain=0.5**0.5,
    )
    return ResidualNet(design, recipe)
