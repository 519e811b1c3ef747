"""NF-ResNet and NFNet by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import nn

from sigprop.errors import BadInput
from sigprop.networks.activations import activation
from sigprop.networks.arguments import check_known, check_number, check_rate
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.gains import centered_gain, official_gamma
from sigprop.networks.network import Network
from sigprop.networks.nf import NFBlock, NFSettings, nf_blocks, nf_weight
from sigprop.networks.norms import refuse_transformer
from sigprop.networks.recipe import Layers, Shape
from sigprop.networks.residual import branch_shapes

GAMMAS: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {"exact": centered_gain, "official": official_gamma}
)
VARIANTS: Mapping[str, int] = MappingProxyType({f"F{n}": n + 1 for n in range(7)})
_STAGE_BLOCKS, _STAGE_WIDTHS = (1, 2, 6, 3), (256, 512, 1536, 1536)


@register("nf-resnet")
def nf_resnet(
    design: Design,
    alpha: float = 0.2,
    skip_gain: float = 1.0,
    gamma: str = "exact",
    act_first: bool = False,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """Return x + α s F(x/β_k) with scaled weight standardization: 1 + kα² in the k-th of a stage.

    Weights are standardized with γ = 1/std f(z), β_k is the expected std, and the first block of
    every stage, the first stage too, has a weight on its skip, strided where the image is halved,
    that starts the variance at 1 again.
    DeepMind's code starts s at 0: then the measured variance stays at 1 within a stage while β_k
    assumes growth, and a transition after d blocks leaves 1/(1 + dα²); for signal propagation
    s = 1 is meant.

    Source: Brock et al. 2021a (NF-ResNets).

    Args:
        design: sizes; block="bottleneck" for theirs; its order is act-weight.
        alpha: α.
        skip_gain: s, a learned scalar, at the start.
        gamma: ``"exact"``, or ``"official"`` for DeepMind's Monte-Carlo values.
        act_first: multiply by 1/β_k after the activation, as their code does.
        stochastic_depth: rate at the last block, growing linearly; survivors are not rescaled.

    Raises:
        BadInput: a negative α, an unknown γ, a rate outside [0, 1), or a Transformer.
    """
    refuse_transformer(design, "nf-resnet", "weights of a Transformer are not standardized here")
    settings = _settings(design, alpha, gamma, stochastic_depth, skip_gain, act_first)
    settings = replace(settings, pool_shortcut=False)
    return Network(
        _plain_stem(settings),
        nf_blocks(settings, _plan(design)),
        _head(design, design.widths()[-1]),
    )


@register("nfnet", architecture="resnet")
def nfnet(
    design: Design,
    variant: str | None = None,
    alpha: float = 0.2,
    skip_gain: float = 0.0,
    gamma: str = "exact",
    act_first: bool = False,
    squeeze_excite: float = 0.5,
    stochastic_depth: float = 0.25,
    group_width: int = 128,
    drop_head: float = 0.0,
) -> nn.Module:
    """Return an NFNet: SE-ResNeXt-D bottlenecks, two grouped 3x3, standardized weights, no norm.

    The branch of a block is 1x1 to half the width, 3x3 (strided in a stage's first block), 3x3,
    1x1, squeeze-excite with gate 2σ, stochastic depth, s (0 at first) and α. A variant has the
    paper's stem (3x3 of 16, 32, 64, 128 channels, stride 4 in all), stages of (1, 2, 6, 3) times
    n + 1 blocks and (256, 512, 1536, 1536) channels, and a last 1x1 to 3072; without one, depth,
    width and stages are the design's, on a 3x3 stem. It is a ResNet whatever architecture is asked.

    Source: Brock et al. 2021b (NFNets), sec. 4; train it with `sigprop.networks.AGC`.

    Args:
        design: inputs, classes, activation (the paper's is gelu), and sizes without a variant.
        variant: ``"F0"`` ... ``"F6"``.
        alpha: α.
        skip_gain: s at the start.
        gamma: ``"exact"`` or ``"official"``.
        act_first: multiply by 1/β_k after the activation, as their code does.
        squeeze_excite: hidden units per channel of the squeeze-excite.
        stochastic_depth: rate at the last block, growing linearly; survivors are not rescaled.
        group_width: channels per group of the 3x3 convolutions, or all where there are fewer.
        drop_head: rate of dropout in front of the head.

    Raises:
        BadInput: an unknown variant or γ, a negative α, a rate outside [0, 1), or channels that do
            not divide into groups.
    """
    settings = _settings(design, alpha, gamma, stochastic_depth, skip_gain, act_first)
    settings = replace(settings, squeeze_excite=check_number("squeeze_excite", squeeze_excite))
    check_rate("drop_head", drop_head)
    if variant is None:
        plan = _bottlenecks(design.width, design.widths(), group_width)
        last = design.widths()[-1]
        return Network(_plain_stem(settings), nf_blocks(settings, plan), _head(design, last))
    check_known("variant", variant, VARIANTS)
    widths = [
        width
        for blocks, width in zip(_STAGE_BLOCKS, _STAGE_WIDTHS, strict=True)
        for _ in range(blocks * VARIANTS[variant])
    ]
    starts = {sum(_STAGE_BLOCKS[:stage]) * VARIANTS[variant] for stage in range(4)}
    plan = _bottlenecks(128, widths, group_width, starts)
    final = nf_weight(settings, Shape(widths[-1], 2 * widths[-1], kernel=1), False)
    head = _head(design, 2 * widths[-1], drop_head)
    return Network(_deep_stem(settings), nf_blocks(settings, plan), nn.Sequential(final, head))


def _settings(
    design: Design,
    alpha: float,
    gamma: str,
    stochastic_depth: float,
    skip_gain: float,
    act_first: bool,
) -> NFSettings:
    check_known("gamma", gamma, GAMMAS)
    return NFSettings(
        design,
        GAMMAS[gamma],
        check_number("alpha", alpha),
        skip_gain,
        act_first=act_first,
        stochastic_depth=check_rate("stochastic_depth", stochastic_depth),
    )


def _plan(design: Design) -> list[NFBlock]:
    plan, before = [], design.width
    for index, width in enumerate(design.widths()):
        stride = 1 if width == before else 2
        shortcut = Shape(before, width, 1, stride) if stride > 1 or not index else None
        plan.append(NFBlock(tuple(branch_shapes(design, before, width)), shortcut))
        before = width
    return plan


def _bottlenecks(
    channels: int, widths: list[int], group_width: int, starts: set[int] | None = None
) -> list[NFBlock]:
    """Return the blocks of an NFNet; every stage but the first begins with stride 2.

    Raises:
        BadInput: the group width does not divide a block's channels.
    """
    plan = []
    if starts is None:
        starts = {k for k, width in enumerate(widths) if not k or width != widths[k - 1]}
    for index, width in enumerate(widths):
        inner = max(1, width // 2)
        size = min(group_width, inner)
        if inner % size:
            raise BadInput(f"group_width={group_width} does not divide {inner} channels")
        stride = 2 if index in starts and index else 1
        shapes = (
            Shape(channels, inner, 1),
            Shape(inner, inner, 3, stride, inner // size),
            Shape(inner, inner, 3, 1, inner // size),
            Shape(inner, width, 1),
        )
        plan.append(NFBlock(shapes, Shape(channels, width, 1, stride) if index in starts else None))
        channels = width
    return plan


def _plain_stem(settings: NFSettings) -> nn.Sequential:
    design = settings.design
    stem = Layers() if design.dims else Layers(flatten=nn.Flatten())
    channels = design.inputs[0] if design.dims else math.prod(design.inputs)
    stem["weight"] = nf_weight(settings, Shape(channels, design.width), False)
    return nn.Sequential(stem)


def _deep_stem(settings: NFSettings) -> nn.Sequential:
    stem, channels = Layers(), settings.design.inputs[0]
    for index, (width, stride) in enumerate(((16, 2), (32, 1), (64, 1), (128, 2)), start=1):
        if index > 1:
            stem[f"act{index}"] = activation(settings.design.activation)
        shape = Shape(channels, width, 3, stride)
        stem[f"weight{index}"] = nf_weight(settings, shape, index > 1)
        channels = width
    return nn.Sequential(stem)


def _head(design: Design, width: int, drop: float = 0.0) -> nn.Sequential:
    head = Layers(act=activation(design.activation))
    if design.dims:
        head["pool"] = nn.AdaptiveAvgPool2d(1)
        head["flatten"] = nn.Flatten()
    if drop:
        head["drop"] = nn.Dropout(drop)
    linear = nn.Linear(width, design.classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    head["weight"] = linear
    return nn.Sequential(head)
