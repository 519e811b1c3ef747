"""RescaleNet: no normalisation, scales that keep the variance at every block. One recipe."""

from __future__ import annotations

import math

from torch import nn

from sigprop.errors import BadInput, suggestion
from sigprop.networks.catalogue import register
from sigprop.networks.design import Design
from sigprop.networks.gains import centred_gain, he_gain
from sigprop.networks.residual import Recipe, ResidualNet

GAINS = ("preserving", "he")


def coefficients(depth: int, c: float) -> tuple[list[float], list[float]]:
    """Return (alpha_1..alpha_L, beta_1..beta_L) of x_k = alpha_k x_{k-1} + beta_k F_k(x_{k-1}).

    alpha_k = √((k-1+c)/(k+c)), beta_k = 1/√(k+c), so that alpha_k² + beta_k² = 1 and each F_k has
    the same weight 1/√(L+c) in x_L, while x_0 keeps √(c/(L+c)).

    Source: Shao et al. 2020, the solution of conditions (a) and (b); their choice is c = L.

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
    c: float | None = None,
    multiplier: bool = True,
    reparametrise: bool | None = None,
    bias: bool = True,
    gain: str = "preserving",
) -> nn.Module:
    """Return x_k = alpha_k x_{k-1} + beta_k m_k F_k(x_{k-1}), with biases in front of the weights.

    Two forms that are the same function at initialisation, with different gradients. The plain one
    has He-like weights and the coefficient m_k beta_k. The paper's reparametrised one has the
    coefficient m_k/√L, and the standard deviation of each of the m weights of branch k is
    multiplied by ((k+c)/L)^(-1/(2m)): L^(-1/2) · [((k+c)/L)^(-1/(2m))]^m = (k+c)^(-1/2).

    Condition (a) of the paper needs E[F(x)²] = E[x²]. A bias of minus the batch mean takes 1/π of
    a rectified signal's second moment away, so that He's gain² = 2 loses a factor 1 - 1/π per
    weight. The preserving gain makes up for it (`centred_gain`); it applies when the bias is used
    and expects what the stem's bias provides, pre-activations of mean 0 per channel.
    In the order weight-norm-act a ReLU follows every addition: there the algebra speaks of the sum
    before the ReLU only, and neither gain preserves the second moment of a block's output.

    Source: Shao et al. 2020 (coefficients, multiplier, reparametrisation, bias); gain: derived at
    `centred_gain`. The authors' code differs: c is L - 1, the exponent 1/6 (m = 3), the gain He's.

    Args:
        design: sizes and orders.
        c: sets how the variance of x_L is shared: x_0 keeps c/(L+c); the depth L when not given.
        multiplier: a learned scalar m_k per branch, 1 at first.
        reparametrise: the paper's form; when not given, wherever it is exact, which is for
            positively homogeneous activations (relu, identity) or one weight per branch.
        bias: a bias in front of every weight; there is none after a weight in any case.
        gain: ``"preserving"``, or ``"he"`` as in the authors' code.

    Raises:
        BadInput: c <= 0, an unknown gain, or reparametrise=True where it would change the function.
    """
    c = float(design.depth) if c is None else c
    alphas, betas = coefficients(design.depth, c)
    if gain not in GAINS:
        raise BadInput(f"no gain is called {gain!r}; {suggestion(gain, GAINS)}")
    paper = _exact(design) if reparametrise is None else reparametrise
    if paper and not _exact(design):
        raise BadInput(
            f"reparametrise=True moves factors through the activation, which {design.activation!r} "
            "does not allow with more than one weight per branch; use reparametrise=False"
        )
    depth, layers = design.depth, design.branch_layers
    recipe = Recipe(
        gain=centred_gain if bias and gain == "preserving" else he_gain,
        centre=bias,
        alpha=lambda k: alphas[k - 1],
        beta=lambda k: depth**-0.5 if paper else betas[k - 1],
        spread=lambda k: ((k + c) / depth) ** (-1 / (2 * layers)) if paper else 1.0,
        multiplier=multiplier,
    )
    return ResidualNet(design, recipe)


def _exact(design: Design) -> bool:
    return design.activation in ("relu", "identity") or design.branch_layers == 1
