"""From a recorded design to the numbers that theory takes: sizes, orders, maps and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from sigprop.errors import BadInput
from sigprop.networks import Design as Sizes
from sigprop.theory import Kernel
from sigprop.theory.maps import Convolution, Window
from sigprop.theory.skeleton import Skeleton

Design = Mapping[str, Any]

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


def sizes_of(design: Design) -> Sizes:
    """Return the shared options of a design, with what its network sets by itself.

    Raises:
        KeyError: the design lacks an option.
    """
    asked = Sizes(**{field.name: design[field.name] for field in fields(Sizes)})
    return replace(asked, **_SET.get(str(design["network"]), {}))


def skeleton_of(design: Design) -> Skeleton:
    """Return the stack of a design.

    Raises:
        NoTheory: the trunk is not Gaussian, or dropout stands in front of attention.
        KeyError: the design lacks an option.
    """
    sizes = sizes_of(design)
    if sizes.post_activation and sizes.skip:
        raise NoTheory(
            "theory has no recursion for an activation behind the residual addition "
            f"(order={sizes.order!r}): such a trunk is not Gaussian"
        )
    if sizes.architecture == "transformer" and design.get("drop"):
        raise NoTheory(f"theory has no recursion for dropout of attention (drop={design['drop']})")
    return Skeleton(
        tuple(sizes.widths()),
        sizes.width,
        sizes.architecture,
        tuple(sizes.order.split("-")),
        sizes.branch_layers,
        sizes.activation,
        sizes.padding == "circular",
        sizes.skip,
        sizes.bottleneck if sizes.block == "bottleneck" else None,
        sizes.heads,
    )


def placed(design: Design, start: Kernel, bordered: bool = True) -> Kernel:
    """Return the first block's input over the positions of a design: tokens, or a map.

    Zero padding of the stem has taken its part at the border already: what a map of independent
    values keeps behind one 3x3 convolution is the profile of the second moment.

    Args:
        design: of a network.
        start: the statistics of all positions together.
        bordered: the stem's kernel reaches over the border.

    Raises:
        NoTheory: a map is too large.
        KeyError: the design lacks an option.
    """
    sizes = sizes_of(design)
    if sizes.architecture == "mlp":
        return start
    covariance, samples = start.covariance, start.samples
    if sizes.architecture == "transformer":
        return Kernel(start.second_moment, covariance, samples=samples, positions=sizes.tokens[0])
    grid = (sizes.inputs[1], sizes.inputs[2])
    count = grid[0] * grid[1]
    alone = sizes.stages == 1 and design["network"] not in ("vgg", "nfnet")
    if sizes.padding == "circular" and alone:
        return Kernel(start.second_moment, covariance, samples=samples, positions=count)
    if count > _MOST_POSITIONS:
        raise NoTheory(
            f"theory has no recursion for zero padding or stages on a map of {grid[0]}x{grid[1]}: "
            f"it keeps every pair of positions, up to {_MOST_POSITIONS} of them"
        )
    if sizes.padding == "circular" or not bordered:
        return start.on_map(grid)
    white = Kernel(samples=count).on_map(grid)
    profile = Convolution(1.0, Window()).forward(white).variances
    return start.on_map(grid, profile / np.mean(profile))
