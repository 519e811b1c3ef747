"""What propagation means for training: thirty blocks that train, and thirty that do not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn import functional

from sigprop import gradients
from sigprop.claims import faults, zoo
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_least, at_most
from sigprop.claims.subjects import digits
from sigprop.experiments.training import Plan, Training
from sigprop.inputs.devices import Device

WIDTH = 64
HEALTHY = ("rescale", "batchnorm", "fixup")


def _net(network: str, seed: int, depth: int) -> nn.Module:
    return zoo.net(network, seed, depth=depth, width=WIDTH)


def _trained(network: str, seed: int, depth: int, steps: int, rate: float, device: Device) -> float:
    """Return the test accuracy after training; 0 when the loss became NaN or infinite."""
    plan = Plan(steps=steps, learning_rate=rate, schedule="constant")
    run = Training(_net(network, seed, depth), "digits", plan, seed, device)
    rows = list(run.run())
    return 0.0 if run.diverged else rows[-1].accuracy


@claim(
    "depth-trains",
    "thirty rescaled, normalized or Fixup blocks train where thirty plain ones diverge",
    source="Shao et al. 2020; Zhang, Dauphin & Ma 2019; Bjorck et al. 2018",
    conditions="the zoo's MLPs of 30 blocks, n = 64, digits, 150 steps of SGD with momentum .9,"
    " batch 64; rate 1e-2 (plain also 1e-3), 4 seeds",
    statement="accuracy at least .9; the plain net diverges",
    note="after a stem of gain 1 the plain net diverges at 1e-3 and 1e-2 and learns next to"
    " nothing below; the others reach .93 with momentum only",
    tags=["slow"],
    saboteurs={
        "plain branches": {"healthy": ("plain",)},
        "library: norm forgotten": faults.NO_NORM,
    },
)
def depth_trains(trial: Trial, healthy: Sequence[str] = HEALTHY) -> list[Comparison]:
    """Train each family, and the plain net at two rates.

    Args:
        trial: seeds and sizes.
        healthy: networks of the zoo that should train.

    Returns:
        One comparison per number.
    """
    steps, depth = trial.pick(150, 60), trial.pick(30, 16)
    comparisons = []
    for name in healthy:
        found = [
            _trained(name, seed, depth, steps, 1e-2, trial.device) for seed in trial.seeds(4, 2)
        ]
        reason = "360 test digits: ±.013 at .93; seeds differ by .015"
        comparisons.append(at_least(f"{name}: test accuracy", trial.pick(0.9, 0.5), found, reason))
    for rate in (1e-3, 1e-2):
        found = [_trained("plain", seed, 30, 20, rate, trial.device) for seed in trial.seeds(2, 1)]
        diverged = sum(accuracy == 0 for accuracy in found) / len(found)
        comparisons.append(
            at_least(f"plain at rate {rate:g}: share that diverges", 1.0, diverged, "all")
        )
    return comparisons


@claim(
    "loss-along-gradient",
    "a step along the gradient blows the plain net up and lowers the others' loss",
    source="Bjorck et al. 2018, section 3.1",
    conditions="the zoo's MLPs of 30 blocks, n = 64, 512 digits, training mode, at initialization,"
    " 4 seeds",
    statement="relative loss above 1 or NaN at step 1e-3 (plain); below 1 at 1e-2 (BN, rescale)",
    saboteurs={
        "plain net in the place of BN": {"batchnorm": "plain"},
        "library: norm forgotten": faults.NO_NORM,
    },
)
def loss_along(trial: Trial, batchnorm: str = "batchnorm") -> list[Comparison]:
    """Move along the gradient of each net.

    Args:
        trial: seeds and sizes.
        batchnorm: stands for the zoo's network with batch normalization.

    Returns:
        One comparison per number.
    """
    families = {"rescale": "rescale", "batchnorm": batchnorm}
    seeds = trial.seeds(4, 3)
    reason = "an inequality; NaN counts as infinite"
    comparisons = [
        at_most(
            f"{name}: relative loss at 1e-2", 1.0, [_ratio(network, s, 1e-2) for s in seeds], reason
        )
        for name, network in families.items()
    ]
    lowest = min(_ratio("plain", seed, 1e-3) for seed in seeds)
    return [*comparisons, at_least("plain: lowest relative loss at 1e-3", 1.0, lowest, reason)]


def _ratio(network: str, seed: int, distance: float) -> float:
    found = gradients.relative_loss(
        _net(network, seed, 30), functional.cross_entropy, digits(512), [distance], device="cpu"
    )
    return float(found["relative_loss"].iloc[0])
