"""Normalizer-free networks: planned variances, and no mean shift."""

from __future__ import annotations

from typing import Any

import numpy as np

from sigprop import theory
from sigprop.claims import faults, zoo
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_least, at_most, close
from sigprop.claims.residual import ERRORS


def _images(trial: Trial, channels: tuple[int, int], **options: Any) -> dict[str, Any]:
    basic = {
        "architecture": "resnet",
        "padding": "circular",
        "width": trial.pick(*channels),
        "inputs": (3, 8, 8),
        "block": "basic",
    }
    return {**basic, **options}


@claim(
    "nf-planned-variance",
    "an NF-ResNet's variance is 1 + k alpha² and starts again at each transition",
    source="Brock et al. 2021a, section 3; nfnets/nf_resnet.py",
    conditions="the zoo's nf-resnet, 64 and 128 channels, 8 x 8 and 4 x 4, circular padding, two"
    " stages of 4 blocks, alpha = 0.2 and 1, batch 16, 12 seeds; the learned gain of a branch"
    " (SkipInit) set to 1",
    statement="channel variance 1 + alpha², ..., 1 + d alpha² after each block of a stage of d",
    note="the official code starts the learned gain at 0, and the variance then stays at 1",
    saboteurs={
        "SkipInit gain left at 0": {"skip_gain": 0.0},
        "library: gamma off (He's gain)": faults.GAMMA,
        "library: standardized weights off by 10 %": faults.STANDARDIZED,
        "library: weights not standardized": faults.NOT_STANDARDIZED,
    },
)
def nf_variance(trial: Trial, skip_gain: float = 1.0) -> list[Comparison]:
    """Compare every block's channel variance with the plan.

    Args:
        trial: seeds and sizes.
        skip_gain: SkipInit's gain.

    Returns:
        One comparison per number.
    """
    per_stage = trial.pick(4, 2)
    comparisons = []
    for alpha in (0.2, 1.0):
        own = {"alpha": alpha, "skip_gain": skip_gain, "stages": 2, "depth": 2 * per_stage}
        options = _images(trial, (64, 24), **own)
        found = zoo.trajectories(trial, "nf-resnet", (12, 6), 16, **options)
        plan = np.concatenate(theory.nf_growth((per_stage, per_stage), alpha))
        ratio = found[:, 1:, 1] / plan
        finite = 2 / options["width"] + 1 / 256
        reason = f"2/channels, 1/positions of the finite size, {ERRORS[0]} standard errors"
        comparisons += [
            close(
                f"alpha {alpha}: mean of measured over planned",
                1.0,
                ratio.mean(axis=1),
                reason,
                by=finite,
                errors=trial.pick(*ERRORS),
            ),
            *(
                close(
                    f"alpha {alpha}: measured over planned after block {k + 1}",
                    1.0,
                    ratio[:, k],
                    reason,
                    by=finite,
                    errors=trial.pick(*ERRORS),
                )
                for k in (per_stage - 1, 2 * per_stage - 1)
            ),
        ]
    return comparisons


@claim(
    "nf-mean-shift",
    "standardized weights remove the mean shift that He weights build up",
    source="Brock et al. 2021a, sections 3 and 4.1",
    conditions="the zoo's nf-resnet (alpha = 1) and plain, 64 channels, 8 x 8, circular, 16"
    " residual blocks, batch 16, 4 seeds",
    statement="squared channel mean over second moment: below .01 standardized, above .3 with He",
    saboteurs={"library: weights not standardized": faults.NOT_STANDARDIZED},
)
def nf_mean_shift(trial: Trial) -> list[Comparison]:
    """Compare the mean shift with and without standardization.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """

    def share(network: str, **own: Any) -> zoo.Array:
        options = _images(trial, (64, 32), depth=16, **own)
        found = zoo.trajectories(trial, network, (4, 3), 16, **options)
        return np.asarray(found[:, -1, 2] / found[:, -1, 0])

    return [
        at_most(
            "mean shift with standardized weights",
            0.01,
            share("nf-resnet", alpha=1.0),
            "1/N = .001 is left by a finite batch",
        ),
        at_least("mean shift with He weights", 0.3, share("plain"), "as stated"),
    ]
