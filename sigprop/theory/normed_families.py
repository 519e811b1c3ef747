"""The families with a norm, or with what replaces one: BatchNorm, LayerNorm, NF-ResNets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sigprop.theory import gaussian
from sigprop.theory.activations import Activation
from sigprop.theory.arguments import non_negative, number, one_of, positive, whole
from sigprop.theory.branch import Branch, gain_squared
from sigprop.theory.families import FAMILIES
from sigprop.theory.kernel import Kernel
from sigprop.theory.residual import Block, Prediction, recursion

_NORM_ORDERS = {
    "norm-act-weight": ("norm", "act", "weight"),
    "act-norm-weight": ("act", "norm", "weight"),
    "act-weight-norm": ("act", "weight", "norm"),
    "weight-norm-act": ("weight", "norm", "act"),
}


def _normalized_branch(norm: str, order: str, layers: int, activation: str | Activation) -> Branch:
    pattern = _NORM_ORDERS[one_of("order", order, _NORM_ORDERS)] * whole("layers", layers, 1)
    ops = tuple(norm if op == "norm" else op for op in pattern)
    gain = "he" if order == "norm-act-weight" else "one"
    return Branch(ops, activation, gain_squared(activation, gain))


@FAMILIES.register("batchnorm")
def batchnorm(
    depth: int,
    *,
    order: str = "norm-act-weight",
    layers: int = 1,
    activation: str | Activation = "relu",
    scale: float = 1.0,
    start: Kernel | None = None,
) -> Prediction:
    """Return x + F(x) with BatchNorm in every layer: q_k = k + 1 (De & Smith 2020, section 3).

    Order BN-act-W (He gain): channel variance 1 + (1-1/pi) k for ReLU. Order act-BN-W (gain 1) and
    act-W-BN: k + 1. Gradients to leading order in a large batch.

    Args:
        depth: L.
        order: ``"norm-act-weight"`` (pre-activation), ``"act-norm-weight"``,
            ``"act-weight-norm"`` or ``"weight-norm-act"`` (post-activation).
        layers: times the order is repeated in a branch.
        activation: of the branch.
        scale: on the branch.
        start: the kernel of x_0.

    Raises:
        UnknownName: an unknown word.
        BadInput: a negative depth, fewer than one layer.

    Example:
        >>> made = batchnorm(2)
        >>> made.second_moment.round(9).tolist(), made.channel_variance.round(6).tolist()
        ([1.0, 2.0, 3.0], [1.0, 1.68169, 2.36338])
    """
    branch = _normalized_branch("batchnorm", order, layers, activation)
    return recursion([Block(branch, 1.0, scale)] * whole("depth", depth), start)


@FAMILIES.register("layernorm")
def layernorm(
    depth: int,
    *,
    order: str = "norm-act-weight",
    layers: int = 1,
    activation: str | Activation = "relu",
    scale: float = 1.0,
    start: Kernel | None = None,
) -> Prediction:
    """Return x + F(x) with LayerNorm in every layer (pre-LN): q_k = k + 1 (Xiong et al. 2020).

    Args:
        depth: L.
        order: as for ``batchnorm``.
        layers: times the order is repeated in a branch.
        activation: of the branch; ``"identity"`` for a linear one.
        scale: on the branch (LayerScale's lambda).
        start: the kernel of x_0.

    Raises:
        UnknownName: an unknown word.
        BadInput: a negative depth, fewer than one layer.

    Example:
        >>> layernorm(2).second_moment.round(9).tolist()
        [1.0, 2.0, 3.0]
    """
    branch = _normalized_branch("layernorm", order, layers, activation)
    return recursion([Block(branch, 1.0, scale)] * whole("depth", depth), start)


@FAMILIES.register("nf")
def nf(
    depth: int | Sequence[int],
    *,
    alpha: float = 0.2,
    layers: int = 2,
    activation: str | Activation = "relu",
    skip_gain: float = 1.0,
    start: Kernel | None = None,
) -> Prediction:
    """Return x + alpha F(x / beta_k) with standardized weights (NF-ResNets, Brock et al. 2021).

    Var x_k = 1 + k alpha^2. A sequence of depths gives stages: each stage's first block replaces
    the skip path by a weight layer on act(x / beta), so the expected variance starts again at 1.

    Args:
        depth: blocks, or blocks per stage (with transitions).
        alpha: of the branch.
        layers: weight layers of a branch.
        activation: of the branch; the gain is gamma = 1/std f(z).
        skip_gain: SkipInit's gain: 1 here; the official code starts at 0, and then Var stays flat.
        start: the kernel of x_0; its second moment is what the first beta assumes.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth, a negative alpha, fewer than one layer.

    Example:
        >>> nf((2, 3)).second_moment.round(9).tolist()
        [1.0, 1.04, 1.08, 1.04, 1.08, 1.12]
    """
    start = Kernel() if start is None else start
    stages = isinstance(depth, Sequence)
    depths = [whole("depth", d) for d in (depth if isinstance(depth, Sequence) else [depth])]
    g2 = gaussian.gamma(activation) ** 2
    whole("layers", layers, 1)
    growth = non_negative("alpha", alpha) ** 2
    expected, blocks = positive("second_moment", start.second_moment), []
    for blocks_of_stage in depths:
        for index in range(blocks_of_stage):
            factor = 1 / math.sqrt(expected)
            ops = ("scale", *("act", "standardized") * layers)
            side = Branch(ops[:3], activation, g2, factor) if stages and index == 0 else None
            branch = Branch(ops, activation, g2, factor)
            blocks.append(Block(branch, 1.0, alpha * number("skip_gain", skip_gain), side))
            expected = (1.0 if side else expected) + growth
    return recursion(blocks, start)
