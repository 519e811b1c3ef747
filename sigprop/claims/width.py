"""What many samples and few units add to mean field: dead units, and the spread of one net."""

from __future__ import annotations

import math

import numpy as np
import torch

from sigprop import theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, close
from sigprop.claims.subjects import gaussian


@claim(
    "dead-units",
    "how many ReLUs of a deep He net no sample activates",
    source="derived: P = ∫ phi(t) Phi(-t √(c/(1-c)))^N dt; reviews of Shao et al. 2020",
    conditions="n = 1024, N = 128 independent inputs, 50 layers, 12 seeds",
    statement="dead fraction .043, .146, .266, .385 at layers 5, 10, 20, 50 of N = 128; limit 1/2",
    note="dead on a set of samples; the share of zeros is 1/2 in every layer and says nothing",
    saboteurs={
        "share of zeros for dead units": {"dead": False},
        "biases set from the batch": {"centered": True},
    },
)
def dead_units(trial: Trial, dead: bool = True, centered: bool = False) -> list[Comparison]:
    """Count units that are off for every sample.

    Args:
        trial: seeds and sizes.
        dead: count units that no sample activates; otherwise the share of zeros.
        centered: subtract the batch mean in front of every weight.

    Returns:
        One comparison per number.
    """
    layers = trial.pick((2, 3, 5, 7, 10, 15, 20, 30, 40, 50), (5, 10, 20))
    found = np.array(
        [
            _dead(g, trial.pick(1024, 384), max(layers), dead, centered)
            for g in trial.generators(12, 10)
        ]
    )
    reason = "one net's cosines wander with depth (1/√n per layer); 4 standard errors of 12 nets"
    return [
        close(
            f"dead fraction at layer {n}",
            theory.he_dead_fraction(n, 128),
            found[:, n - 1],
            reason,
            share=trial.pick(0.15, 0.4),
            by=trial.pick(0.01, 0.02),
            at=n,
        )
        for n in layers
    ]


def _dead(
    generator: torch.Generator, width: int, depth: int, dead: bool, centered: bool
) -> list[float]:
    x = gaussian(generator, 128, width)
    found = []
    for _ in range(depth):
        off = x <= 0
        found.append(float((off.all(dim=0) if dead else off).float().mean()))
        h = torch.relu(x)
        h = h - h.mean(dim=0) if centered else h
        x = h @ gaussian(generator, width, width).T * math.sqrt(2 / width)
    return found


@claim(
    "finite-width",
    "a finite He net keeps the mean and spreads the logarithm by 5L/n",
    source="Hanin & Rolnick 2018",
    conditions="n = 100, L = 10, 2000 nets, one input each; float32",
    statement="E q_L/q_0 = 1; E (q_L/q_0)² = (1 + 5/n)^L; Var log = 5L/n + ...",
    saboteurs={
        "gain of 2.2": {"gain2": 2.2},
        "linear net": {"rectified": False, "gain2": 1.0},
    },
)
def finite_width(trial: Trial, gain2: float = 2.0, rectified: bool = True) -> list[Comparison]:
    """Draw many narrow nets.

    Args:
        trial: seeds and sizes.
        gain2: gain² of the weights.
        rectified: ReLU; a linear network otherwise.

    Returns:
        One comparison per number.
    """
    width, depth, nets = 100, 10, trial.pick(2000, 400)
    generator = torch.Generator().manual_seed(trial.base)
    x = gaussian(generator, nets, width, 1)
    first = x.square().mean(dim=(1, 2))
    for _ in range(depth):
        w = gaussian(generator, nets, width, width) * math.sqrt(gain2 / width)
        x = w @ (torch.relu(x) if rectified else x)
    ratio = (x.square().mean(dim=(1, 2)) / first).numpy().astype(np.float64)
    made = theory.log_moments(width, depth)
    logs = np.log(ratio)
    several = (logs - logs.mean()) ** 2
    reason = "5 standard errors of the draws"
    errors = 5 / math.sqrt(nets)
    return [
        close("mean ratio", 1.0, ratio, reason, by=errors * 0.8),
        close("mean log ratio", made.mean, logs, reason, by=errors * math.sqrt(made.variance)),
        close("variance of the log", made.variance, several, reason, share=errors * math.sqrt(2)),
        close(
            "mean squared ratio",
            theory.squared_ratio(width, depth),
            ratio**2,
            reason,
            share=errors * 2,
        ),
    ]
