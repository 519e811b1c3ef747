"""What one family of networks does differently from another, and the layers that follow from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from sigprop.networks.activations import activation
from sigprop.networks.design import Design
from sigprop.networks.gains import he_gain
from sigprop.networks.layers import Multiplier, Scale
from sigprop.networks.weights import Weighted, initialize

Layers = OrderedDict[str, nn.Module]
Maker = Callable[[int, int], nn.Module]
"""(channels, spatial axes) -> a layer for such a tensor."""


def _one(block: int) -> float:
    return 1.0


@dataclass(frozen=True)
class Recipe:
    """What one family of residual networks does differently from another.

    A block computes x_k = alpha(k) x_{k-1} + beta(k) m_k F_k(x_{k-1}), k = 1..L.

    Attributes:
        gain: name of the function right in front of a branch's weight -> gain of that weight;
            ``"identity"`` when a normalization stands there.
        weight: how a weight begins, given its gain; N(0, gain²/fan_in) by default.
        norm: the normalization; None for none.
        post_norm: the normalization follows the addition instead of standing in the branch.
        final_norm: a normalization in front of the head only.
        before_act: what stands in front of every nonlinearity.
        after_act: what follows every nonlinearity.
        before: what stands in front of every weight, such as `BiasBefore`.
        behind: what follows a weight of the body, given the layer, its gain and the spatial axes.
        bias_after: a zero-initialized bias after every weight of the body.
        alpha: coefficient of the skip, by block.
        beta: constant coefficient of the branch, by block.
        multiplier: what is learned on the branch, such as `Multiplier`.
        backbone: a learned scalar on the skip.
        spread: factor on the standard deviation of each weight of a branch, by block.
        last: factor on the last weight of a branch.
        drop: rate of dropout in front of every weight of a branch.
        drop_head: rate of dropout in front of the head.
        stem_gain: gain of the first weight.
        head_gain: gain of the last weight; 0 for a head that starts at 0.
        head_bias: whether the head has a bias; when None, with a norm or a bias after weights.
        query_gain: gain of the queries' and keys' weights (Transformer).
        temper: attention logits are q.k / head width ** temper (Transformer).
    """

    gain: Callable[[str], float] = he_gain
    weight: Callable[[Weighted, float], None] = initialize
    norm: Maker | None = None
    post_norm: bool = False
    final_norm: Maker | None = None
    before_act: Maker | None = None
    after_act: Maker | None = None
    before: Maker | None = None
    behind: Callable[[Weighted, float, int], nn.Module] | None = None
    bias_after: bool = False
    alpha: Callable[[int], float] = _one
    beta: Callable[[int], float] = _one
    multiplier: Maker | None = None
    backbone: bool = False
    spread: Callable[[int], float] = _one
    last: float = 1.0
    drop: float = 0.0
    drop_head: float = 0.0
    stem_gain: float = 1.0
    head_gain: float = 1.0
    head_bias: bool | None = None
    query_gain: float = 1.0
    temper: float = 0.5


@dataclass(frozen=True)
class Shape:
    """Sizes of one linear map: of a convolution, or of a dense layer (kernel and stride unused)."""

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1


def projection(design: Design, recipe: Recipe, shape: Shape, gain: float) -> Weighted:
    """Return a linear map of the design's kind, begun as the recipe says."""
    bias = recipe.bias_after
    layer: Weighted
    if design.dims:
        layer = nn.Conv2d(
            shape.inputs,
            shape.outputs,
            shape.kernel,
            shape.stride,
            padding=shape.kernel // 2,
            groups=shape.groups,
            bias=bias,
            padding_mode="circular" if design.padding == "circular" else "zeros",
        )
    else:
        layer = nn.Linear(shape.inputs, shape.outputs, bias=bias)
    recipe.weight(layer, gain)
    return layer


def front(design: Design, recipe: Recipe, channels: int, index: str, drop: float) -> Layers:
    """Return what stands in front of a weight: the recipe's layer, then dropout."""
    layers = Layers()
    if recipe.before:
        layers[f"bias{index}"] = recipe.before(channels, design.dims)
    if drop:
        layers[f"drop{index}"] = nn.Dropout(drop)
    return layers


def survivors(drop: float) -> float:
    """Return √(1 - rate), the gain that takes back what dropout adds to the second moment."""
    return (1 - drop) ** 0.5


def weight(
    design: Design, recipe: Recipe, shape: Shape, gain: float, index: str = "", drop: float = 0.0
) -> Layers:
    """Return a linear map with the given gain, and what the recipe puts before and behind it."""
    layers = front(design, recipe, shape.inputs, index, drop)
    gain *= survivors(drop)
    layer = projection(design, recipe, shape, gain)
    layers[f"weight{index}"] = layer
    if recipe.behind:
        layers[f"behind{index}"] = recipe.behind(layer, gain, design.dims)
    return layers


def slots(
    design: Design, recipe: Recipe, channels: int, wanted: Iterable[str], index: str = ""
) -> Layers:
    """Return the normalization and the nonlinearity of ``wanted``, in that order.

    Slots that the recipe leaves empty, and ``"weight"``, are passed over.
    """
    layers = Layers()
    for slot in wanted:
        if slot == "norm" and recipe.norm:
            layers[f"norm{index}"] = recipe.norm(channels, design.dims)
        elif slot == "act":
            if recipe.before_act:
                layers[f"shift{index}"] = recipe.before_act(channels, design.dims)
            layers[f"act{index}"] = activation(design.activation)
            if recipe.after_act:
                layers[f"scale{index}"] = recipe.after_act(channels, design.dims)
    return layers


def scaled(recipe: Recipe, k: int, channels: int, dims: int) -> Layers:
    """Return what multiplies the k-th branch: its constant coefficient, then what is learned."""
    layers = constant(recipe.beta(k))
    if recipe.multiplier:
        layers["multiplier"] = recipe.multiplier(channels, dims)
    return layers


def skipped(recipe: Recipe, k: int) -> Layers:
    """Return what multiplies the k-th skip."""
    layers = constant(recipe.alpha(k))
    if recipe.backbone:
        layers["multiplier"] = Multiplier()
    return layers


def constant(factor: float) -> Layers:
    """Return a scale, or nothing where the factor is 1."""
    return Layers() if factor == 1.0 else Layers(scale=Scale(factor))


def sequence(layers: Layers) -> nn.Module:
    """Return the layers one after another; the identity when there are none."""
    return nn.Sequential(layers) if layers else nn.Identity()
