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
LayerFactory = Callable[[int, int], nn.Module]
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
        weight: initializes a layer given its gain; N(0, gain²/fan_in) by default.
        norm: the normalization; None for none.
        post_norm: the normalization follows the addition instead of standing in the branch.
        final_norm: a normalization in front of the head only.
        before_act: the layer in front of every nonlinearity.
        after_act: the layer after every nonlinearity.
        before_weight: the layer in front of every weight, such as `BiasBefore`.
        after_weight: the layer after a weight of the body, given that weight's layer, its gain and
            the spatial axes.
        bias_after: a zero-initialized bias after every weight of the body.
        alpha: coefficient of the skip, by block.
        beta: constant coefficient of the branch, by block.
        multiplier: the learned factor of the branch, such as `Multiplier`.
        backbone: a learned scalar on the skip.
        weight_scale: factor on the standard deviation of each weight of a branch, by block.
        last_weight_scale: factor on the last weight of a branch, on top of that.
        drop: rate of dropout in front of every weight of a branch.
        drop_head: rate of dropout in front of the head.
        stem_gain: gain of the first weight.
        head_gain: gain of the last weight; 0 for a head that starts at 0.
        head_bias: whether the head has a bias; when None, with a norm or a bias after weights.
        query_gain: gain of the queries' and keys' weights (Transformer).
        scale_exponent: attention logits are q.k / head width ** scale_exponent (Transformer).
    """

    gain: Callable[[str], float] = he_gain
    weight: Callable[[Weighted, float], None] = initialize
    norm: LayerFactory | None = None
    post_norm: bool = False
    final_norm: LayerFactory | None = None
    before_act: LayerFactory | None = None
    after_act: LayerFactory | None = None
    before_weight: LayerFactory | None = None
    after_weight: Callable[[Weighted, float, int], nn.Module] | None = None
    bias_after: bool = False
    alpha: Callable[[int], float] = _one
    beta: Callable[[int], float] = _one
    multiplier: LayerFactory | None = None
    backbone: bool = False
    weight_scale: Callable[[int], float] = _one
    last_weight_scale: float = 1.0
    drop: float = 0.0
    drop_head: float = 0.0
    stem_gain: float = 1.0
    head_gain: float = 1.0
    head_bias: bool | None = None
    query_gain: float = 1.0
    scale_exponent: float = 0.5


@dataclass(frozen=True)
class Shape:
    """Sizes of one linear map: of a convolution, or of a dense layer (kernel and stride unused)."""

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1


def projection(design: Design, recipe: Recipe, shape: Shape, gain: float) -> Weighted:
    """Return a linear map of the design's kind, initialized by the recipe.

    Args:
        design: dense layers or convolutions, and their padding.
        recipe: initializer and bias.
        shape: sizes of the map.
        gain: of the initializer.

    Returns:
        A linear layer, or a convolution for designs with spatial axes.
    """
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


def layers_before_weight(
    design: Design, recipe: Recipe, channels: int, index: str, drop: float
) -> Layers:
    """Return the layers in front of a weight: the recipe's, then dropout.

    Args:
        design: has the spatial axes.
        recipe: makes the layer.
        channels: what the weight reads.
        index: suffix of the names.
        drop: rate of dropout; 0 for none.

    Returns:
        Layers by name, possibly none.
    """
    layers = Layers()
    if recipe.before_weight:
        layers[f"bias{index}"] = recipe.before_weight(channels, design.dims)
    if drop:
        layers[f"drop{index}"] = nn.Dropout(drop)
    return layers


def dropout_gain(drop: float) -> float:
    """Return √(1 - rate), the gain that takes back what dropout adds to the second moment."""
    return (1 - drop) ** 0.5


def weight(
    design: Design, recipe: Recipe, shape: Shape, gain: float, index: str = "", drop: float = 0.0
) -> Layers:
    """Return a linear map with the given gain, and the recipe's layers before and after it.

    Args:
        design: dense layers or convolutions.
        recipe: initializer, and the layers around the weight.
        shape: sizes of the map.
        gain: of the initializer, before what dropout needs.
        index: suffix of the names.
        drop: rate of dropout in front of the weight.

    Returns:
        Layers by name, in the order in which they are applied.
    """
    layers = layers_before_weight(design, recipe, shape.inputs, index, drop)
    gain *= dropout_gain(drop)
    layer = projection(design, recipe, shape, gain)
    layers[f"weight{index}"] = layer
    if recipe.after_weight:
        layers[f"after{index}"] = recipe.after_weight(layer, gain, design.dims)
    return layers


def norm_and_activation(
    design: Design, recipe: Recipe, channels: int, wanted: Iterable[str], index: str = ""
) -> Layers:
    """Return the normalization and the nonlinearity of ``wanted``, in that order.

    Args:
        design: the nonlinearity, and the spatial axes.
        recipe: the normalization, and the layers around a nonlinearity.
        channels: of the tensor that they are applied to.
        wanted: parts of an order: ``"norm"`` and ``"act"``; ``"weight"`` is passed over.
        index: suffix of the names.

    Returns:
        Layers by name; a part that the recipe does not have is left out.
    """
    layers = Layers()
    for part in wanted:
        if part == "norm" and recipe.norm:
            layers[f"norm{index}"] = recipe.norm(channels, design.dims)
        elif part == "act":
            if recipe.before_act:
                layers[f"shift{index}"] = recipe.before_act(channels, design.dims)
            layers[f"act{index}"] = activation(design.activation)
            if recipe.after_act:
                layers[f"scale{index}"] = recipe.after_act(channels, design.dims)
    return layers


def branch_scale(recipe: Recipe, k: int, channels: int, dims: int) -> Layers:
    """Return what multiplies the k-th branch: its constant coefficient, then the learned factor.

    Args:
        recipe: beta and the multiplier.
        k: the block, from 1.
        channels: of the branch's output.
        dims: spatial axes after the channel axis.

    Returns:
        Layers by name, possibly none.
    """
    layers = constant_scale(recipe.beta(k))
    if recipe.multiplier:
        layers["multiplier"] = recipe.multiplier(channels, dims)
    return layers


def skip_scale(recipe: Recipe, k: int) -> Layers:
    """Return what multiplies the k-th skip.

    Args:
        recipe: alpha, and whether a learned scalar stands on the skip.
        k: the block, from 1.

    Returns:
        Layers by name, possibly none.
    """
    layers = constant_scale(recipe.alpha(k))
    if recipe.backbone:
        layers["multiplier"] = Multiplier()
    return layers


def constant_scale(factor: float) -> Layers:
    """Return a scale, or nothing where the factor is 1."""
    return Layers() if factor == 1.0 else Layers(scale=Scale(factor))


def sequence(layers: Layers) -> nn.Module:
    """Return the layers one after another; the identity when there are none."""
    return nn.Sequential(layers) if layers else nn.Identity()
