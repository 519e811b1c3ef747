"""The one residual skeleton that families fill in: MLP, convolutional ResNet, Transformer."""

from __future__ import annotations

import math

from torch import Tensor, nn

from sigprop.networks.design import Design
from sigprop.networks.layers import Add
from sigprop.networks.network import Network
from sigprop.networks.recipe import (
    Layers,
    Recipe,
    Shape,
    branch_scale,
    norm_and_activation,
    sequence,
    skip_scale,
    weight,
)
from sigprop.networks.transformer import MeanOverTokens, Positions, Tokens, transformer_branch
from sigprop.networks.weights import initialize


class ResidualBlock(nn.Module):
    """x -> after(add(skip(x), branch(x))); the two operands are scaled already.

    Args:
        skip: identity or shortcut, with the coefficient of the skip.
        branch: the residual function, with its coefficient and multiplier.
        after: what follows the addition (identity in pre-activation networks).
    """

    def __init__(self, skip: nn.Module, branch: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.skip = skip
        self.branch = branch
        self.add = Add()
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; shapes (N, width), (N, T, width) or (N, channels, H, W)."""
        out: Tensor = self.after(self.add(self.skip(x), self.branch(x)))
        return out


class ChainBlock(nn.Module):
    """x -> after(branch(x)): a block of a network without skip connections.

    Args:
        branch: the function, without a coefficient.
        after: what follows it.
    """

    def __init__(self, branch: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shapes of `ResidualBlock`."""
        out: Tensor = self.after(self.branch(x))
        return out


class ResidualNet(Network):
    """Stem, residual blocks, head: x -> logits of shape (N, classes).

    The stem and the head have gain 1: what they read is not rectified, or its scale is only that
    of the logits. Weights come from torch's global generator: seed it before building.

    Source: He et al. 2016a/b; average pooling in the shortcut as in the RescaleNet authors' code
    and ResNet-D (He et al. 2019); Vaswani et al. 2017 (Transformer encoder).

    Args:
        design: sizes and orders.
        recipe: what the family does differently.
    """

    def __init__(self, design: Design, recipe: Recipe) -> None:
        super().__init__(_stem(design, recipe), _blocks(design, recipe), _head(design, recipe))


def _blocks(design: Design, recipe: Recipe) -> nn.Sequential:
    blocks = nn.Sequential()
    before = design.width
    for k, width in enumerate(design.widths(), start=1):
        after = _after(design, recipe, width)
        if not design.skip:
            branch = _branch(design, recipe, k, before, width)
            blocks.append(ChainBlock(sequence(branch), after))
        else:
            skip = _shortcut(design, recipe, before, width) if width != before else Layers()
            skip.update(skip_scale(recipe, k))
            branch = _branch(design, recipe, k, before, width)
            branch.update(branch_scale(recipe, k, width, design.dims))
            blocks.append(ResidualBlock(sequence(skip), sequence(branch), after))
        before = width
    return blocks


def _after(design: Design, recipe: Recipe, width: int) -> nn.Module:
    wanted = ("norm",) * recipe.post_norm + ("act",) * design.post_activation
    layers = norm_and_activation(design, recipe, width, wanted)
    return layers.popitem()[1] if len(layers) == 1 else sequence(layers)


def _branch(design: Design, recipe: Recipe, k: int, channels: int, width: int) -> Layers:
    if design.architecture == "transformer":
        return transformer_branch(design, recipe, k)
    gain = recipe.gain(_ahead(design, recipe)) * recipe.weight_scale(k)
    order = [part for part in design.order.split("-") if not (part == "norm" and recipe.post_norm)]
    at = order.index("weight")
    branch = Layers()
    shapes = branch_shapes(design, channels, width)
    for index, shape in enumerate(shapes, start=1):
        is_last = index == len(shapes)
        # the last activation of a post-activation block moves after the addition
        tail = [part for part in order[at + 1 :] if not (part == "act" and is_last)]
        own = gain * recipe.last_weight_scale if is_last else gain
        branch.update(norm_and_activation(design, recipe, shape.inputs, order[:at], str(index)))
        branch.update(weight(design, recipe, shape, own, str(index), recipe.drop))
        branch.update(norm_and_activation(design, recipe, shape.outputs, tail, str(index)))
    return branch


def branch_shapes(design: Design, channels: int, width: int) -> list[Shape]:
    """Return the linear maps of a branch: m of the kernel's size, or a bottleneck of three.

    Args:
        design: kind of block, kernel, groups.
        channels: what the branch reads.
        width: what it returns; the first 3x3 has stride 2 where the two differ.

    Returns:
        One `Shape` per weight, in order.
    """
    stride = 1 if width == channels else 2
    if design.block == "bottleneck":
        inner = width // design.bottleneck
        return [
            Shape(channels, inner, kernel=1),
            Shape(inner, inner, 3, stride, design.groups),
            Shape(inner, width, kernel=1),
        ]
    first = Shape(channels, width, 3, stride, design.groups)
    return [first, *[Shape(width, width, 3, 1, design.groups)] * (design.branch_layers - 1)]


def _ahead(design: Design, recipe: Recipe) -> str:
    """Return the name of the function right in front of each weight of a branch."""
    normed = design.order == "act-norm-weight" and recipe.norm is not None and not recipe.post_norm
    return "identity" if normed else design.activation


def _shortcut(design: Design, recipe: Recipe, channels: int, width: int) -> Layers:
    # ceil_mode: on odd sizes a strided 3x3 convolution with padding 1 rounds up too
    shortcut = Layers(pool=nn.AvgPool2d(2, ceil_mode=True))
    shortcut.update(weight(design, recipe, Shape(channels, width, kernel=1), gain=1.0))
    if design.post_activation and recipe.norm and not recipe.post_norm:
        shortcut["norm"] = recipe.norm(width, design.dims)
    return shortcut


def _stem(design: Design, recipe: Recipe) -> nn.Sequential:
    stem = Layers()
    channels = design.inputs[0]
    if design.architecture == "mlp":
        stem["flatten"] = nn.Flatten()
        channels = math.prod(design.inputs)
    elif design.architecture == "transformer":
        stem["tokens"] = Tokens()
        channels = design.tokens[1]
    stem.update(weight(design, recipe, Shape(channels, design.width), recipe.stem_gain))
    if design.architecture == "transformer":
        stem["positions"] = Positions(design.tokens[0], design.width)
    if design.post_activation:
        stem.update(norm_and_activation(design, recipe, design.width, ("norm", "act")))
    elif recipe.post_norm:
        stem.update(norm_and_activation(design, recipe, design.width, ("norm",)))
    return nn.Sequential(stem)


def _head(design: Design, recipe: Recipe) -> nn.Sequential:
    width = design.widths()[-1]
    head = Layers()
    if recipe.final_norm:
        head["norm"] = recipe.final_norm(width, design.dims)
    if not design.post_activation:
        wanted = [s for s in design.order.split("-")[:2] if not (s == "norm" and recipe.post_norm)]
        # a Transformer's trunk is read without a nonlinearity
        wanted = [s for s in wanted if not (s == "act" and design.architecture == "transformer")]
        head.update(norm_and_activation(design, recipe, width, wanted))
    if design.architecture == "transformer":
        head["pool"] = MeanOverTokens()
    elif design.dims:
        head["pool"] = nn.AdaptiveAvgPool2d(1)
        head["flatten"] = nn.Flatten()
    if recipe.before_weight:
        head["bias"] = recipe.before_weight(width, 0)
    if recipe.drop_head:
        head["drop"] = nn.Dropout(recipe.drop_head)
    bias = recipe.head_bias
    if bias is None:
        bias = recipe.bias_after or recipe.norm is not None
    linear = nn.Linear(width, design.classes, bias)
    initialize(linear, recipe.head_gain)
    head["weight"] = linear
    return nn.Sequential(head)
