"""What propagation means for training: thirty blocks that train, and thirty that do not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional

from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_least, at_most
from sigprop.claims.subjects import HE, Net, Residual, dense, digits, initialized
from sigprop.claims.zero_start import fixup, rescaled, rezero
from sigprop.experiments.training import Plan, Training
from sigprop.inputs.devices import Device

WIDTH = 64
Make = Callable[[int], Net]


def plain(depth: int) -> Net:
    """Return x + F(x) with two He weights a branch, after a stem and a head of gain 1."""
    return rezero(depth, WIDTH, 64, gain=1.0)


def batchnormed(depth: int) -> Net:
    """Return x + F(x) with BN-ReLU-W twice, and a BN in front of the head."""
    stem = nn.Sequential(nn.Flatten(), dense(64, WIDTH, 1.0))
    head = nn.Sequential(nn.BatchNorm1d(WIDTH), dense(WIDTH, 10, 1.0))

    def branch() -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm1d(WIDTH), nn.ReLU(), dense(WIDTH, WIDTH, HE)]
        return nn.Sequential(*layers)

    return Net([Residual(branch()) for _ in range(depth)], stem, head)


HEALTHY: Mapping[str, Make] = {
    "rescale": lambda depth: rescaled(depth, WIDTH, 64),
    "batchnorm": batchnormed,
    "Fixup": lambda depth: fixup(depth, WIDTH, 64),
}


def _trained(make: Make, seed: int, depth: int, steps: int, rate: float, device: Device) -> float:
    """Return the test accuracy after training; 0 when the loss became NaN or infinite."""
    plan = Plan(steps=steps, learning_rate=rate, schedule="constant")
    run = Training(initialized(lambda: make(depth), seed), "digits", plan, seed, device)
    rows = list(run.run())
    return 0.0 if run.diverged else rows[-1].accuracy


@claim(
    "depth-trains",
    "thirty rescaled, normalized or Fixup blocks train where thirty plain ones diverge",
    number=7,
    source="Shao et al. 2020; Zhang, Dauphin & Ma 2019; Bjorck et al. 2018",
    conditions="MLPs of 30 blocks, n = 64, digits, 150 steps of SGD with momentum .9, batch 64;"
    " rate 1e-2 (plain also 1e-3), 4 seeds",
    statement="accuracy at least .9; the plain net diverges",
    note="after a stem of gain 1 the plain net diverges at 1e-3 and 1e-2 and learns next to"
    " nothing below; the others reach .93 with momentum only",
    tags=["slow"],
    saboteurs={"plain branches": {"healthy": {"plain": plain}}},
)
def depth_trains(trial: Trial, healthy: Mapping[str, Make] = HEALTHY) -> list[Comparison]:
    """Train each family, and the plain net at two rates.

    Args:
        trial: seeds and sizes.
        healthy: families that should train, by name.

    Returns:
        One comparison per number.
    """
    steps, depth = trial.pick(150, 60), trial.pick(30, 16)
    comparisons = []
    for name, make in healthy.items():
        found = [
            _trained(make, seed, depth, steps, 1e-2, trial.device) for seed in trial.seeds(4, 2)
        ]
        reason = "360 test digits: ±.013 at .93; seeds differ by .015"
        comparisons.append(at_least(f"{name}: test accuracy", trial.pick(0.9, 0.5), found, reason))
    for rate in (1e-3, 1e-2):
        found = [_trained(plain, seed, 30, 20, rate, trial.device) for seed in trial.seeds(2, 1)]
        diverged = sum(accuracy == 0 for accuracy in found) / len(found)
        comparisons.append(
            at_least(f"plain at rate {rate:g}: share that diverges", 1.0, diverged, "all")
        )
    return comparisons


@claim(
    "loss-along-gradient",
    "a step along the gradient blows the plain net up and lowers the others' loss",
    number=8,
    source="Bjorck et al. 2018, section 3.1",
    conditions="MLPs of 30 blocks, n = 64, 512 digits, training mode, at initialization, 4 seeds",
    statement="relative loss above 1 or NaN at step 1e-3 (plain); below 1 at 1e-2 (BN, rescale)",
    saboteurs={"plain net in the place of BN": {"batchnorm": plain}},
)
def loss_along(trial: Trial, batchnorm: Make = batchnormed) -> list[Comparison]:
    """Move along the gradient of each net.

    Args:
        trial: seeds and sizes.
        batchnorm: stands for the network with batch normalization.

    Returns:
        One comparison per number.
    """
    families = {"rescale": HEALTHY["rescale"], "batchnorm": batchnorm}
    seeds = trial.seeds(4, 3)
    reason = "an inequality; NaN counts as infinite"
    comparisons = [
        at_most(
            f"{name}: relative loss at 1e-2", 1.0, [_ratio(make, s, 1e-2) for s in seeds], reason
        )
        for name, make in families.items()
    ]
    lowest = min(_ratio(plain, seed, 1e-3) for seed in seeds)
    return [*comparisons, at_least("plain: lowest relative loss at 1e-3", 1.0, lowest, reason)]


def _ratio(make: Make, seed: int, distance: float) -> float:
    net = initialized(lambda: make(30), seed)
    images, labels = digits(512)
    loss = functional.cross_entropy(net(images), labels)
    loss.backward()
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for there, here in zip(moved.parameters(), net.parameters(), strict=True):
            if here.grad is not None:
                there.sub_(distance * here.grad)
        after = float(functional.cross_entropy(moved(images), labels))
    return math.inf if math.isnan(after) else after / float(loss.detach())
