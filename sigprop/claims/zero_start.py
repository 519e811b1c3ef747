"""Branches that start at zero: Fixup, SkipInit, ReZero; what moves at first, and how far."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprop import spectra, theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close
from sigprop.claims.residual import alpha, beta
from sigprop.claims.subjects import (
    CENTERED,
    HE,
    Center,
    Net,
    Residual,
    dense,
    digits,
    gaussian,
    initialized,
    relu_branch,
)
from sigprop.experiments.measure import measure


class Shift(nn.Module):
    """One learned number added to everything, 0 at the start (Fixup's scalar bias)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + b``."""
        return x + self.bias


class Gain(nn.Module):
    """One learned factor."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``gain * x``."""
        return self.gain * x


def fixup(depth: int, width: int, inputs: int, head: float = 0.0, last: float = 0.0) -> Net:
    """Return a Fixup MLP: two weights a branch, He L^(-1/2) and ``last``; head of gain ``head``.

    Args:
        depth: L.
        width: units.
        inputs: features of a flattened sample.
        head: gain of the head.
        last: factor on a branch's last weight.
    """
    scale = theory.fixup_scale(depth, 2) ** 2
    stem = nn.Sequential(nn.Flatten(), dense(inputs, width, 1.0))
    classifier = nn.Linear(width, 10)
    nn.init.normal_(classifier.weight, std=head / math.sqrt(width))
    nn.init.zeros_(classifier.bias)

    def branch() -> nn.Module:
        first, second = dense(width, width, HE * scale), dense(width, width, HE)
        second.weight.data *= last
        return nn.Sequential(
            Shift(), nn.ReLU(), Shift(), first, Shift(), nn.ReLU(), Shift(), second, Gain(1.0)
        )

    return Net([Residual(branch()) for _ in range(depth)], stem, classifier)


def rezero(depth: int, width: int, inputs: int, gain: float = 0.0) -> Net:
    """Return x + a F(x) with a = ``gain`` and two He weights a branch; a head of gain 1.

    Args:
        depth: L.
        width: units.
        inputs: features of a flattened sample.
        gain: a at the start.
    """
    stem, head = nn.Sequential(nn.Flatten(), dense(inputs, width, 1.0)), dense(width, 10, 1.0)
    blocks = [Residual(nn.Sequential(relu_branch(width, 2), Gain(gain))) for _ in range(depth)]
    return Net(blocks, stem, head)


def rescaled(depth: int, width: int, inputs: int) -> Net:
    """Return a RescaleNet MLP with biases in front of its weights.

    Args:
        depth: L.
        width: units.
        inputs: features of a flattened sample.
    """
    stem = nn.Sequential(nn.Flatten(), Center(inputs), dense(inputs, width, 1.0))
    head = nn.Sequential(Center(width), dense(width, 10, 1.0))
    blocks = [
        Residual(relu_branch(width, 2, CENTERED, center=Center), alpha(k, depth), beta(k, depth))
        for k in range(1, depth + 1)
    ]
    return Net(blocks, stem, head)


@claim(
    "zero-gradient-layers",
    "Fixup and ReZero begin with layers without gradient, and no ratio becomes infinite",
    number=25,
    source="Zhang, Dauphin & Ma 2019; Bachlechner et al. 2021",
    conditions="MLPs of 8 blocks, n = 64, 256 digits, float32",
    statement="Fixup with a zero head: loss ln 10, only the head has a gradient; with a head: the L"
    " first weights have none; ReZero: all 2L weights have none, only the gains",
    tags=["exact"],
    saboteurs={
        "head not zero": {"head": 1.0},
        "last layer not zero": {"last": 1.0},
        "gain not zero": {"gain": 0.1},
    },
)
def zero_gradients(
    trial: Trial, head: float = 0.0, last: float = 0.0, gain: float = 0.0
) -> list[Comparison]:
    """Count weight matrices without gradient.

    Args:
        trial: seeds and sizes.
        head: gain of Fixup's head.
        last: factor on the last weight of Fixup's branches.
        gain: of ReZero's branches at the start.

    Returns:
        One comparison per number.
    """
    depth, width = 8, 64
    images, labels = digits()
    nets = {
        "Fixup": lambda: fixup(depth, width, 64, head, last),
        "Fixup with a head": lambda: fixup(depth, width, 64, 1.0, last),
        "ReZero": lambda: rezero(depth, width, 64, gain),
    }
    expected = {"Fixup": 2 * depth + 1, "Fixup with a head": depth, "ReZero": 2 * depth}
    comparisons = []
    for name, make in nets.items():
        net = initialized(make, trial.base)
        loss = functional.cross_entropy(net(images), labels)
        loss.backward()
        if name == "Fixup":
            what = "Fixup: loss of a zero head"
            comparisons.append(close(what, math.log(10), float(loss.detach()), "float32", by=1e-6))
        silent = sum(
            p.dim() == 2 and p.grad is not None and not bool(p.grad.any()) for p in net.parameters()
        )
        comparisons.append(
            close(f"{name}: matrices without gradient", expected[name], silent, "a count")
        )
    frame = measure(
        nets["Fixup"], images, labels, blocks="blocks.*", spectra=False, device=trial.device
    ).parameters
    ratios = frame["grad_to_weight"][frame["weight_norm"] > 0]
    bad = int((~np.isfinite(ratios)).sum())
    missing = int(frame["grad_to_weight"][frame["weight_norm"] == 0].notna().sum())
    return [
        *comparisons,
        close("records: ratios of non-zero weights that are not finite", 0.0, bad, "a count"),
        close("records: ratios of zero weights that are not missing", 0.0, missing, "a count"),
    ]


@claim(
    "rezero-jacobian",
    "a ReZero stack starts as the identity",
    number=26,
    source="Bachlechner et al. 2021, section 3",
    conditions="16 blocks, n = 64, float64, at a random input",
    statement="all singular values of dx_L/dx_0 are 1",
    tags=["exact"],
    saboteurs={"gain of .1": {"gain": 0.1}},
)
def rezero_jacobian(trial: Trial, gain: float = 0.0) -> list[Comparison]:
    """Take the whole Jacobian.

    Args:
        trial: seeds and sizes.
        gain: of the branches at the start.

    Returns:
        One comparison per number.
    """
    net = initialized(lambda: rezero(16, 64, 64, gain), trial.base).double()
    x = gaussian(torch.Generator().manual_seed(trial.base), 1, 64, double=True)
    values = spectra.jacobian(net, x, "blocks", "blocks", device="cpu")["singular_value"]
    what = "largest deviation of a singular value from 1"
    return [at_most(what, 1e-12, float((values - 1).abs().max()), "float64 rounding")]


@claim(
    "one-step-change",
    "one SGD step changes a Fixup or rescaled net by an amount that depth does not matter for",
    number=37,
    source="Zhang, Dauphin & Ma 2019, section 3.1; Shao et al. 2020",
    conditions="MLPs, n = 64, L = 8, 32, 128, 256 digits, rate 1e-3 on the branches' weights,"
    " 16 seeds",
    statement="‖f(x; w - eta g) - f(x; w)‖ at L = 32 and 128 is that at L = 8",
    note="Fixup's head has gain 1 here: with its zero head no branch would move",
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
    families: dict[str, Callable[[int], Net]] = {
        "Fixup": lambda depth: fixup(depth, 64, 64, 1.0),
        "rescale": lambda depth: rescaled(depth, 64, 64),
    }
    if wrong:
        families = {"gain of .3": lambda depth: rezero(depth, 64, 64, 0.3)}
    comparisons = []
    for name, make in families.items():
        base = _changes(trial, make, 8)
        for depth in trial.pick((32, 128), (16, 32)):
            ratio = _changes(trial, make, depth) / base
            reason = "5 standard errors: pairs of nets with one stem and head differ by 8 and 16 %"
            share = trial.pick(0.1 if name == "Fixup" else 0.2, 0.3)
            comparisons.append(
                close(f"{name}: change at L = {depth} over L = 8", 1.0, ratio, reason, share=share)
            )
    return comparisons


def _changes(trial: Trial, make: Callable[[int], Net], depth: int) -> np.ndarray:
    images, labels = digits()
    found = []
    for seed in trial.seeds(16, 6):
        net = initialized(lambda: make(depth), seed)
        before = net(images)
        functional.cross_entropy(before, labels).backward()
        with torch.no_grad():
            for parameter in net.blocks.parameters():
                if parameter.dim() == 2 and parameter.grad is not None:
                    parameter.sub_(1e-3 * parameter.grad)
            found.append(float((net(images) - before).square().mean().sqrt()))
    return np.array(found)
