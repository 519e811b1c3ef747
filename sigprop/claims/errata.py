"""Formulas that sources print wrongly: the right form, the printed one, and what is measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigprop import theory
from sigprop.claims import faults, zoo
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_least, close
from sigprop.claims.nf_parts import Clip, clipped
from sigprop.claims.optimization import direction_step, regression_noise
from sigprop.claims.residual import ERRORS, REASON, ends, size
from sigprop.claims.subjects import Norm, batch_norm, gaussian, layer_norm
from sigprop.claims.weightnorm import Start, arpit, as_printed, data_dependent, through_layers


def _facts(key: str, conditions: str) -> dict[str, Any]:
    """Return the facts of a claim from the catalog of misprints."""
    erratum = theory.ERRATA[key]
    return {
        "source": erratum.source,
        "conditions": conditions,
        "statement": f"right: {erratum.right}",
        "note": f"printed: {erratum.wrong}",
        "erratum": key,
    }


def _values(key: str, *arguments: float) -> tuple[float, float]:
    """Return what the printed and the right formula give."""
    erratum = theory.ERRATA[key]
    assert erratum.wrong_value is not None
    assert erratum.right_value is not None
    return erratum.wrong_value(*arguments), erratum.right_value(*arguments)


@claim(
    "misprint-s1",
    "weight norm's data-dependent start",
    **_facts("S1", "torch's default Linear(30, 20), batch of 128; float64"),
    saboteurs={"the printed formula": {"start": as_printed}},
)
def s1(trial: Trial, start: Start = data_dependent) -> list[Comparison]:
    """Initialize one layer and look at its outputs.

    Args:
        trial: seeds and sizes.
        start: computes gain and bias from weights and a batch.

    Returns:
        One comparison per number.
    """
    stds, _ = through_layers(start, trial.base, layers=1)
    printed, _ = through_layers(as_printed, trial.base, layers=1)
    return [
        close(
            "mean deviation of the outputs",
            1.0,
            float(stds.mean()),
            "float64 rounding",
            by=1e-10,
            printed=float(printed.mean()),
        )
    ]


@claim(
    "misprint-s2",
    "what divides a branch of a weight-norm ResNet",
    **_facts("S2", "n = 200, B = 10 blocks, 24 seeds, branches over √B"),
    saboteurs={"branch over B, as printed": {"power": 1.0}},
)
def s2(trial: Trial, power: float = 0.5) -> list[Comparison]:
    """Measure the growth with the authors' own factor.

    Args:
        trial: seeds and sizes.
        power: of B that divides a branch.

    Returns:
        One comparison per number.
    """
    printed, right = _values("S2", 10.0)
    forward, _ = arpit(trial, 10, power)
    reason = "one net scatters by 5 %, 24 by 1 %"
    what = "growth of the squared norm over 10 blocks"
    return [close(what, right, forward, reason, share=trial.pick(0.06, 0.15), printed=printed)]


@claim(
    "misprint-s3",
    "how far a scale-invariant weight's direction moves",
    **_facts("S3", "cubic loss of the direction, n = 50, ‖w‖ = 5, eta = 1e-5; float64"),
    saboteurs={"norm of 1 instead of 5": {"norm": 1.0}},
)
def s3(trial: Trial, norm: float = 5.0) -> list[Comparison]:
    """Measure the step of the direction over eta times the gradient on the sphere.

    Args:
        trial: seeds and sizes.
        norm: ‖w‖.

    Returns:
        One comparison per number.
    """
    printed, right = _values("S3", 1.0, 5.0)
    _, size = direction_step(trial.base, norm, 1e-5)
    what = "step over eta ‖grad h‖ at ‖w‖ = 5"
    return [close(what, right, size, "order eta", share=1e-3, printed=printed)]


@claim(
    "misprint-s4",
    "what layer normalization is invariant to",
    **_facts("S4", "32 samples, 20 -> 10 units; float64, eps = 0"),
    saboteurs={"batch norm, which ignores a shift of the data": {"norm": batch_norm}},
)
def s4(trial: Trial, norm: Norm = layer_norm) -> list[Comparison]:
    """Shift the data, and recenter the weights.

    Args:
        trial: seeds and sizes.
        norm: a normalization of (samples, units).

    Returns:
        One comparison per number.
    """
    generator = torch.Generator().manual_seed(trial.base)
    w, x = (gaussian(generator, n, 20, double=True) for n in (10, 32))
    row = gaussian(generator, 20, double=True)
    before = norm(x @ w.T)
    shifted = float((norm((x + row) @ w.T) - before).abs().max())
    recentered = float((norm(x @ (w + row).T) - before).abs().max())
    return [
        close("change on recentering the weights", 0.0, recentered, "float64 rounding", by=1e-10),
        replace(at_least("change on shifting the data", 0.1, shifted, "of size 1"), printed=0.0),
    ]


def _agc_as_printed(weight: Tensor, gradient: Tensor) -> Tensor:
    scalar = 0.01 * weight.norm(dim=1, keepdim=True) / gradient.norm(dim=1, keepdim=True)
    return scalar * torch.ones_like(gradient) / math.sqrt(gradient.shape[1])


@claim(
    "misprint-s5",
    "what adaptive gradient clipping returns",
    **_facts(
        "S5",
        "networks.clip_adaptively on a unit with ‖W_i‖ = 2 and ‖G_i‖ = 5, and one of zero weights",
    ),
    saboteurs={
        "the printed formula": {"clip": _agc_as_printed},
        "library: no clipping": faults.NO_CLIPPING,
        "library: lambda off by 10 %": faults.CLIPPING,
    },
)
def s5(trial: Trial, clip: Clip = clipped) -> list[Comparison]:
    """Clip two units.

    Args:
        trial: seeds and sizes.
        clip: returns the clipped gradient of a weight and a gradient.

    Returns:
        One comparison per number.
    """
    generator = torch.Generator().manual_seed(trial.base)
    w, g = (gaussian(generator, 2, 12, double=True) for _ in range(2))
    w, g = 2 * w / w.norm(dim=1, keepdim=True), 5 * g / g.norm(dim=1, keepdim=True)
    w[1] = 0
    out = clip(w, g).norm(dim=1)
    comparisons = []
    for unit, (name, norm) in enumerate((("‖W_i‖ = 2", 2.0), ("W_i = 0", 0.0))):
        printed, right = _values("S5", norm, 5.0, 0.01, 1e-3)
        what = f"norm of the clipped gradient, {name}"
        found = float(out[unit])
        comparisons.append(
            close(what, right, found, "float64 rounding", share=1e-10, printed=printed)
        )
    return comparisons


@claim(
    "misprint-s6",
    "which gradient of Bjorck's bound is the estimate",
    **_facts("S6", "linear regression, 512 samples, B = 8 with replacement, 20,000 draws"),
    saboteurs={"batch of 1": {"batch": 1}},
)
def s6(trial: Trial, batch: int = 8) -> list[Comparison]:
    """Compare the scatter of single gradients with that of their mean.

    Args:
        trial: seeds and sizes.
        batch: samples per draw.

    Returns:
        One comparison per number.
    """
    found = regression_noise(trial, batch)
    return [
        close(
            "scatter of the estimate over that of one sample's gradient",
            1 / 8,
            found.draws / (0.1**2 * found.per_sample),
            "6 standard errors: a draw scatters by .65 of its mean",
            share=trial.pick(0.03, 0.09),
            printed=8.0,
        )
    ]


@claim(
    "misprint-t1",
    "the exponent of the reparametrized RescaleNet",
    **_facts(
        "T1",
        "the zoo's rescale, n = 256, L = c = 20, two weights a branch, N = 512, 24 seeds, no bias",
    ),
    saboteurs={
        "library: exponent 1/6, as printed": faults.EXPONENT,
        "library: gain forgotten (1 instead of √2)": faults.NO_GAIN,
    },
)
def t1(trial: Trial) -> list[Comparison]:
    """Measure the second moment through the reparametrized form with two weights a branch.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    options = size(trial, branch_layers=2, bias=False, reparametrize=True, c=trial.pick(20, 1))
    depth, c = options["depth"], options["c"]
    found = zoo.trajectories(trial, "rescale", (24, 8), trial.pick(512, 96), **options)
    pairs = np.array([_values("T1", k, depth, c, 2) for k in range(1, depth + 1)])
    printed, right = pairs.prod(axis=0)
    return [
        close(
            "second moment, x_L over x_0",
            float(right),
            ends(found),
            REASON,
            errors=trial.pick(*ERRORS),
            printed=float(printed),
        )
    ]
