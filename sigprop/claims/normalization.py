"""Batch and layer normalization: what they are blind to, how trunks grow, how gradients explode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from sigprop import theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_least, close
from sigprop.claims.subjects import (
    HE,
    Net,
    Norm,
    NormLayer,
    Residual,
    backward_trajectory,
    batch_norm,
    dense,
    gaussian,
    initialized,
    layer_norm,
    trajectories,
)


def _growth(
    trial: Trial, order: str, norm: Norm, beta: float = 1.0
) -> tuple[np.ndarray, theory.Prediction]:
    width, samples, depth = trial.pick(256, 128), trial.pick(512, 128), 20
    gain2 = HE if order == "norm-act-weight" else 1.0

    def branch() -> nn.Module:
        layers: dict[str, nn.Module] = {
            "norm": NormLayer(norm),
            "act": nn.ReLU(),
            "weight": dense(width, width, gain2),
        }
        return nn.Sequential(*(layers[part] for part in order.split("-")))

    found = trajectories(
        trial,
        lambda: Net([Residual(branch(), 1.0, beta) for _ in range(depth)]),
        (samples, width),
        (24, 6),
    )
    start = theory.Kernel(samples=samples)
    return found, theory.predict("batchnorm", depth, order=order, start=start)


@claim(
    "bn-resnet-growth",
    "the trunk of a BatchNorm ResNet grows by one per block",
    number=15,
    source="De & Smith 2020, section 3",
    conditions="n = 256, N = 512, 20 blocks, 24 seeds; orders ReLU-BN-W and BN-ReLU-W",
    statement="E[x_k²] = k + 1; channel variance k + 1 (ReLU-BN-W) or 1 + (1 - 1/pi) k (BN-ReLU-W)",
    saboteurs={
        "norm forgotten": {"norm": lambda x: x},
        "branch scaled by 1.25": {"beta": 1.25},
        "second moment taken for variance": {"column": 0},
    },
)
def bn_growth(
    trial: Trial, norm: Norm = batch_norm, beta: float = 1.0, column: int = 1
) -> list[Comparison]:
    """Measure the growth of both orders at three depths.

    Args:
        trial: seeds and sizes.
        norm: a normalization of (samples, units).
        beta: on the branch.
        column: of the moments: 1 is the channel variance.

    Returns:
        One comparison per number.
    """
    comparisons = []
    for order in ("act-norm-weight", "norm-act-weight"):
        found, predicted = _growth(trial, order, norm, beta)
        comparisons += [
            close(
                f"{order}: channel variance after {k} blocks",
                float(predicted.channel_variance[k]),
                found[:, k, column],
                "one branch scatters by √(2/n); 20 of them by 2 %, 24 seeds by .4 %",
                share=trial.pick(0.04, 0.08),
                at=k,
            )
            for k in (5, 10, 20)
        ]
        comparisons.append(
            close(
                f"{order}: second moment after 20 blocks",
                float(predicted.second_moment[20]),
                found[:, 20, 0],
                "as above; with a mean shift one net scatters by 4 %, 24 of them by .8 %",
                share=trial.pick(0.04, 0.12),
                at=20,
            )
        )
    return comparisons


@claim(
    "bn-gradient-explosion",
    "BatchNorm without skips explodes the gradient by pi/(pi-1) per ReLU layer",
    number=14,
    source="Yang et al. 2019, section 4",
    conditions="MLP of BN-ReLU-W, n = 512, 20 layers, rate over layers 5 to 15, B = 4 ... 512,"
    " 4 seeds; tanh at B = 512",
    statement="E[g_{l-1}²]/E[g_l²] -> E f'²/Var f = pi/(pi-1) = 1.4669 (ReLU) as B grows",
    note="it is the squared gradient; its norm grows by 1.2112 a layer. For tanh the same formula"
    " gives 1.178, and 1.183 is measured: the batch's 1/B and the width's 1/n",
    saboteurs={
        "norm taken for its square": {"power": 0.5},
        "normalized over features": {"norm": layer_norm},
    },
)
def bn_explosion(trial: Trial, norm: Norm = batch_norm, power: float = 1.0) -> list[Comparison]:
    """Measure the gradient's growth per layer against the batch size.

    Args:
        trial: seeds and sizes.
        norm: a normalization of (samples, units).
        power: of the measured growth; 1/2 is the mistake of taking the norm.

    Returns:
        One comparison per number.
    """
    limit = theory.batchnorm_gradient_factor("relu")
    comparisons = []
    for batch in trial.pick((4, 8, 16, 32, 64, 128, 512), (8, 32, 256)):
        rates = _rates(trial, batch, nn.ReLU, norm) ** power
        what = f"growth per ReLU layer, B = {batch}"
        if batch <= 32:
            above = at_least(what, limit, rates, "small batches lie above the limit")
            comparisons.append(replace(above, at=batch))
        else:
            by = trial.pick(0.02, 0.08) + 3 / batch
            reason = "3/B of the batch, 1/n of the width, 5 standard errors of .003"
            comparisons.append(close(what, limit, rates, reason, by=by, at=batch))
    largest = trial.pick(512, 256)
    tanh = _rates(trial, largest, nn.Tanh, norm) ** power
    return [
        *comparisons,
        close(
            f"growth per tanh layer, B = {largest}",
            theory.batchnorm_gradient_factor("tanh"),
            tanh,
            "as for ReLU",
            by=trial.pick(0.02, 0.08),
        ),
    ]


def _rates(trial: Trial, batch: int, act: type[nn.Module], norm: Norm) -> np.ndarray:
    width, depth = trial.pick(512, 192), 20
    found = []
    for seed in trial.seeds(4, 3):
        net = initialized(
            lambda: Net(
                [
                    Residual(nn.Sequential(NormLayer(norm), act(), dense(width, width, HE)), 0.0)
                    for _ in range(depth)
                ]
            ),
            seed,
        )
        generator = torch.Generator().manual_seed(seed)
        moments = backward_trajectory(net, gaussian(generator, batch, width), generator)
        found.append((moments[5] / moments[15]) ** (1 / 10))
    return np.array(found)
