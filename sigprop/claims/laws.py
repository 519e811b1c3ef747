"""Each law of `verify`, on a network of the zoo that obeys it; saboteurs break the library."""

from __future__ import annotations

from typing import Any

import numpy as np

from sigprop.claims import faults, zoo
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison
from sigprop.verification.verify import verify

DEPTH = 5


def _verified(
    trial: Trial, network: str, law: str, tolerance: float = 0.05, **options: Any
) -> list[Comparison]:
    """Return the verdict of `verify` on a network of 5 blocks of one weight as a whole."""
    width = trial.pick(256, 128)
    found = verify(
        network,
        zoo.inputs(trial.base, trial.pick(256, 64), width),
        law,
        trial.seeds(24, 8),
        tolerance,
        options={"depth": DEPTH, "width": width, "inputs": width, "branch_layers": 1, **options},
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


_CONDITIONS = (
    "sigprop.verify on the zoo's MLP of 5 blocks of one weight, n = 256, N = 256, 24 seeds,"
    " tolerance 5 %"
)
#: RescaleNet without biases, its coefficients in front of skip and branch.
_PLAIN_FORM = {"bias": False, "reparametrize": False}


@claim(
    "law-preserved",
    "verify: the second moment is preserved by RescaleNet",
    source="Shao et al. 2020",
    conditions=_CONDITIONS,
    statement="E[x_k²] = E[x_{k-1}²] for every block",
    tags=["law"],
    saboteurs={
        "library: alpha forgotten": faults.NO_ALPHA,
        "library: beta off by 10 %": faults.BETA,
        "library: gain forgotten (1 instead of √2)": faults.NO_GAIN,
        "library: branch and skip correlated": faults.CORRELATED,
    },
)
def law_preserved(trial: Trial) -> list[Comparison]:
    """Verify an uncentered rescaled stack.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    return _verified(trial, "rescale", "preserved", **_PLAIN_FORM)


@claim(
    "law-preserved-channel-variance",
    "verify: the channel variance is preserved with centering biases and their gain",
    source="derived: gain² = 1/Var f after a bias of minus the batch mean",
    conditions=_CONDITIONS,
    statement="Var_batch[x_k] = Var_batch[x_{k-1}] for every block",
    tags=["law"],
    saboteurs={
        "He's gain after a centering bias": {"gain": "he"},
        "library: alpha forgotten": faults.NO_ALPHA,
    },
)
def law_channel_variance(trial: Trial, gain: str = "preserving") -> list[Comparison]:
    """Verify a centered rescaled stack.

    Args:
        trial: seeds and sizes.
        gain: the option of the zoo.

    Returns:
        One comparison per number.
    """
    # of N samples a batch mean takes 1/N, here less than half a per cent
    law = "preserved:channel_variance"
    return _verified(trial, "rescale", law, gain=gain, reparametrize=False)


@claim(
    "law-gradient-preserved",
    "verify: the gradient's second moment is preserved by RescaleNet with He weights",
    source="derived: G_{k-1} = (alpha² + beta²) G_k as E f'² gain² = 1",
    conditions=_CONDITIONS,
    statement="E[g_{k-1}²] = E[g_k²] for every block",
    tags=["law"],
    saboteurs={
        "library: alpha forgotten": faults.NO_ALPHA,
        "library: beta off by 10 %": faults.BETA,
        "library: gradient of the branch detached": faults.DETACHED,
    },
)
def law_gradient(trial: Trial) -> list[Comparison]:
    """Verify gradients of an uncentered rescaled stack.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    return _verified(trial, "rescale", "gradient-preserved", **_PLAIN_FORM)


@claim(
    "law-jacobian-preserved",
    "verify: the partial Jacobian's norm is preserved by RescaleNet with He weights",
    source="derived, as law-gradient-preserved; Doshi, He & Gromov 2021 for the norm",
    conditions=_CONDITIONS,
    statement="‖∂h_L/∂h_{k-1}‖_F = ‖∂h_L/∂h_k‖_F for every block",
    tags=["law"],
    saboteurs={
        "library: alpha forgotten": faults.NO_ALPHA,
        "library: beta off by 10 %": faults.BETA,
        "library: gradient of the branch detached": faults.DETACHED,
    },
)
def law_jacobian(trial: Trial) -> list[Comparison]:
    """Verify partial Jacobian norms of an uncentered rescaled stack.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    return _verified(trial, "rescale", "jacobian-preserved", **_PLAIN_FORM)


@claim(
    "law-doubling",
    "verify: a plain ResNet doubles the second moment",
    source="Shao et al. 2020, section 2",
    conditions=_CONDITIONS.replace("5 %", "10 %"),
    statement="E[x_k²] = 2 E[x_{k-1}²] for every block",
    tags=["law"],
    saboteurs={
        "library: gain forgotten (1 instead of √2)": faults.NO_GAIN,
        "rescaled instead of plain": {"network": "rescale"},
    },
)
def law_doubling(trial: Trial, network: str = "plain") -> list[Comparison]:
    """Verify a plain stack.

    Args:
        trial: seeds and sizes.
        network: of the zoo.

    Returns:
        One comparison per number.
    """
    return _verified(trial, network, "doubling", 0.1)


@claim(
    "law-equal-shares",
    "verify: every block of RescaleNet adds the same share of the output",
    source="Shao et al. 2020, section 3: a share of 1/(L + c)",
    conditions=_CONDITIONS.replace("5 %", "10 %"),
    statement="the share of the output's second moment is the same for every block",
    tags=["law"],
    saboteurs={
        "library: gain forgotten (1 instead of √2)": faults.NO_GAIN,
        "library: branch and skip correlated": faults.CORRELATED,
        "plain instead of rescaled": {"network": "plain"},
    },
)
def law_equal_shares(trial: Trial, network: str = "rescale") -> list[Comparison]:
    """Verify the branches of a rescaled stack.

    Args:
        trial: seeds and sizes.
        network: of the zoo.

    Returns:
        One comparison per number.
    """
    options = _PLAIN_FORM if network == "rescale" else {}
    return _verified(trial, network, "equal-shares", 0.1, **options)


@claim(
    "law-equal-parameter-gradients",
    "verify: with multipliers, every block of RescaleNet has equally large weight gradients",
    source="Shao et al. 2020, section 4, the multipliers",
    conditions=_CONDITIONS.replace("5 %", "10 %"),
    statement="E[(∂loss/∂w)²] is the same for every block",
    tags=["law"],
    saboteurs={
        "coefficients instead of multipliers": {"reparametrize": False},
        "library: gradient of the branch detached": faults.DETACHED,
    },
)
def law_equal_parameter_gradients(trial: Trial, reparametrize: bool = True) -> list[Comparison]:
    """Verify gradients of the weights of a rescaled stack.

    Args:
        trial: seeds and sizes.
        reparametrize: the coefficients are multipliers of the weights.

    Returns:
        One comparison per number.
    """
    options = _PLAIN_FORM | {"reparametrize": reparametrize}
    return _verified(trial, "rescale", "equal-parameter-gradients", 0.1, **options)


@claim(
    "law-predicted",
    "verify: a BatchNorm ResNet follows its own recursion",
    source="De & Smith 2020, section 3",
    conditions=_CONDITIONS,
    statement="E[x_k²] follows theory.predict, k + 1",
    tags=["law"],
    saboteurs={
        "library: gain forgotten (1 instead of √2)": faults.NO_GAIN,
        "library: theory off by 10 % a block": faults.STACK_GROWTH,
    },
)
def law_predicted(trial: Trial) -> list[Comparison]:
    """Verify a normalized stack against the recursion of its family.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    return _verified(trial, "batchnorm", "predicted")
