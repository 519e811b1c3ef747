"""Biases in front of weights: what they cost in variance, and that they leave no unit dead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigprop import theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close
from sigprop.claims.residual import alpha, beta, stack
from sigprop.claims.subjects import (
    CENTERED,
    HE,
    Center,
    CenterForgotten,
    Net,
    Residual,
    conv,
    gaussian,
    initialized,
    relu_branch,
    trajectories,
)
from sigprop.theory import Kernel


@claim(
    "centered-he-layer",
    "mean subtraction costs a He layer 1/pi of the variance",
    number=5,
    source="Shao et al. 2020 (bias in front of the weight), with He's gain: derived",
    conditions="MLP, n = 512, N = 1024, 10 layers, 6 seeds",
    statement="E[h_l²] = (1 - 1/pi)^(l-1) E[h_1²]",
    saboteurs={
        "bias not initialized": {"center": CenterForgotten},
        "variance-preserving gain": {"gain2": CENTERED},
    },
)
def centered_he(trial: Trial, center: type[Center] = Center, gain2: float = HE) -> list[Comparison]:
    """Measure the decay of a centered He MLP.

    Args:
        trial: seeds and sizes.
        center: the bias in front of a weight.
        gain2: gain² of the weights.

    Returns:
        One comparison per number.
    """
    width, samples, layers = trial.pick(512, 192), trial.pick(1024, 256), 10

    def make() -> Net:
        """Return a fresh chain of centered layers."""
        return Net(
            [Residual(relu_branch(width, 1, gain2, center=center), 0.0) for _ in range(layers)],
            Center(width),
        )

    found = trajectories(trial, make, (samples, width), (6, 4))
    start = Kernel(samples=samples).centered()
    predicted = theory.predict("mlp", layers, centering="batch", start=start).second_moment
    reason = "width bias, measured to fall as 1/n (2/n per layer), and 4 standard errors of 1 %"
    return [
        close(
            f"second moment after {k} layers",
            predicted[k],
            found[:, k, 0] / found[:, 0, 0],
            reason,
            share=2 * k / width + trial.pick(0.04, 0.1),
            at=k,
        )
        for k in (1, 5, 10)
    ]


@claim(
    "bias-kills-no-unit",
    "a bias set from the first batch leaves no ReLU dead on it",
    number=6,
    source="Shao et al. 2020, section 4 and reviews",
    conditions="rescaled MLP, L = 20, n = 256, and circular 3x3 convolutions, L = 10,"
    " 16 channels, 8 x 8; first batches of 64 and of 4; float32",
    statement="every pre-activation has batch mean 0, so none is ≤ 0 on the whole batch",
    note="for convolutions the mean is 0 with circular padding only: at a zero-padded border a tap "
    "reads fewer positions, and with them another mean",
    tags=["exact"],
    saboteurs={"bias left at zero": {"center": CenterForgotten}},
)
def bias_kills_no_unit(trial: Trial, center: type[Center] = Center) -> list[Comparison]:
    """Count units that no sample of the first batch activates.

    Args:
        trial: seeds and sizes.
        center: the bias in front of a weight.

    Returns:
        One comparison per number.
    """
    comparisons = []
    for samples in (64, 4):
        for kind, make in (("MLP", _mlp), ("convolutions", _convolutions)):
            net, x = make(trial, samples, center)
            dead, mean = _dead_units(net, x)
            what = f"{kind}, first batch of {samples}"
            reason = "float32 sums of up to 256 terms"
            comparisons += [
                close(f"{what}: dead units", 0.0, dead, "a count"),
                at_most(f"{what}: largest mean pre-activation", 5e-6, mean, reason),
            ]
    return comparisons


def _mlp(trial: Trial, samples: int, center: type[Center]) -> tuple[Net, Tensor]:
    width = trial.pick(256, 64)
    net = initialized(
        lambda: stack(width, gain2=CENTERED, alphas=alpha, betas=beta, layers=2, center=center),
        trial.base,
    )
    return net, gaussian(torch.Generator().manual_seed(trial.base), samples, width)


def _convolutions(trial: Trial, samples: int, center: type[Center]) -> tuple[Net, Tensor]:
    def make() -> Net:
        blocks = [
            Residual(
                nn.Sequential(nn.ReLU(), center(16, 2), conv(16, 16, CENTERED)),
                alpha(k, 10),
                beta(k, 10),
            )
            for k in range(1, 11)
        ]
        return Net(blocks, nn.Sequential(center(3, 2), conv(3, 16, 1.0)))

    generator = torch.Generator().manual_seed(trial.base)
    return initialized(make, trial.base), gaussian(generator, samples, 3, 8, 8) + 0.5


def _dead_units(net: Net, x: Tensor) -> tuple[float, float]:
    """Return the number of dead units and the largest batch mean in front of a ReLU."""
    seen: list[Tensor] = []
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    net(x)
    rows = [values.movedim(1, 0).flatten(1) for values in seen]
    dead = sum(int((~(values > 0).any(dim=1)).sum()) for values in rows)
    return float(dead), max(float(values.mean(dim=1).abs().max()) for values in rows)
