"""From a network's settings to the numbers that theory takes: sizes, orders, maps, tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from sigprop.errors import BadInput
from sigprop.networks import Design
from sigprop.theory import Kernel
from sigprop.theory.maps import Convolution, Window
from sigprop.theory.skeleton import Skeleton

#: The name of a network of the zoo, and all of its options, as `networks.resolve` gives them.
Settings = Mapping[str, Any]

#: A map's covariances are matrices of positions by positions; 1024 of them are seconds a block.
_MOST_POSITIONS = 1024

#: Options that a network sets whatever is asked for.
_CHAIN = {"skip": False, "branch_layers": 1, "block": "basic"}
_SET: Mapping[str, Mapping[str, Any]] = {
    "feedforward": {**_CHAIN, "order": "norm-act-weight"},
    "normprop": {**_CHAIN, "order": "weight-norm-act"},
}


class NoTheory(BadInput):
    """Theory predicts nothing of a network; the message says which part of it has none."""


def design_of(settings: Settings) -> Design:
    """Return the shared options among a network's settings, with what its network sets by itself.

    Raises:
        KeyError: the settings lack an option.
    """
    asked = Design(**{field.name: settings[field.name] for field in fields(Design)})
    return replace(asked, **_SET.get(str(settings["network"]), {}))


def skeleton_of(settings: Settings) -> Skeleton:
    """Return the stack that settings give.

    Raises:
        NoTheory: the trunk is not Gaussian, or dropout stands in front of attention.
        KeyError: the settings lack an option.
    """
    design = design_of(settings)
    if design.post_activation and design.skip:
        raise NoTheory(
            "theory has no recursion for an activation behind the residual addition "
            f"(order={design.order!r}): such a trunk is not Gaussian"
        )
    if design.architecture == "transformer" and settings.get("drop"):
        raise NoTheory(
            f"theory has no recursion for dropout of attention (drop={settings['drop']})"
        )
    return Skeleton(
        tuple(design.widths()),
        design.width,
        design.architecture,
        tuple(design.order.split("-")),
        design.branch_layers,
        design.activation,
        design.padding == "circular",
        design.skip,
        design.bottleneck if design.block == "bottleneck" else None,
        design.heads,
    )


def placed(settings: Settings, start: Kernel, bordered: bool = True) -> Kernel:
    """Return the first block's input over the positions of a network: tokens, or a map.

    Zero padding of the stem has taken its part at the border already: what a map of independent
    values keeps behind one 3x3 convolution is the profile of the second moment.

    Args:
        settings: those of the network.
        start: the statistics of all positions together.
        bordered: the stem's kernel reaches over the border.

    Raises:
        NoTheory: a map is too large.
        KeyError: the settings lack an option.
    """
    design = design_of(settings)
    if design.architecture == "mlp":
        return start
    covariance, samples = start.covariance, start.samples
    if design.architecture == "transformer":
        return Kernel(start.second_moment, covariance, samples=samples, positions=design.tokens[0])
    grid = (design.inputs[1], design.inputs[2])
    count = grid[0] * grid[1]
    alone = design.stages == 1 and settings["network"] not in ("vgg", "nfnet")
    if design.padding == "circular" and alone:
        return Kernel(start.second_moment, covariance, samples=samples, positions=count)
    if count > _MOST_POSITIONS:
        raise NoTheory(
            f"theory has no recursion for zero padding or stages on a map of {grid[0]}x{grid[1]}: "
            f"it keeps every pair of positions, up to {_MOST_POSITIONS} of them"
        )
    if design.padding == "circular" or not bordered:
        return start.on_map(grid)
    white = Kernel(samples=count).on_map(grid)
    profile = Convolution(1.0, Window()).forward(white).variances
    return start.on_map(grid, profile / np.mean(profile))
