"""Biases in front of weights: what they cost in variance, and that they leave no unit dead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sigprop import theory
from sigprop.claims import faults, zoo
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close
from sigprop.claims.residual import ERRORS, size
from sigprop.theory import Kernel


@claim(
    "centered-he-layer",
    "mean subtraction costs a He layer 1/pi of the variance",
    source="Shao et al. 2020 (bias in front of the weight), with He's gain: derived",
    conditions="the zoo's rescale without skips, n = 256, N = 512, 10 layers, 12 seeds",
    statement="E[h_l²] = (1 - 1/pi)^(l-1) E[h_1²]",
    saboteurs={
        "library: biases left at 0": faults.NO_CENTERING,
        "variance-preserving gain": {"gain": "preserving"},
        "library: theory off by 10 % a block": faults.THEORY_GROWTH,
    },
)
def centered_he(trial: Trial, gain: str = "he") -> list[Comparison]:
    """Measure the decay of a centered He MLP.

    Args:
        trial: seeds and sizes.
        gain: the option of the zoo.

    Returns:
        One comparison per number.
    """
    samples = trial.pick(512, 128)
    options = size(trial, depth=10, skip=False, gain=gain, reparametrize=False)
    found = zoo.trajectories(trial, "rescale", (12, 6), samples, **options)
    start = Kernel(samples=samples).centered()
    predicted = theory.predict("mlp", 10, centering="batch", start=start).second_moment
    reason = f"2/n per layer, a bias measured to fall as 1/n, and {ERRORS[0]} standard errors"
    return [
        close(
            f"second moment after {k} layers",
            predicted[k],
            found[:, k, 0] / found[:, 0, 0],
            reason,
            share=2 * k / options["width"],
            errors=trial.pick(*ERRORS),
            at=k,
        )
        for k in (1, 5, 10)
    ]


@claim(
    "bias-kills-no-unit",
    "a bias set from the first batch leaves no ReLU dead on it",
    source="Shao et al. 2020, section 4 and reviews",
    conditions="the zoo's rescale: MLP, L = 20, n = 256, and circular 3x3 convolutions, L = 10,"
    " 16 channels, 8 x 8; first batches of 64 and of 4; float32",
    statement="every pre-activation has batch mean 0, so none is ≤ 0 on the whole batch",
    note="for convolutions the mean is 0 with circular padding only: at a zero-padded border a tap "
    "reads fewer positions, and with them another mean",
    tags=["exact"],
    saboteurs={"library: biases left at 0": faults.NO_CENTERING},
)
def bias_kills_no_unit(trial: Trial) -> list[Comparison]:
    """Count units that no sample of the first batch activates.

    Args:
        trial: seeds and sizes.

    Returns:
        One comparison per number.
    """
    width = trial.pick(256, 64)
    kinds: dict[str, dict[str, Any]] = {
        "MLP": {"depth": trial.pick(20, 8), "width": width, "inputs": width},
        "convolutions": {
            "depth": trial.pick(10, 6),
            "width": 16,
            "inputs": (3, 8, 8),
            "architecture": "resnet",
            "padding": "circular",
            "branch_layers": 1,
        },
    }
    comparisons = []
    for samples in (64, 4):
        for kind, options in kinds.items():
            (records,) = zoo.measured(trial, "rescale", (1, 1), samples, **options)
            rectifiers = records.signals.query("kind == 'rectifier' and direction == 'forward'")
            dead = float((rectifiers["dead_fraction"] * rectifiers["channels"]).sum())
            net = zoo.net("rescale", trial.base, **options)
            mean = _largest_mean(net, zoo.inputs(trial.base, samples, options["inputs"]))
            what = f"{kind}, first batch of {samples}"
            reason = "float32 sums of up to 256 terms"
            comparisons += [
                close(f"{what}: dead units", 0.0, dead, "a count"),
                at_most(f"{what}: largest mean pre-activation", 5e-6, mean, reason),
            ]
    return comparisons


def _largest_mean(net: nn.Module, x: Tensor) -> float:
    """Return the largest batch mean of a channel in front of a ReLU."""
    seen: list[Tensor] = []
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        net(x)
    return max(float(v.movedim(1, 0).flatten(1).mean(dim=1).abs().max()) for v in seen)
