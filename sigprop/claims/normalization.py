"""Batch normalization: how trunks grow, how gradients explode without skips."""

from __future__ import annotations

import numpy as np

from sigprop import theory
from sigprop.claims import faults, zoo
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, close
from sigprop.claims.residual import ERRORS, REASON, size

_FACTOR = "sigprop.theory.normalized:batchnorm_gradient_factor"


@claim(
    "bn-resnet-growth",
    "the trunk of a BatchNorm ResNet grows by one per block",
    source="De & Smith 2020, section 3",
    conditions="the zoo's batchnorm, n = 256, N = 512, 20 blocks, 16 seeds; orders ReLU-BN-W and"
    " BN-ReLU-W",
    statement="E[x_k²] = k + 1; channel variance k + 1 (ReLU-BN-W) or 1 + (1 - 1/pi) k (BN-ReLU-W)",
    saboteurs={
        "library: norm forgotten": faults.NO_NORM,
        "library: gain forgotten (1 instead of √2)": faults.NO_GAIN,
        "library: theory off by 10 %": faults.THEORY,
        "second moment taken for variance": {"column": 0},
    },
)
def bn_growth(trial: Trial, column: int = 1) -> list[Comparison]:
    """Measure the growth of both orders at three depths.

    Args:
        trial: seeds and sizes.
        column: of the moments: 1 is the channel variance.

    Returns:
        One comparison per number.
    """
    comparisons = []
    samples = trial.pick(512, 96)
    for order in ("act-norm-weight", "norm-act-weight"):
        options = size(trial, order=order)
        depth = options["depth"]
        found = zoo.trajectories(trial, "batchnorm", (16, 6), samples, **options)
        start = theory.Kernel(samples=samples)
        made = theory.predict("batchnorm", depth, order=order, start=start)
        comparisons += [
            close(
                f"{order}: channel variance after {k} blocks",
                float(made.channel_variance[k]),
                found[:, k, column],
                REASON,
                errors=trial.pick(*ERRORS),
                at=k,
            )
            for k in (depth // 4, depth // 2, depth)
        ]
        comparisons.append(
            close(
                f"{order}: second moment after {depth} blocks",
                float(made.second_moment[depth]),
                found[:, depth, 0],
                REASON,
                errors=trial.pick(*ERRORS),
                at=depth,
            )
        )
    return comparisons


@claim(
    "bn-gradient-explosion",
    "BatchNorm without skips explodes the gradient by pi/(pi-1) per ReLU layer",
    source="Yang et al. 2019, section 4",
    conditions="the zoo's batchnorm without skips, n = 512, 20 layers, rate over layers 5 to 15,"
    " B = 64, 128, 512, 4 seeds; tanh at B = 512",
    statement="E[g_{l-1}²]/E[g_l²] -> E f'²/Var f = pi/(pi-1) = 1.4669 (ReLU) as B grows",
    note="it is the squared gradient; its norm grows by 1.2112 a layer. Small batches lie above:"
    " 1.78 at B = 8. For tanh the same formula gives 1.178, and 1.183 is measured: the batch's 1/B"
    " and the width's 1/n",
    saboteurs={
        "norm taken for its square": {"power": 0.5},
        "library: norm forgotten": faults.NO_NORM,
        "library: theory off by 10 %": faults.times(_FACTOR, 1.1),
    },
)
def bn_explosion(trial: Trial, power: float = 1.0) -> list[Comparison]:
    """Measure the gradient's growth per layer against the batch size.

    Args:
        trial: seeds and sizes.
        power: of the measured growth; 1/2 is the mistake of taking the norm.

    Returns:
        One comparison per number.
    """
    largest = trial.pick(512, 192)
    cases = [("relu", batch) for batch in trial.pick((64, 128, 512), (64, 192))]
    comparisons = []
    for activation, batch in [*cases, ("tanh", largest)]:
        rates = _rates(trial, batch, activation) ** power
        comparisons.append(
            close(
                f"growth per {activation} layer, B = {batch}",
                theory.batchnorm_gradient_factor(activation),
                rates,
                f"3/B of the batch, 2/n of the width, {ERRORS[0]} standard errors",
                by=3 / batch + 2 / trial.pick(512, 192),
                errors=trial.pick(*ERRORS),
                at=batch if activation == "relu" else np.nan,
            )
        )
    return comparisons


def _rates(trial: Trial, batch: int, activation: str) -> zoo.Array:
    options = size(trial, depth=20, width=trial.pick(512, 192), skip=False, activation=activation)
    found = zoo.measured(trial, "batchnorm", (4, 3), batch, **options)
    moments = np.stack([zoo.backward(records) for records in found])
    return np.asarray((moments[:, 5] / moments[:, 15]) ** (1 / 10))
