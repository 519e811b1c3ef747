"""Residual networks: RescaleNet's algebra, the plain network's doubling, what is preserved."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sigprop import networks, theory
from sigprop.claims import faults, zoo
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close, mean_ratio
from sigprop.claims.zoo import Array
from sigprop.theory import Kernel

#: Tolerance in standard errors in a full and in a quick trial; the interval itself takes about 2.
ERRORS = (6, 4)
REASON = f"{ERRORS[0]} standard errors, measured"


def size(trial: Trial, **options: Any) -> dict[str, Any]:
    """Return options of a zoo MLP of one weight a branch; its inputs are as wide as it is.

    Args:
        trial: small or full.
        options: what differs.
    """
    width = trial.pick(256, 96)
    basic = {"depth": trial.pick(20, 8), "width": width, "inputs": width, "branch_layers": 1}
    return {**basic, **options}


def ends(found: Array, column: int = 0) -> Array:
    """Return x_L over x_0 of each draw, for one of the three moments.

    Args:
        found: of shape (draws, L + 1, 3).
        column: 0 second moment, 1 channel variance, 2 mean shift.
    """
    return np.asarray(found[:, -1, column] / found[:, 0, column])


@claim(
    "rescale-algebra",
    "alpha² + beta² = 1, and every block weighs the same",
    source="Shao et al. 2020 (RescaleNet), conditions (a) and (b)",
    conditions="networks.coefficients for (L, c) = (1, 1), (8, 0.5), (20, 20), (50, 7),"
    " (1000, 1000), float64; and what the skips of the zoo's rescale keep, measured, float32",
    statement="alpha² + beta² = 1; prod alpha = √(c/(L+c)); beta_k prod_{i>k} alpha_i = 1/√(L+c)",
    tags=["exact"],
    saboteurs={
        "library: alpha forgotten": faults.NO_ALPHA,
        "library: beta off by 10 %": faults.BETA,
        "library: constant factors off by 10 %": faults.SCALE,
        "c counted from 0": {"shift": 0.1},
    },
)
def rescale_algebra(trial: Trial, shift: float = 0.0) -> list[Comparison]:
    """Multiply the library's coefficients out, block by block, and measure a network's skips.

    Args:
        trial: seeds and sizes.
        shift: of c, where the coefficients are asked for.

    Returns:
        One comparison per number.
    """
    worst = np.zeros(3)
    for depth, c in ((1, 1.0), (8, 0.5), (20, 20.0), (50, 7.0), (1000, 1000.0)):
        a, b = (np.array(v) for v in networks.coefficients(depth, c - shift))
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
    made = [close(name, 0.0, w, reason, by=1e-12) for name, w in zip(names, worst, strict=True)]
    return [*made, _skips(trial)]


def _skips(trial: Trial) -> Comparison:
    depth, c = 8, 8
    options = {"depth": depth, "width": 32, "inputs": 32, "c": c}
    (records,) = zoo.measured(trial, "rescale", (1, 1), 32, **options)
    rows = records.signals.query("kind == 'block' and direction == 'forward'")
    sides = rows.pivot_table(index="block", columns="port", values="second_moment")
    k = np.arange(1, depth + 1)
    off = np.abs((sides["skip"] / sides["in"]).to_numpy() * (k + c) / (k - 1 + c) - 1).max()
    what = "largest deviation of a measured skip from (k-1+c)/(k+c), relative"
    return close(what, 0.0, float(off), "rounding in float32", by=1e-5)


def _doubling(trial: Trial, kind: str) -> list[Comparison]:
    options = size(trial, activation=kind)
    depth = options["depth"]
    predicted = theory.predict("plain", depth, layers=1, activation=kind).second_moment
    slope = math.log2(predicted[-1] / predicted[0]) / depth
    found = zoo.trajectories(trial, "plain", (32, 12), trial.pick(512, 96), **options)
    what = "doublings of the second moment per block"
    return [mean_ratio(what, slope, ends(found), REASON, errors=trial.pick(*ERRORS), per=depth)]


@claim(
    "plain-linear-doubles",
    "a plain linear ResNet doubles the second moment at every block",
    source="Shao et al. 2020, section 2; He et al. 2016",
    conditions="the zoo's plain, n = 256, L = 20, N = 512 standard normal inputs, 32 seeds, one"
    " weight a branch",
    statement="log2 E[x_L²]/E[x_0²] = L",
    saboteurs={
        "library: variance of weights off by 10 %": faults.WEIGHTS,
        "library: theory off by 10 % a block": faults.THEORY_GROWTH,
    },
)
def plain_linear(trial: Trial) -> list[Comparison]:
    """Measure the growth of a linear residual stack.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    return _doubling(trial, "identity")


@claim(
    "plain-relu-doubles",
    "a plain ReLU ResNet with He weights doubles it too",
    source="Shao et al. 2020, section 2; He et al. 2015, 2016",
    conditions="as for plain-linear-doubles, with ReLU",
    statement="log2 E[x_L²]/E[x_0²] = L",
    note="the mean of log ratios lies half their variance lower (.978); the law is of "
    "the mean ratio, which is what is measured here",
    saboteurs={
        "library: gain forgotten (1 instead of √2)": faults.NO_GAIN,
        "library: theory off by 10 % a block": faults.THEORY_GROWTH,
    },
)
def plain_relu(trial: Trial) -> list[Comparison]:
    """Measure the growth of a ReLU residual stack.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    return _doubling(trial, "relu")


@claim(
    "rescale-preserves",
    "RescaleNet preserves the second moment, block by block",
    source="Shao et al. 2020, condition (a)",
    conditions="the zoo's rescale without biases, n = 256, L = c = 20, N = 512, 20 seeds in each"
    " of its two forms, ReLU, He weights",
    statement="E[x_k²] = E[x_{k-1}²]",
    note="one net's ratio scatters by .03: 5 seeds are too few for ±.05, 10 are not",
    saboteurs={
        "library: alpha forgotten": faults.NO_ALPHA,
        "library: beta off by 10 %": faults.BETA,
        "library: constant factors off by 10 %": faults.SCALE,
        "library: gain forgotten (1 instead of √2)": faults.NO_GAIN,
        "library: theory off by 10 %": faults.THEORY,
    },
)
def rescale_preserves(trial: Trial) -> list[Comparison]:
    """Measure the second moment through rescaled stacks.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    return _rescaled(trial, "second moment", 0)


@claim(
    "rescale-channel-variance",
    "but its channel variance falls: samples drift together",
    source="derived: c_k = alpha² c_{k-1} + beta² kappa(c_{k-1})",
    conditions="as for rescale-preserves",
    statement="Var_batch[x_L]/Var_batch[x_0] = 1 - c_L = .8138 at L = c = 20",
    saboteurs={
        "second moment taken for variance": {"column": 0},
        "library: alpha forgotten": faults.NO_ALPHA,
        "library: theory off by 10 %": faults.THEORY,
    },
)
def rescale_channel_variance(trial: Trial, column: int = 1) -> list[Comparison]:
    """Measure the channel variance through rescaled stacks.

    Args:
        trial: seeds and sizes.
        column: of the moments that is taken for the channel variance.

    Returns:
        One comparison per number.
    """
    return _rescaled(trial, "channel variance", column)


def _rescaled(trial: Trial, what: str, column: int) -> list[Comparison]:
    comparisons = []
    for paper, form in ((False, "plain form"), (True, "reparametrized")):
        options = size(trial, bias=False, reparametrize=paper)
        samples, depth = trial.pick(512, 96), options["depth"]
        found = zoo.trajectories(trial, "rescale", (20, 10), samples, **options)
        predicted = theory.predict("rescale", depth, layers=1, start=Kernel(samples=samples))
        made = predicted.channel_variance if "variance" in what else predicted.second_moment
        name = f"{form}: {what}"
        steps = found[:, 1:, column] / found[:, :-1, column]
        errors = steps.std(axis=0, ddof=1) / math.sqrt(len(steps))
        off = np.abs((steps.mean(axis=0) - made[1:] / made[:-1]) / errors)
        comparisons += [
            close(
                f"{name}, x_L over x_0",
                float(made[-1] / made[0]),
                ends(found, column),
                REASON,
                errors=trial.pick(*ERRORS),
            ),
            at_most(
                f"{name}, largest deviation of a block in standard errors",
                trial.pick(5.0, 12.0),
                float(off.max()),
                "the largest of 20 of Student's t (19 degrees of freedom; 5 in a quick trial)",
            ),
        ]
    return comparisons
