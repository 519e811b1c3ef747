"""The one residual skeleton that every network fills in, as MLP and as convolutional ResNet."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from sigprop.networks.design import ACTIVATIONS, Design
from sigprop.networks.gains import he_gain
from sigprop.networks.layers import Add, BiasBefore, Multiplier, Scale

Layers = OrderedDict[str, nn.Module]


def _one(block: int) -> float:
    return 1.0


@dataclass(frozen=True)
class Recipe:
    """What one family of residual networks does differently from another.

    A block computes x_k = alpha(k) x_{k-1} + beta(k) m_k F_k(x_{k-1}), k = 1..L.

    Attributes:
        gain: name of the function right in front of a branch's weight -> gain of that weight, whose
            entries are N(0, gain²/fan_in); ``"identity"`` when a normalisation stands there.
        norm: (channels, spatial axes) -> normalisation; None for none.
        centre: a `BiasBefore` right in front of every weight.
        bias_after: a zero-initialised bias after every weight.
        alpha: coefficient of the skip, by block.
        beta: constant coefficient of the branch, by block.
        multiplier: a learned scalar m_k on the branch.
        spread: factor on the standard deviation of each weight of a branch, by block.
    """

    gain: Callable[[str], float] = he_gain
    norm: Callable[[int, int], nn.Module] | None = None
    centre: bool = False
    bias_after: bool = False
    alpha: Callable[[int], float] = _one
    beta: Callable[[int], float] = _one
    multiplier: bool = False
    spread: Callable[[int], float] = _one


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
        """Return the block's output; shapes (N, width) or (N, channels, H, W)."""
        out: Tensor = self.after(self.add(self.skip(x), self.branch(x)))
        return out


class ResidualNet(nn.Module):
    """Stem, residual blocks, head: x -> logits of shape (N, classes).

    The stem and the head have gain 1: what they read is not rectified, or its scale is only that
    of the logits. Weights come from torch's global generator: seed it before building.

    Source: He et al. 2016a/b; average pooling in the shortcut as in the RescaleNet authors' code.

    Args:
        design: sizes and orders.
        recipe: what the family does differently.
    """

    def __init__(self, design: Design, recipe: Recipe) -> None:
        super().__init__()
        self.stem = _stem(design, recipe)
        self.blocks = _blocks(design, recipe)
        self.head = _head(design, recipe)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for inputs (N, *design.inputs)."""
        out: Tensor = self.head(self.blocks(self.stem(x)))
        return out


def _blocks(design: Design, recipe: Recipe) -> nn.Sequential:
    blocks = nn.Sequential()
    before = design.width
    for k, width in enumerate(design.widths(), start=1):
        stride = 1 if width == before else 2
        skip = _shortcut(design, recipe, before, width) if stride > 1 else Layers()
        skip.update(_scaled(recipe.alpha(k)))
        branch = _branch(design, recipe, k, before, width)
        branch.update(_scaled(recipe.beta(k)))
        if recipe.multiplier:
            branch["multiplier"] = Multiplier()
        after = _activation(design) if design.post_activation else nn.Identity()
        blocks.append(
            ResidualBlock(
                nn.Sequential(skip) if skip else nn.Identity(), nn.Sequential(branch), after
            )
        )
        before = width
    return blocks


def _branch(design: Design, recipe: Recipe, k: int, channels: int, width: int) -> Layers:
    gain = recipe.gain(_ahead(design, recipe)) * recipe.spread(k)
    stride = 1 if width == channels else 2
    branch = Layers()
    for index in range(1, design.branch_layers + 1):
        for slot in design.order.split("-"):
            if slot == "norm" and recipe.norm:
                branch[f"norm{index}"] = recipe.norm(channels, design.dims)
            elif slot == "act":
                branch[f"act{index}"] = _activation(design)
            elif slot == "weight":
                branch.update(_weight(design, recipe, channels, width, gain, stride, str(index)))
                channels, stride = width, 1
    if design.post_activation:
        del branch[f"act{design.branch_layers}"]  # it moves behind the addition
    return branch


def _ahead(design: Design, recipe: Recipe) -> str:
    """Return the name of the function right in front of each weight of a branch."""
    normed = design.order == "act-norm-weight" and recipe.norm is not None
    return "identity" if normed else design.activation


def _shortcut(design: Design, recipe: Recipe, channels: int, width: int) -> Layers:
    # ceil_mode: on odd sizes a strided 3x3 convolution with padding 1 rounds up too
    shortcut = Layers(pool=nn.AvgPool2d(2, ceil_mode=True))
    shortcut.update(_weight(design, recipe, channels, width, gain=1.0, kernel=1))
    if design.post_activation and recipe.norm:
        shortcut["norm"] = recipe.norm(width, design.dims)
    return shortcut


def _stem(design: Design, recipe: Recipe) -> nn.Sequential:
    stem = Layers()
    channels = design.inputs[0]
    if not design.dims:
        stem["flatten"] = nn.Flatten()
        channels = math.prod(design.inputs)
    stem.update(_weight(design, recipe, channels, design.width, gain=1.0))
    if design.post_activation:
        stem.update(_norm_and_act(design, recipe, design.width, ("norm", "act")))
    return nn.Sequential(stem)


def _head(design: Design, recipe: Recipe) -> nn.Sequential:
    width = design.widths()[-1]
    head = Layers()
    if not design.post_activation:
        head = _norm_and_act(design, recipe, width, design.order.split("-")[:2])
    if design.dims:
        head["pool"] = nn.AdaptiveAvgPool2d(1)
        head["flatten"] = nn.Flatten()
    if recipe.centre:
        head["bias"] = BiasBefore(width)
    linear = nn.Linear(width, design.classes, bias=recipe.bias_after or recipe.norm is not None)
    head["weight"] = initialise(linear, gain=1.0)
    return nn.Sequential(head)


def _norm_and_act(
    design: Design, recipe: Recipe, width: int, slots: tuple[str, ...] | list[str]
) -> Layers:
    made = {"act": _activation(design)}
    if recipe.norm:
        made["norm"] = recipe.norm(width, design.dims)
    return Layers((slot, made[slot]) for slot in slots if slot in made)


def _activation(design: Design) -> nn.Module:
    return ACTIVATIONS[design.activation]()


def _scaled(factor: float) -> Layers:
    return Layers() if factor == 1.0 else Layers(scale=Scale(factor))


def _weight(
    design: Design,
    recipe: Recipe,
    channels: int,
    width: int,
    gain: float,
    stride: int = 1,
    index: str = "",
    kernel: int = 3,
) -> Layers:
    """Return a linear map with the given gain, and the bias in front if the recipe has one."""
    layers = Layers()
    if recipe.centre:
        layers[f"bias{index}"] = BiasBefore(channels, design.dims)
    layer: nn.Conv2d | nn.Linear
    if design.dims:
        layer = nn.Conv2d(
            channels,
            width,
            kernel,
            stride,
            padding=kernel // 2,
            bias=recipe.bias_after,
            padding_mode="circular" if design.padding == "circular" else "zeros",
        )
    else:
        layer = nn.Linear(channels, width, bias=recipe.bias_after)
    layers[f"weight{index}"] = initialise(layer, gain)
    return layers


def initialise(layer: nn.Conv2d | nn.Linear, gain: float) -> nn.Conv2d | nn.Linear:
    """Fill a weight with N(0, gain²/fan_in) and its bias with 0, in place; return the layer.

    fan_in is the number of inputs of one output: in_features, or (in_channels/groups)·kH·kW.

    Source: He et al. 2015, eq. 10 for gain √2.
    """
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
