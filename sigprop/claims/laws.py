"""Each law of `verify`, on a network that obeys it; its saboteurs break the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from sigprop import theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison
from sigprop.claims.residual import ByBlock, alpha, beta, one
from sigprop.claims.subjects import (
    CENTERED,
    HE,
    Center,
    CorrelatedBranch,
    Detached,
    Net,
    NormLayer,
    Residual,
    batch_norm,
    dense,
    gaussian,
    relu_branch,
)
from sigprop.verification.laws import LAWS
from sigprop.verification.verify import verify

DEPTH = 5
Wrap = Callable[[nn.Module], nn.Module]


def _same(branch: nn.Module) -> nn.Module:
    return branch


def _net(
    width: int,
    gain2: float = HE,
    alphas: ByBlock = alpha,
    betas: ByBlock = beta,
    center: type[Center] | None = None,
    wrap: Wrap = _same,
    normed: bool = False,
) -> Net:
    """Return blocks of one weight, rescaled by default."""

    def branch() -> nn.Module:
        if normed:
            return nn.Sequential(NormLayer(batch_norm), nn.ReLU(), dense(width, width, gain2))
        return wrap(relu_branch(width, 1, gain2, center=center))

    blocks = [Residual(branch(), alphas(k, DEPTH), betas(k, DEPTH)) for k in range(1, DEPTH + 1)]
    # a stem with weights: without them the first block's input would have no gradient
    stem = [dense(width, width, 1.0), *([] if center is None else [center(width)])]
    return Net(blocks, nn.Sequential(*stem))


def _verified(
    trial: Trial,
    law: str | Callable[[int], float],
    subject: Mapping[str, Any],
    tolerance: float = 0.05,
) -> list[Comparison]:
    """Return the verdict of `verify` on the stack as a whole."""
    width, samples = trial.pick(256, 128), trial.pick(256, 64)
    x = gaussian(torch.Generator().manual_seed(trial.base), samples, width)
    found = verify(
        lambda: _net(width, **subject),
        x,
        law,
        trial.seeds(24, 8),
        tolerance,
        blocks=lambda name, module: isinstance(module, Residual),
        device=trial.device,
    )
    stage = found.table[found.table["block"] == -1].iloc[0]
    error = float(stage["spread"] * stage["measured"]) / np.sqrt(found.seeds)
    return [
        Comparison(
            f"{DEPTH} blocks together",
            float(stage["predicted"]),
            float(stage["measured"]),
            error,
            found.seeds,
            tolerance * float(stage["predicted"]),
            "the verdict of sigprop.verify over all blocks and the stage",
            verdict_elsewhere=found.verdict,
        )
    ]


_CONDITIONS = "MLP of 5 blocks of one weight, n = 256, N = 256, 24 seeds, tolerance 5 %"


@claim(
    "law-preserved",
    "verify: the second moment is preserved by RescaleNet",
    source="Shao et al. 2020",
    conditions=_CONDITIONS,
    statement="E[x_k²] = E[x_{k-1}²] for every block",
    tags=["law"],
    saboteurs={
        "alpha forgotten": {"alphas": one},
        "beta off by 25 %": {"betas": lambda k, c: 1.25 * beta(k, c)},
        "branch and skip correlated": {"wrap": CorrelatedBranch},
    },
)
def law_preserved(trial: Trial, **subject: Any) -> list[Comparison]:
    """Verify an uncentered rescaled stack.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `_net`.

    Returns:
        One comparison per number.
    """
    return _verified(trial, "preserved", subject)


@claim(
    "law-preserved-channel-variance",
    "verify: the channel variance is preserved with centering biases and their gain",
    source="derived: gain² = 1/Var f after a bias of minus the batch mean",
    conditions=_CONDITIONS,
    statement="Var_batch[x_k] = Var_batch[x_{k-1}] for every block",
    tags=["law"],
    saboteurs={
        "branch and skip correlated": {"wrap": CorrelatedBranch},
        "He's gain after a centering bias": {"gain2": HE},
    },
)
def law_channel_variance(trial: Trial, **subject: Any) -> list[Comparison]:
    """Verify a centered rescaled stack.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `_net`.

    Returns:
        One comparison per number.
    """
    settings = {"center": Center, "gain2": CENTERED, **subject}
    # of N samples a batch mean takes 1/N, here less than half a per cent
    return _verified(trial, "preserved:channel_variance", settings)


@claim(
    "law-gradient-preserved",
    "verify: the gradient's second moment is preserved by RescaleNet with He weights",
    source="derived: G_{k-1} = (alpha² + beta²) G_k as E f'² gain² = 1",
    conditions=_CONDITIONS,
    statement="E[g_{k-1}²] = E[g_k²] for every block",
    tags=["law"],
    saboteurs={
        "gradient of the branch detached": {"wrap": Detached},
        "alpha forgotten": {"alphas": one},
    },
)
def law_gradient(trial: Trial, **subject: Any) -> list[Comparison]:
    """Verify gradients of an uncentered rescaled stack.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `_net`.

    Returns:
        One comparison per number.
    """
    return _verified(trial, "gradient-preserved", subject)


@claim(
    "law-jacobian-preserved",
    "verify: the partial Jacobian's norm is preserved by RescaleNet with He weights",
    source="derived, as law-gradient-preserved; Doshi, He & Gromov 2021 for the norm",
    conditions=_CONDITIONS,
    statement="‖∂h_L/∂h_{k-1}‖_F = ‖∂h_L/∂h_k‖_F for every block",
    tags=["law"],
    saboteurs={
        "gradient of the branch detached": {"wrap": Detached},
        "beta off by 25 %": {"betas": lambda k, c: 1.25 * beta(k, c)},
    },
)
def law_jacobian(trial: Trial, **subject: Any) -> list[Comparison]:
    """Verify partial Jacobian norms of an uncentered rescaled stack.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `_net`.

    Returns:
        One comparison per number.
    """
    return _verified(trial, "jacobian-preserved", subject)


@claim(
    "law-doubling",
    "verify: a plain ResNet doubles the second moment",
    source="Shao et al. 2020, section 2",
    conditions=_CONDITIONS.replace("5 %", "10 %"),
    statement="E[x_k²] = 2 E[x_{k-1}²] for every block",
    tags=["law"],
    saboteurs={
        "gain forgotten": {"gain2": 1.0},
        "rescaled instead of plain": {"alphas": alpha, "betas": beta},
    },
)
def law_doubling(trial: Trial, **subject: Any) -> list[Comparison]:
    """Verify a plain stack.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `_net`.

    Returns:
        One comparison per number.
    """
    return _verified(trial, "doubling", {"alphas": one, "betas": one, **subject}, 0.1)


@claim(
    "law-predicted",
    "verify: a BatchNorm ResNet follows its own recursion",
    source="De & Smith 2020, section 3",
    conditions=_CONDITIONS.replace("one weight", "BN-ReLU-W"),
    statement="E[x_k²] follows theory.predict, k + 1",
    tags=["law"],
    saboteurs={
        "norm forgotten": {"normed": False},
        "branch scaled by 1.25": {"betas": lambda k, c: 1.25},
    },
)
def law_predicted(trial: Trial, **subject: Any) -> list[Comparison]:
    """Verify a normalized stack against the recursion of its family.

    Args:
        trial: seeds and sizes.
        subject: what differs from the default network, see `_net`.

    Returns:
        One comparison per number.
    """
    predicted = theory.predict("batchnorm", DEPTH)
    ratios = LAWS["predicted"].ratios(np.arange(DEPTH, dtype=np.float64), predicted)
    settings = {"alphas": one, "betas": one, "normed": True, **subject}
    return _verified(trial, lambda block: float(ratios[block]), settings)
