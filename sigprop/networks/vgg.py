"""VGG without normalization: a chain of convolutions and max-pools, biases before or after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from sigprop.networks.activations import activation
from sigprop.networks.arguments import check_known, check_rate, check_whole
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.first_batch import BiasBefore
from sigprop.networks.gains import centered_gain, he_gain
from sigprop.networks.network import Network
from sigprop.networks.recipe import Layers, Recipe, Shape, weight
from sigprop.networks.residual import ChainBlock
from sigprop.networks.weights import Weighted, initialize

PLANS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "vgg11": (1, 1, 2, 2, 2),
        "vgg13": (2, 2, 2, 2, 2),
        "vgg16": (2, 2, 3, 3, 3),
        "vgg19": (2, 2, 4, 4, 4),
    }
)
BIASES = ("before", "after")
INITS = ("preserving", "he", "fan_out")


@register("vgg", architecture="resnet")
def vgg(
    design: Design,
    plan: str | None = None,
    bias: str = "before",
    init: str = "preserving",
    bias_batches: int = 1,
    hidden: int = 0,
    drop: float = 0.0,
) -> nn.Module:
    """Return VGG without normalization, its biases moved in front of the weights as in RescaleNet.

    Convolutions are 3x3, stages end in a 2x2 max-pool, widths double up to 8 times the first. The
    authors' VGG-19 (init="fan_out") keeps 0.68 of the variance per layer, less at wider ones, where
    fan_out is twice fan_in; the preserving gain keeps it up to borders and max-pools. It is a
    convolutional network whatever architecture is asked for.

    Source: Simonyan & Zisserman 2015, table 1; Shao et al. 2020 (biases).

    Args:
        design: inputs, classes, width (64 in the paper), and without a plan depth and stages.
        plan: ``"vgg11"``, ``"vgg13"``, ``"vgg16"`` or ``"vgg19"``.
        bias: ``"before"`` the weights, from the first mini-batch, or ``"after"``, 0 at first.
        init: ``"preserving"`` (1/√Var f before, 1/√E f² after), ``"he"``, or ``"fan_out"`` (He).
        bias_batches: how many first mini-batches the biases are averaged over.
        hidden: width of the two hidden layers of the classifier, 4096 in the paper; 0 for none.
        drop: rate of dropout in front of the classifier's layers.

    Raises:
        BadInput: an unknown plan, bias or init, a rate outside [0, 1), or an image that is flat.
    """
    check_known("bias", bias, BIASES)
    check_known("init", init, INITS)
    check_whole("hidden", hidden, least=0)
    check_whole("bias_batches", bias_batches)
    if plan is not None:
        check_known("plan", plan, PLANS)
    before = bias == "before"
    recipe = Recipe(
        gain=centered_gain if before and init == "preserving" else he_gain,
        weight=fan_out if init == "fan_out" else initialize,
        before_weight=(lambda width, dims: BiasBefore(width, dims, bias_batches))
        if before
        else None,
        bias_after=not before,
    )
    stages = vgg_stages(design, plan)
    blocks, side = _blocks(design, recipe, stages)
    stem = nn.Sequential(weight(design, recipe, Shape(design.inputs[0], stages[0][0]), 1.0))
    head = _head(design, recipe, stages[-1][-1], side, hidden, check_rate("drop", drop))
    return Network(stem, blocks, head)


def vgg_stages(design: Design, plan: str | None) -> list[list[int]]:
    """Return the widths of the convolutions, stage by stage.

    Args:
        design: width, and depth and stages without a plan.
        plan: a name of `PLANS`, or None.

    Example:
        >>> vgg_stages(Design(depth=3, width=8, architecture="resnet", stages=2), None)
        [[8, 8], [16]]
    """
    if plan is None:
        widths = design.widths()
        return [[w for w in widths if w == stage] for stage in sorted(set(widths))]
    return [[design.width * min(8, 2**stage)] * count for stage, count in enumerate(PLANS[plan])]


def _blocks(
    design: Design, recipe: Recipe, stages: list[list[int]]
) -> tuple[nn.Sequential, tuple[int, int]]:
    """Return all convolutions but the first, and the size of the map that the head pools."""
    blocks, side = nn.Sequential(), (design.inputs[1], design.inputs[2])
    channels, gain = stages[0][0], recipe.gain(design.activation)
    for index, stage in enumerate(stages):
        for position, width in enumerate(stage[1:] if index == 0 else stage):
            layers = Layers(act=activation(design.activation))
            if index and not position and min(side) > 1:  # small images run out of pixels to pool
                layers["pool"] = nn.MaxPool2d(2)
                side = (side[0] // 2, side[1] // 2)
            layers.update(weight(design, recipe, Shape(channels, width), gain))
            blocks.append(ChainBlock(nn.Sequential(layers), nn.Identity()))
            channels = width
    return blocks, side


def _head(
    design: Design, recipe: Recipe, width: int, side: tuple[int, int], hidden: int, drop: float
) -> nn.Sequential:
    head = Layers(act=activation(design.activation))
    if min(side) > 1:
        head["pool"] = nn.MaxPool2d(2)
        side = (side[0] // 2, side[1] // 2)
    head["flatten"] = nn.Flatten()
    width *= math.prod(side)
    gain = recipe.gain(design.activation)
    for index, outputs in enumerate([*[hidden] * (2 if hidden else 0), design.classes]):
        if index:
            head[f"act{index}"] = activation(design.activation)
        if drop:
            head[f"drop{index}"] = nn.Dropout(drop)
        if recipe.before_weight:
            head[f"bias{index}"] = recipe.before_weight(width, 0)
        linear = nn.Linear(width, outputs, bias=recipe.bias_after)
        initialize(linear, 1.0 if outputs == design.classes else gain)
        head[f"weight{index}"] = linear
        width = outputs
    return nn.Sequential(head)


def fan_out(layer: Weighted, gain: float) -> None:
    """Fill a weight with N(0, gain²/fan_out) and its bias with 0, in position: He's backward form.

    fan_out is (out_channels)·kH·kW, as torch counts it.

    Source: He et al. 2015, eq. 14; Fixup's and RescaleNet's VGG code.

    Args:
        layer: a linear layer or a convolution, changed in position.
        gain: factor on the standard deviation.
    """
    weights = layer.weight
    count = weights.shape[0] * weights[0, 0].numel()
    nn.init.normal_(weights, std=gain / math.sqrt(count))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
