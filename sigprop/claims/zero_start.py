"""Branches that start at zero: Fixup, SkipInit, ReZero; what moves at first, and how far."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sigprop import networks, spectra
from sigprop.claims import faults, zoo
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close
from sigprop.claims.residual import ERRORS
from sigprop.claims.subjects import digits, gaussian
from sigprop.experiments.measure import measure
from sigprop.inputs.factories import initialize

#: (depth, seed) -> a network.
Make = Callable[[int, int], nn.Module]
WIDTH = 64


def with_head(network: str, seed: int, **options: Any) -> nn.Module:
    """Return a network of the zoo with a head of gain 1, the same whatever is in front of it.

    Args:
        network: a name of the zoo.
        seed: of its weights.
        options: of the zoo.
    """

    def make() -> nn.Module:
        net = networks.build(network, **options)
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(last.weight, std=1 / math.sqrt(last.in_features), generator=generator)
        return net

    return initialize(make, seed)


@claim(
    "zero-gradient-layers",
    "Fixup and ReZero begin with layers without gradient, and no ratio becomes infinite",
    source="Zhang, Dauphin & Ma 2019; Bachlechner et al. 2021",
    conditions="the zoo's fixup and rezero, 8 blocks, n = 64, 256 digits, float32",
    statement="Fixup with a zero head: loss ln 10, only the head has a gradient; with a head: the L"
    " first weights have none; ReZero: all 2L weights have none, only the gains",
    tags=["exact"],
    saboteurs={
        "library: weights that start at 0 start at .1": faults.WEIGHT_NOT_ZERO,
        "library: factors that start at 0 start at .1": faults.FACTOR_NOT_ZERO,
    },
)
def zero_gradients(trial: Trial) -> list[Comparison]:
    """Count weight matrices without gradient, as the records have them.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    depth = 8
    images, labels = digits()
    options = {"depth": depth, "width": WIDTH}
    nets = {
        "Fixup": zoo.net("fixup", trial.base, **options),
        "Fixup with a head": with_head("fixup", trial.base, **options),
        "ReZero": zoo.net("rezero", trial.base, **options),
    }
    expected = {"Fixup": 2 * depth + 1, "Fixup with a head": depth, "ReZero": 2 * depth}
    with torch.no_grad():
        loss = float(functional.cross_entropy(nets["Fixup"](images), labels))
    comparisons = [close("Fixup: loss of a zero head", math.log(10), loss, "float32", by=1e-6)]
    bad = missing = 0
    for name, net in nets.items():
        frame = measure(net, images, labels, spectra=False, device=trial.device).parameters
        silent = int(((frame["ndim"] == 2) & (frame["grad_norm"] == 0)).sum())
        comparisons.append(
            close(f"{name}: matrices without gradient", expected[name], silent, "a count")
        )
        zero = frame["weight_norm"] == 0
        bad += int((~np.isfinite(frame.loc[~zero, "grad_to_weight"])).sum())
        missing += int(frame.loc[zero, "grad_to_weight"].notna().sum())
    return [
        *comparisons,
        close("records: ratios of non-zero weights that are not finite", 0.0, bad, "a count"),
        close("records: ratios of zero weights that are not missing", 0.0, missing, "a count"),
    ]


@claim(
    "rezero-jacobian",
    "a ReZero stack starts as the identity",
    source="Bachlechner et al. 2021, section 3",
    conditions="the zoo's rezero, 16 blocks, n = 64, float64, at a random input",
    statement="all singular values of dx_L/dx_0 are 1",
    tags=["exact"],
    saboteurs={
        "gain of .1": {"network": "skipinit", "gain": 0.1},
        "library: factors that start at 0 start at .1": faults.FACTOR_NOT_ZERO,
    },
)
def rezero_jacobian(trial: Trial, network: str = "rezero", **options: Any) -> list[Comparison]:
    """Take the whole Jacobian.

    Args:
        trial: seeds and sizes.
        network: of the zoo.
        options: of that network.

    Returns:
        One comparison per number.
    """
    net = zoo.net(network, trial.base, depth=16, width=WIDTH, **options).double()
    x = gaussian(torch.Generator().manual_seed(trial.base), 1, WIDTH, double=True)
    blocks = net.get_submodule("blocks")
    values = spectra.jacobian(blocks, x, device="cpu")["singular_value"]
    what = "largest deviation of a singular value from 1"
    return [at_most(what, 1e-12, float((values - 1).abs().max()), "float64 rounding")]


@claim(
    "one-step-change",
    "one SGD step changes a Fixup or rescaled net by an amount that depth does not matter for",
    source="Zhang, Dauphin & Ma 2019, section 3.1; Shao et al. 2020",
    conditions="the zoo's fixup and rescale, n = 64, L = 8, 32, 128, 256 digits, rate 1e-3 on the"
    " branches' weights, 16 seeds",
    statement="‖f(x; w - eta g) - f(x; w)‖ at L = 32 and 128 is that at L = 8",
    note="the head has gain 1 here: with Fixup's zero head no branch would move",
    saboteurs={
        "gain that ignores the depth": {"wrong": True},
    },
)
def one_step(trial: Trial, wrong: bool = False) -> list[Comparison]:
    """Step once at each depth and compare the change of the outputs with that of L = 8.

    Args:
        trial: seeds and sizes.
        wrong: a gain of 0.3 whatever the depth, in place of both families.

    Returns:
        One comparison per number.
    """
    families: dict[str, Make] = {
        "Fixup": lambda depth, seed: with_head("fixup", seed, depth=depth, width=WIDTH),
        "rescale": lambda depth, seed: with_head("rescale", seed, depth=depth, width=WIDTH),
    }
    if wrong:
        families = {
            "gain of .3": lambda depth, seed: with_head(
                "skipinit", seed, depth=depth, width=WIDTH, gain=0.3
            )
        }
    comparisons = []
    for name, make in families.items():
        base = _changes(trial, make, 8)
        for depth in trial.pick((32, 128), (16, 32)):
            ratio = np.log2(_changes(trial, make, depth) / base)
            what = f"{name}: log2 of the change at L = {depth} over that at L = 8"
            reason = f"terms of order 1/L, 1/8 at the base, and {ERRORS[0]} standard errors"
            comparisons.append(
                close(what, 0.0, ratio, reason, by=math.log2(1 + 1 / 8), errors=trial.pick(*ERRORS))
            )
    return comparisons


def _changes(trial: Trial, make: Make, depth: int) -> np.ndarray:
    images, labels = digits()
    found = []
    for seed in trial.seeds(16, 6):
        net = make(depth, seed)
        before = net(images)
        functional.cross_entropy(before, labels).backward()
        with torch.no_grad():
            for parameter in net.get_submodule("blocks").parameters():
                if parameter.dim() == 2 and parameter.grad is not None:
                    parameter.sub_(1e-3 * parameter.grad)
            found.append(float((net(images) - before).square().mean().sqrt()))
    return np.array(found)
