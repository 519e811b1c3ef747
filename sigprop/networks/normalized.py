"""Residual networks with batch, layer or group normalization, before or after the addition."""

from __future__ import annotations

from torch import nn

from sigprop.errors import BadInput
from sigprop.networks.arguments import check_whole
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.norms import batch_norm, group_norm, layer_norm, refuse_transformer
from sigprop.networks.recipe import Recipe
from sigprop.networks.residual import ResidualNet

_TOKENS = "use 'layernorm' or 'transformer' on tokens"


@register("batchnorm")
def batchnorm(design: Design) -> nn.Module:
    """Return x_k = x_{k-1} + F_k(x_{k-1}) with batch normalization in F_k in the design's order.

    Every branch adds second moment 1, so that of the trunk is k + 1 after k blocks when the stem
    gives 1: block k contributes 1/(k+1), and the skip dominates a deep network. A weight that
    reads a normalized tensor directly (act-norm-weight) has gain 1, one after a ReLU gain √2.
    No bias follows a hidden weight: the next normalization has its own. A stage's shortcut is
    normalized in the order weight-norm-act only; elsewhere the trunk stays linear.

    Source: He et al. 2016a/b; De & Smith 2020, sec. 2 (growth of the trunk).

    Args:
        design: sizes and orders.

    Raises:
        BadInput: a Transformer is asked for.
    """
    refuse_transformer(design, "batchnorm", _TOKENS)
    return ResidualNet(design, Recipe(norm=batch_norm))


@register("batchnorm-last")
def batchnorm_last(design: Design) -> nn.Module:
    """Return the plain network x + F(x) with one batch normalization, in front of its head.

    Nothing holds the trunk, which doubles per block, but the loss sees logits of order 1: the
    single last normalization takes back most of what a plain network suffers from.

    Source: Bjorck et al. 2018, sec. 3 (normalizing the last layer only).

    Args:
        design: sizes and orders.

    Raises:
        BadInput: a Transformer is asked for.
    """
    refuse_transformer(design, "batchnorm-last", _TOKENS)
    return ResidualNet(design, Recipe(bias_after=True, final_norm=batch_norm))


@register("layernorm")
def layernorm(design: Design, post: bool = False) -> nn.Module:
    """Return x + F(norm x), or norm(x + F(x)) with ``post``, with layer normalization.

    Before (pre-LN) the trunk's second moment grows by 1 per block as with batch normalization;
    after (post-LN) it is 1 at every block and gradients shrink towards the input. A bias after a
    weight is not cancelled by it, so weights have one.

    Source: Ba et al. 2016; Xiong et al. 2020 (pre and post).

    Args:
        design: sizes and orders.
        post: normalize after the addition.
    """
    return ResidualNet(design, Recipe(norm=layer_norm, bias_after=True, post_norm=post))


@register("groupnorm")
def groupnorm(design: Design, per_group: int | None = None, post: bool = False) -> nn.Module:
    """Return the residual network with group normalization; per_group=1 is instance normalization.

    Statistics are per sample, over positions and the channels of a group. A bias after a weight is
    cancelled by instance normalization, which removes each channel's mean, and only by it.

    Source: Wu & He 2018 (16 channels per group); Ulyanov et al. 2016 (instance).

    Args:
        design: sizes and orders.
        per_group: channels per group; 16, or half of fewer than 32 channels, when not given.
        post: normalize after the addition.

    Raises:
        BadInput: a Transformer is asked for, channels that do not divide, or single numbers to
            normalize: one channel per group in an MLP, or on an image that shrinks to one pixel.
    """
    refuse_transformer(design, "groupnorm", _TOKENS)
    if per_group is not None:
        check_whole("per_group", per_group)
    if per_group == 1 and design.dims and max(design.inputs[1:]) <= 2 ** (design.stages - 1):
        raise BadInput(
            f"{design.stages} stages shrink {design.inputs[1]}x{design.inputs[2]} to one pixel, "
            "which instance normalization sets to 0; use fewer stages"
        )
    recipe = Recipe(norm=group_norm(per_group), bias_after=per_group != 1, post_norm=post)
    return ResidualNet(design, recipe)


@register("instancenorm", architecture="resnet")
def instancenorm(design: Design, post: bool = False) -> nn.Module:
    """Return the residual network with instance normalization: each channel of each sample alone.

    It is ``"groupnorm"`` with one channel per group, on images.

    Source: Ulyanov et al. 2016.

    Args:
        design: sizes and orders; the architecture is a ResNet.
        post: normalize after the addition.

    Raises:
        BadInput: inputs are no image, or shrink to one pixel.
    """
    return groupnorm(design, 1, post)


@register("transformer", architecture="transformer")
def transformer(design: Design, post: bool = False) -> nn.Module:
    """Return a Transformer encoder with layer normalization, pre-LN or with ``post`` post-LN.

    It is ``"layernorm"`` with architecture="transformer", whatever architecture is asked for.

    Source: Vaswani et al. 2017 (post-LN); Xiong et al. 2020 (pre-LN).

    Args:
        design: sizes; depth is the number of encoder layers, two residual blocks each.
        post: normalize after the addition.

    Raises:
        BadInput: heads do not divide the width, or inputs are no sequence and no image.
    """
    return layernorm(design, post)
