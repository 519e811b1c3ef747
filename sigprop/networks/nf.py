"""Normalizer-free networks: NF-ResNets and NFNets on one skeleton of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sigprop.networks.activations import activation
from sigprop.networks.design import Design
from sigprop.networks.layers import Multiplier, Scale, SqueezeExcite, StochasticDepth
from sigprop.networks.recipe import Layers, Recipe, Shape, projection
from sigprop.networks.residual import ResidualBlock
from sigprop.networks.weights import standardize


@dataclass(frozen=True)
class NFBlock:
    """Sizes of one block.

    Attributes:
        shapes: of the branch's weights, in order.
        shortcut: of the weight on the skip of a stage's first block; None elsewhere.
    """

    shapes: tuple[Shape, ...]
    shortcut: Shape | None = None


@dataclass(frozen=True)
class NFSettings:
    """What normalizer-free networks choose.

    Attributes:
        design: activation, padding, kind of weights.
        gamma: activation -> γ.
        alpha: α.
        skip_gain: the learned scalar on a branch at the start; None for none.
        pool_shortcut: average-pool in front of a strided shortcut, rather than stride its weight.
        act_first: multiply by 1/β after the first activation, as DeepMind's code does, instead of
            in front of it; the same for positively homogeneous activations.
        squeeze_excite: hidden units per channel of a squeeze-excite; None for none.
        stochastic_depth: rate of the last block; the k-th of n has k/n of it, k = 0, 1, ...
    """

    design: Design
    gamma: Callable[[str], float]
    alpha: float = 0.2
    skip_gain: float | None = 1.0
    pool_shortcut: bool = True
    act_first: bool = False
    squeeze_excite: float | None = None
    stochastic_depth: float = 0.0


def expected_stds(transitions: list[bool], alpha: float) -> list[float]:
    """Return β_k, the expected std of each block's input, given which blocks are transitions.

    The variance starts at 1, grows by α² per block, and starts again at 1 where a transition puts a
    weight on the skip; the transition itself still divides by the std that reaches it.

    Source: Brock et al. 2021a, sec. 3; deepmind-research, nfnets/nf_resnet.py.

    Args:
        transitions: whether each block has a weight on its skip, in order.
        alpha: α, of the branches.

    Example:
        >>> [round(std**2, 6) for std in expected_stds([True, False, True, False], 0.2)]
        [1.0, 1.04, 1.08, 1.04]
    """
    variance, stds = 1.0, []
    for transition in transitions:
        stds.append(math.sqrt(variance))
        variance = (1.0 if transition else variance) + alpha**2
    return stds


def nf_weight(settings: NFSettings, shape: Shape, behind_activation: bool = True) -> nn.Module:
    """Return a weight with scaled weight standardization and a bias of 0.

    Args:
        settings: γ, and the kind of weight.
        shape: its sizes.
        behind_activation: False for a weight that reads the input, where γ = 1.

    Returns:
        A linear or convolutional layer with a parametrized weight.
    """
    gamma = settings.gamma(settings.design.activation) if behind_activation else 1.0
    recipe = Recipe(weight=_start, bias_after=True)
    layer = projection(settings.design, recipe, shape, 1.0)
    standardize(layer, gamma)
    return layer


def _start(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    # any scale would do: the standardization removes it
    nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def nf_blocks(settings: NFSettings, plan: list[NFBlock]) -> nn.Sequential:
    """Return x_k = S_k(x_{k-1}) + α s_k F_k(x_{k-1}/β_k), S_k a weight at transitions, else x.

    Args:
        settings: α, γ and what else the blocks share.
        plan: sizes of each block, in order.

    Returns:
        One `ResidualBlock` per entry of the plan.
    """
    stds = expected_stds([block.shortcut is not None for block in plan], settings.alpha)
    blocks = nn.Sequential()
    for index, (block, std) in enumerate(zip(plan, stds, strict=True)):
        rate = settings.stochastic_depth * index / len(plan)
        skip = _shortcut(settings, block.shortcut, std) if block.shortcut else nn.Identity()
        branch = nn.Sequential(_branch(settings, block, std, rate))
        blocks.append(ResidualBlock(skip, branch, nn.Identity()))
    return blocks


def _entry(settings: NFSettings, std: float) -> Layers:
    layers = Layers(scale1=Scale(1 / std), act1=activation(settings.design.activation))
    if settings.act_first:
        layers.move_to_end("scale1")
    return layers


def _shortcut(settings: NFSettings, shape: Shape, std: float) -> nn.Sequential:
    layers = _entry(settings, std)
    if shape.stride > 1 and settings.pool_shortcut:
        layers["pool"] = nn.AvgPool2d(2, ceil_mode=True)
        shape = Shape(shape.inputs, shape.outputs, shape.kernel)
    layers["weight"] = nf_weight(settings, shape)
    return nn.Sequential(layers)


def _branch(settings: NFSettings, block: NFBlock, std: float, rate: float) -> Layers:
    layers = Layers()
    for index, shape in enumerate(block.shapes, start=1):
        if index == 1:
            layers.update(_entry(settings, std))
        else:
            layers[f"act{index}"] = activation(settings.design.activation)
        layers[f"weight{index}"] = nf_weight(settings, shape)
    if settings.squeeze_excite is not None:
        layers["excite"] = SqueezeExcite(block.shapes[-1].outputs, settings.squeeze_excite)
    if rate:
        layers["drop"] = StochasticDepth(rate)
    if settings.skip_gain is not None:
        layers["multiplier"] = Multiplier(settings.skip_gain)
    layers["scale"] = Scale(settings.alpha)
    return layers
