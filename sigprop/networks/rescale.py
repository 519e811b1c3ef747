"""RescaleNet: no normalization, scales that keep the variance at every block. One recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from sigprop.errors import BadInput
from sigprop.networks.activations import HOMOGENEOUS
from sigprop.networks.arguments import check_known, check_rate, check_whole
from sigprop.networks.catalog import register
from sigprop.networks.design import Design
from sigprop.networks.first_batch import BiasBefore
from sigprop.networks.gains import centered_gain, he_gain
from sigprop.networks.layers import Multiplier
from sigprop.networks.recipe import LayerFactory, Recipe
from sigprop.networks.residual import ResidualNet

GAINS = ("preserving", "he")
MULTIPLIERS: Mapping[str, LayerFactory | None] = {
    "scalar": lambda channels, dims: Multiplier(),
    "vector": lambda channels, dims: Multiplier(1.0, channels, dims),
    "none": None,
}


def coefficients(depth: int, c: float) -> tuple[list[float], list[float]]:
    """Return (alpha_1..alpha_L, beta_1..beta_L) of x_k = alpha_k x_{k-1} + beta_k F_k(x_{k-1}).

    alpha_k = √((k-1+c)/(k+c)), beta_k = 1/√(k+c), so that alpha_k² + beta_k² = 1 and each F_k has
    the same weight 1/√(L+c) in x_L, while x_0 keeps √(c/(L+c)).

    Source: Shao et al. 2020, the solution of conditions (a) and (b); their choice is c = L.

    Args:
        depth: L, the number of blocks.
        c: any number above 0.

    Returns:
        Two lists of L numbers.

    Raises:
        BadInput: depth < 1, or c is not a positive finite number.

    Example:
        >>> alphas, betas = coefficients(2, c=2)
        >>> [round(a * a, 12) for a in alphas], [round(b * b, 12) for b in betas]
        ([0.666666666667, 0.75], [0.333333333333, 0.25])
    """
    if depth < 1:
        raise BadInput(f"depth must be at least 1, got {depth!r}")
    if not (c > 0 and math.isfinite(c)):
        raise BadInput(f"c must be a positive number, got {c!r}; the paper's choice is the depth")
    blocks = range(1, depth + 1)
    alphas = [math.sqrt((k - 1 + c) / (k + c)) for k in blocks]
    return alphas, [1 / math.sqrt(k + c) for k in blocks]


@register("rescale")
def rescale(
    design: Design,
    c: float | str | None = None,
    multiplier: str = "scalar",
    reparametrize: bool | None = None,
    bias: bool = True,
    bias_batches: int = 1,
    gain: str = "preserving",
    backbone: bool = False,
    drop: float = 0.0,
    drop_head: float = 0.0,
) -> nn.Module:
    """Return x_k = alpha_k x_{k-1} + beta_k m_k F_k(x_{k-1}), with biases in front of the weights.

    Two forms that are the same function at initialization, with different gradients. The plain one
    has He-like weights and the coefficient m_k beta_k. The paper's reparametrized one has the
    coefficient m_k/√L, and the standard deviation of each of the m weights of branch k is
    multiplied by ((k+c)/L)^(-1/(2m)): L^(-1/2) · [((k+c)/L)^(-1/(2m))]^m = (k+c)^(-1/2).

    Condition (a) of the paper needs E[F(x)²] = E[x²]. A bias of minus the batch mean takes 1/π of
    a rectified signal's second moment away, so that He's gain² = 2 loses a factor 1 - 1/π per
    weight. The preserving gain makes up for it (`centered_gain`); it applies when the bias is used
    and expects what the stem's bias provides, pre-activations of mean 0 per channel.
    In the order weight-norm-act a ReLU follows every addition: there the algebra is about the sum
    before the ReLU only, and neither gain preserves the second moment of a block's output.
    In a Transformer attention averages over tokens, so its branch adds less than beta_k².

    Source: Shao et al. 2020 (coefficients, multiplier, reparametrization, bias); gain: derived at
    `centered_gain`. The authors' ImageNet model is c="official", gain="he", bias_batches=8,
    block="bottleneck", order="weight-norm-act", drop=0.03, drop_head=0.3 here, but for its stem,
    for dropout in its last two stages only, and for a bias that it shrinks while it averages.

    Args:
        design: sizes and orders.
        c: sets how the variance of x_L is shared: x_0 keeps c/(L+c); the depth L when not given,
            ``"official"`` is the authors' code's L - 1.
        multiplier: what is learned on a branch, 1 at first: ``"scalar"``, ``"vector"`` (one per
            channel) or ``"none"``.
        reparametrize: the paper's form; when not given, wherever it is exact, which is for
            positively homogeneous activations (relu, leaky_relu, identity), one weight per branch.
        bias: a bias in front of every weight; there is none after a weight in any case.
        bias_batches: how many first mini-batches the biases are averaged over.
        gain: ``"preserving"``, or ``"he"`` as in the authors' code.
        backbone: a learned scalar on the skip too, 1 at first.
        drop: rate of dropout in front of every weight of a branch, which is scaled by √(1 - drop).
        drop_head: rate of dropout in front of the head.

    Raises:
        BadInput: c <= 0, an unknown multiplier or gain, bias_batches < 1, a rate outside [0, 1), or
            reparametrize=True where it would change the function.
    """
    depth, layers = design.additions, design.m
    c = depth_constant(c, depth)
    alphas, betas = coefficients(depth, c)
    check_known("gain", gain, GAINS)
    check_known("multiplier", multiplier, MULTIPLIERS)
    check_whole("bias_batches", bias_batches)
    paper = _exact(design) if reparametrize is None else reparametrize
    if paper and not _exact(design):
        raise BadInput(
            f"reparametrize=True moves factors through the activation, which {design.activation!r} "
            "does not allow with more than one weight per branch; use reparametrize=False"
        )
    recipe = Recipe(
        gain=centered_gain if bias and gain == "preserving" else he_gain,
        before_weight=(lambda width, dims: BiasBefore(width, dims, bias_batches)) if bias else None,
        alpha=lambda k: alphas[k - 1],
        beta=lambda k: depth**-0.5 if paper else betas[k - 1],
        weight_scale=lambda k: ((k + c) / depth) ** (-1 / (2 * layers)) if paper else 1.0,
        multiplier=MULTIPLIERS[multiplier],
        backbone=backbone,
        drop=check_rate("drop", drop),
        drop_head=check_rate("drop_head", drop_head),
    )
    return ResidualNet(design, recipe)


def depth_constant(c: float | str | None, depth: int) -> float:
    """Return c as a number: L when not given, L - 1 for ``"official"``.

    Args:
        c: a number, None for L, or ``"official"``.
        depth: L.

    Raises:
        BadInput: another word.

    Example:
        >>> depth_constant(None, 16), depth_constant("official", 16)
        (16.0, 15.0)
    """
    if isinstance(c, str):
        if c != "official":
            raise BadInput(f"c must be a positive number or 'official' (L - 1), got {c!r}")
        return float(depth - 1)
    return float(depth) if c is None else c


def _exact(design: Design) -> bool:
    # attention is linear in its values, and its branch passes no activation
    return design.activation in HOMOGENEOUS or design.m == 1
