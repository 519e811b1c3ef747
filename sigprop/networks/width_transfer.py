"""Scales that carry settings across width and depth: μP with its depth rule, unit-scaled u-μP."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from sigprop.networks.arguments import check_number, check_whole
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.recipe import Recipe
from sigprop.networks.residual import ResidualNet


@register("mup")
def mup(design: Design, base_width: int = 64, branch: float = 1.0) -> nn.Module:
    """Return x + (a/√L) F(x) with a head of standard deviation 1/width: train with `mup_groups`.

    Hidden weights are N(0, gain²/fan_in), the head's N(0, base_width/fan_in²), attention logits
    q.k/d. The trunk's second moment is (1 + a²/L)^L, at most e^(a²).

    Source: Yang et al. 2021 (table 3), Yang et al. 2023 (depth).

    Args:
        design: sizes and orders.
        base_width: the width at which nothing differs from the standard parametrization.
        branch: a.

    Raises:
        BadInput: base_width < 1 or a negative or infinite a.
    """
    check_whole("base_width", base_width)
    scale = check_number("branch", branch) / math.sqrt(design.additions)
    recipe = Recipe(
        bias_after=True,
        beta=lambda k: scale,
        head_gain=math.sqrt(base_width / design.widths()[-1]),
        scale_exponent=1.0,
    )
    return ResidualNet(design, recipe)


def mup_groups(
    model: ResidualNet, learning_rate: float, base_width: int = 64
) -> list[dict[str, Any]]:
    """Return parameter groups for Adam: learning rate times base_width/fan_in for hidden weights.

    Matrices of the blocks and of the head have rate lr · base/width, those of the blocks times
    1/√L besides; the stem, biases and scalars keep lr. Widths are read off each weight's inputs,
    relative to what the same weight has at the base width.

    Source: Yang et al. 2021, table 3; Yang et al. 2023, sec. 3 (1/√L with Adam).

    Args:
        model: a network of the zoo.
        learning_rate: lr, at the base width.
        base_width: the width at which lr was tuned.

    Returns:
        Three groups: the rest at lr, the blocks' matrices, the head's.

    Raises:
        BadInput: base_width < 1 or a negative rate.

    Example:
        >>> from sigprop.networks import build
        >>> groups = mup_groups(build("mup", depth=4, width=128), 0.1)
        >>> [round(group["lr"], 6) for group in groups]
        [0.1, 0.025, 0.05]
    """
    check_whole("base_width", base_width)
    check_number("learning_rate", learning_rate)
    stem, blocks, head = (_matrices(part) for part in (model.stem, model.blocks, model.head))
    scaled = {id(p) for p in (*blocks, *head)}
    rest = [p for p in model.parameters() if id(p) not in scaled]
    rate = learning_rate * base_width / len(stem[0])
    return [
        {"params": rest, "lr": learning_rate},
        {"params": blocks, "lr": rate / math.sqrt(len(model.blocks))},
        {"params": head, "lr": rate},
    ]


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    weighted = (m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    return [m.get_parameter("weight") for m in weighted]


@register("unit-scaled")
def unit_scaled(design: Design, residual_mult: float = 1.0, attn_ratio: float = 1.0) -> nn.Module:
    """Return x_k = (x_{k-1} + τ_k F_k(x_{k-1}))/√(1 + τ_k²), u-μP's residual scheme.

    With both options at 1, τ_k² = 1/(L/2 + k - 1), and τ_k/√(1 + τ_k²) is RescaleNet's β_k at
    c = L/2. Weights have the gain that keeps the second moment, so that it is 1 at every block;
    unit scaling's separate backward scales are not part of this network.

    Source: Blake et al. 2024 (u-μP), sec. 4 and app. G.

    Args:
        design: sizes and orders; odd blocks take the part of attention.
        residual_mult: of all branches against the input.
        attn_ratio: of attention branches against feed-forward ones.

    Raises:
        BadInput: a negative or infinite option.
    """
    taus = unit_scaled_taus(design.additions, residual_mult, attn_ratio)
    recipe = Recipe(
        alpha=lambda k: 1 / math.sqrt(1 + taus[k - 1] ** 2),
        beta=lambda k: taus[k - 1] / math.sqrt(1 + taus[k - 1] ** 2),
        bias_after=True,
    )
    return ResidualNet(design, recipe)


def unit_scaled_taus(
    blocks: int, residual_mult: float = 1.0, attn_ratio: float = 1.0
) -> list[float]:
    """Return τ_1..τ_L, L = ``blocks``, attention first: u-μP's residual scaling rule.

    τ_k = a_k/√(L/2 + Σ_{j<k} a_j²), a_j² = 2 r²ρ²/(1 + ρ²) for attention, 2 r²/(1 + ρ²) else, with
    r the residual multiplier and ρ the ratio of attention to feed-forward.

    Source: Blake et al. 2024, app. G.2.2.

    Args:
        blocks: L, attention and feed-forward branches together.
        residual_mult: r, of all branches against the input.
        attn_ratio: ρ, of attention branches against feed-forward ones.

    Raises:
        BadInput: no block, or a negative or infinite option.

    Example:
        >>> [round(tau**-2, 9) for tau in unit_scaled_taus(4)]
        [2.0, 3.0, 4.0, 5.0]
    """
    check_whole("blocks", blocks)
    r = check_number("residual_mult", residual_mult)
    ratio = check_number("attn_ratio", attn_ratio)
    feed_forward = 2 * r**2 / (1 + ratio**2)
    squares = [feed_forward * (1.0 if k % 2 else ratio**2) for k in range(blocks)]
    return [math.sqrt(a / (blocks / 2 + sum(squares[:k]))) for k, a in enumerate(squares)]
