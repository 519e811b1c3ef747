"""Residual networks: RescaleNet's algebra, the plain network's doubling, what is preserved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from sigprop import theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close, mean_ratio
from sigprop.claims.subjects import (
    HE,
    Array,
    Center,
    CorrelatedBranch,
    Net,
    Residual,
    relu_branch,
    trajectories,
)
from sigprop.theory import Kernel

DEPTH = 20
ByBlock = Callable[[int, float], float]


def alpha(k: int, c: float) -> float:
    """Return RescaleNet's coefficient of the skip, block k counted from 1.

    Args:
        k: the block, from 1.
        c: the paper's constant.
    """
    return math.sqrt((k - 1 + c) / (k + c))


def beta(k: int, c: float) -> float:
    """Return RescaleNet's coefficient of the branch.

    Args:
        k: the block, from 1.
        c: the paper's constant.
    """
    return 1 / math.sqrt(k + c)


def one(k: int, c: float) -> float:
    """Return the coefficient of a plain block.

    Args:
        k: the block, from 1.
        c: the paper's constant.
    """
    return 1.0


def _more(k: int, c: float) -> float:
    return 1.1 * beta(k, c)


@claim(
    "rescale-algebra",
    "alpha² + beta² = 1, and every block weighs the same",
    number=1,
    source="Shao et al. 2020 (RescaleNet), conditions (a) and (b)",
    conditions="(L, c) = (1, 1), (8, 0.5), (20, 20), (50, 7), (1000, 1000); float64",
    statement="alpha² + beta² = 1; prod alpha = √(c/(L+c)); beta_k prod_{i>k} alpha_i = 1/√(L+c)",
    tags=["exact"],
    saboteurs={
        "alpha forgotten": {"skip": one},
        "beta off by 10 %": {"branch": _more},
        "c counted from 0": {"skip": lambda k, c: alpha(k, c - 0.1)},
    },
)
def rescale_algebra(
    trial: Trial, skip: ByBlock = alpha, branch: ByBlock = beta
) -> list[Comparison]:
    """Multiply the coefficients out, block by block.

    Args:
        trial: seeds and sizes.
        skip: alpha by block.
        branch: beta by block.

    Returns:
        One comparison per number.
    """
    worst = np.zeros(3)
    for depth, c in ((1, 1.0), (8, 0.5), (20, 20.0), (50, 7.0), (1000, 1000.0)):
        a = np.array([skip(k, c) for k in range(1, depth + 1)])
        b = np.array([branch(k, c) for k in range(1, depth + 1)])
        shares = theory.shares(a, b)
        errors = (
            np.abs(a**2 + b**2 - 1).max(),
            abs(shares.input * (depth + c) / c - 1),
            np.abs(shares.blocks * (depth + c) - 1).max(),
        )
        worst = np.maximum(worst, errors)
    names = (
        "largest deviation of alpha² + beta² from 1",
        "of x_0's share from c/(L+c), relative",
        "of a block's share from 1/(L+c), relative",
    )
    reason = "rounding of 1000 products in float64"
    return [close(name, 0.0, w, reason, by=1e-12) for name, w in zip(names, worst, strict=True)]


def stack(
    width: int,
    act: type[nn.Module] = nn.ReLU,
    gain2: float = HE,
    alphas: ByBlock = one,
    betas: ByBlock = one,
    spread: ByBlock = one,
    layers: int = 1,
    center: type[Center] | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
) -> Net:
    """Return 20 blocks x -> alpha_k x + beta_k F_k(x) of width ``width``, plain by default.

    Args:
        width: units.
        act: the nonlinearity.
        gain2: gain² of the weights.
        alphas: coefficient of the skip, by block.
        betas: coefficient of the branch, by block.
        spread: factor on the standard deviation of weights, by block.
        layers: weights of a branch.
        center: the bias in front of every weight, if any.
        wrap: changes a branch.

    Returns:
        A network without a head.
    """
    blocks = []
    for k in range(1, DEPTH + 1):
        branch: nn.Module = relu_branch(width, layers, gain2, spread(k, DEPTH), center, act)
        branch = branch if wrap is None else wrap(branch)
        blocks.append(Residual(branch, alphas(k, DEPTH), betas(k, DEPTH)))
    stem = None if center is None else Center(width)
    return Net(blocks, stem)


def ends(found: Array, column: int = 0) -> Array:
    """Return x_L over x_0 of each draw of `trajectories`, for one of the three moments.

    Args:
        found: of shape (draws, L + 1, 3).
        column: 0 second moment, 1 channel variance, 2 mean shift.
    """
    return found[:, -1, column] / found[:, 0, column]


def _doubling(trial: Trial, kind: str, act: type[nn.Module], **subject: Any) -> list[Comparison]:
    width, samples = trial.pick(256, 128), trial.pick(512, 128)
    predicted = theory.predict("plain", DEPTH, layers=1, activation=kind).second_moment
    slope = math.log2(predicted[-1] / predicted[0]) / DEPTH
    found = trajectories(
        trial,
        lambda: stack(width, act, **subject),
        (samples, width),
        (32, 8),
    )
    by = 0.01 if kind == "identity" else 0.04
    reason = (
        "8 standard errors of 32 nets: one net's slope scatters by .006 (linear) or .028 (ReLU)"
    )
    what = "doublings of the second moment per block"
    return [mean_ratio(what, slope, ends(found), reason, by=trial.pick(by, 3 * by), per=DEPTH)]


@claim(
    "plain-linear-doubles",
    "a plain linear ResNet doubles the second moment at every block",
    number=2,
    source="Shao et al. 2020, section 2; He et al. 2016",
    conditions="n = 256, L = 20, N = 512 standard normal inputs, 32 seeds, one weight a branch",
    statement="log2 E[x_L²]/E[x_0²] = L",
    saboteurs={
        "branch scaled by 1.1": {"betas": lambda k, c: 1.1},
        "branch and skip correlated": {"wrap": CorrelatedBranch},
    },
)
def plain_linear(trial: Trial, **subject: Any) -> list[Comparison]:
    """Measure the growth of a linear residual stack.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `stack`.

    Returns:
        One comparison per number.
    """
    return _doubling(trial, "identity", nn.Identity, **{"gain2": 1.0, **subject})


@claim(
    "plain-relu-doubles",
    "a plain ReLU ResNet with He weights doubles it too",
    number=3,
    source="Shao et al. 2020, section 2; He et al. 2015, 2016",
    conditions="n = 256, L = 20, N = 512, 32 seeds, one weight a branch",
    statement="log2 E[x_L²]/E[x_0²] = L",
    note="the mean of log ratios lies half their variance lower (.978); the law is of "
    "the mean ratio, which is what is measured here",
    saboteurs={
        "gain forgotten (1 instead of 2)": {"gain2": 1.0},
        "branch and skip correlated": {"wrap": CorrelatedBranch},
    },
)
def plain_relu(trial: Trial, **subject: Any) -> list[Comparison]:
    """Measure the growth of a ReLU residual stack.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `stack`.

    Returns:
        One comparison per number.
    """
    return _doubling(trial, "relu", nn.ReLU, **subject)


def _rescaled_checks(trial: Trial, found: Array, predicted: Array, what: str) -> list[Comparison]:
    column = 1 if "variance" in what else 0
    whole = close(
        f"{what}, x_{DEPTH} over x_0",
        float(predicted[-1] / predicted[0]),
        ends(found, column),
        "6 standard errors of 40 nets: one net's ratio scatters by .032",
        by=trial.pick(0.03, 0.06),
    )
    steps = found[:, 1:, column] / found[:, :-1, column]
    off = np.abs(steps.mean(axis=0) / (predicted[1:] / predicted[:-1]) - 1).max()
    each = at_most(
        f"{what}, largest deviation of a block",
        trial.pick(0.01, 0.03),
        float(off),
        "one block's ratio scatters by .01 to .02; the mean over nets by a sixth of that",
    )
    return [whole, each]


@claim(
    "rescale-preserves",
    "RescaleNet preserves the second moment, block by block",
    number=4,
    source="Shao et al. 2020, condition (a)",
    conditions="n = 256, L = c = 20, N = 512, 40 seeds, ReLU, He weights, no bias",
    statement="E[x_k²] = E[x_{k-1}²]",
    note="one net's ratio scatters by .03: 5 seeds are too few for ±.05, 10 are not",
    saboteurs={
        "alpha forgotten": {"alphas": one},
        "beta off by 10 %": {"betas": _more},
        "branch and skip correlated": {"wrap": CorrelatedBranch},
        "exponent 1/6 with 2 weights a branch": {
            "betas": lambda k, c: c**-0.5,
            "spread": lambda k, c: ((k + c) / c) ** (-1 / 6),
            "layers": 2,
        },
    },
)
def rescale_preserves(trial: Trial, **subject: Any) -> list[Comparison]:
    """Measure the second moment through a rescaled stack.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `stack`.

    Returns:
        One comparison per number.
    """
    return _rescaled(trial, "second moment", **subject)


@claim(
    "rescale-channel-variance",
    "but its channel variance falls: samples drift together",
    source="derived: c_k = alpha² c_{k-1} + beta² kappa(c_{k-1})",
    conditions="as for rescale-preserves",
    statement="Var_batch[x_L]/Var_batch[x_0] = 1 - c_L = .8138 at L = c = 20",
    saboteurs={
        "second moment taken for variance": {"column": 0},
        "alpha forgotten": {"alphas": one},
    },
)
def rescale_channel_variance(trial: Trial, column: int = 1, **subject: Any) -> list[Comparison]:
    """Measure the channel variance through a rescaled stack.

    Args:
        trial: seeds and sizes.
        column: of the moments that is taken for the channel variance.
        subject: what differs from the default network, see `stack`.

    Returns:
        One comparison per number.
    """
    return _rescaled(trial, "channel variance", column, **subject)


def _rescaled(
    trial: Trial, what: str, column: int | None = None, **subject: Any
) -> list[Comparison]:
    width, samples = trial.pick(256, 128), trial.pick(512, 128)
    settings = {"alphas": alpha, "betas": beta, **subject}
    seeds = (40, 24)
    found = trajectories(trial, lambda: stack(width, **settings), (samples, width), seeds)
    if column == 0:
        found[..., 1] = found[..., 0]
    start = Kernel(samples=samples)
    predicted = theory.predict("rescale", DEPTH, layers=1, start=start)
    trajectory = predicted.channel_variance if "variance" in what else predicted.second_moment
    return _rescaled_checks(trial, found, trajectory, what)
