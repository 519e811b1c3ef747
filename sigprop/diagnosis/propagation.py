"""Signals and gradients that explode or vanish over the blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from sigprop.diagnosis.finders import finder
from sigprop.diagnosis.finding import Finding, Severity
from sigprop.diagnosis.profile import Change, Direction, Profile, by_chance, change
from sigprop.diagnosis.remedies import Remedy, branches_scaled, he_initialized, one_block_scaled
from sigprop.diagnosis.subject import Subject, measured_rate
from sigprop.records.queries import at_first_step
from sigprop.words import counted, factor

#: Departures from the start, as factors: beyond the first a network is hard to train whatever
#: its depth (float16 loses gradients below 1e-7 of its largest number; learning rates that suit
#: one layer do not suit another); from the second on it is worth a look.
EXTREME, WIDE = 1e3, 30.0
#: Factor per layer of ReLU and PyTorch's default weights, of variance 1/(3 fan_in).
DEFAULT_RATE = (0.12, 0.23)
#: Growth of the squared gradient per layer that batch normalization causes: 1.19 (tanh) to 1.47
#: (ReLU), more with small batches. Source: Yang et al. 2019, *A mean field theory of batch
#: normalization*.
BATCHNORM_RATE = (1.12, 3.5)

_NAMES = {
    ("forward", True): "exploding-forward",
    ("forward", False): "vanishing-forward",
    ("backward", True): "exploding-backward",
    ("backward", False): "vanishing-backward",
}


@finder(*_NAMES.values())
def exploding_or_vanishing(subject: Subject) -> Iterator[Finding]:
    """Find sequences of blocks over which the signal or its gradient leaves its start.

    Growth along a straight line is that of residual networks with normalized branches (the second
    moment is k + 1 behind block k: De & Smith 2020) and is no finding.

    Args:
        subject: the network.

    Yields:
        One finding per direction and sequence of blocks; none where all is well.
    """
    directions: tuple[Direction, ...] = ("forward", "backward")
    for direction in directions:
        allowed = by_branches(subject) if direction == "backward" else 0.0
        for profile in subject.profiles(direction):
            found = change(profile)
            severity = found and severity_of(found, profile, allowed)
            if found and severity:
                yield _finding(subject, direction, profile, found, severity)


def by_branches(subject: Subject) -> float:
    """Return the log of the gradient's growth that a normalized residual network has by design.

    A branch that starts with a normalization divides the stream by its standard deviation, so that
    the squared gradient grows by 1 + E[b²]/Var[s] in a block of skip s and branch b: over L blocks
    whose stream has variance k + 1, by a power of L, and not exponentially.

    Source: De & Smith 2020, section 3; derived here for the gradient.

    Args:
        subject: the network; 0 without a normalization or without residual additions.
    """
    if not (subject.residual and subject.has("Norm")):
        return 0.0
    rows = at_first_step(subject.forward)
    skip = rows[rows["port"] == "skip"].groupby("block")["channel_variance"].mean()
    branch = rows[rows["port"] == "branch"].groupby("block")["second_moment"].mean()
    gains = (branch / skip.where(skip > 0)).dropna()
    return float(np.log1p(gains).sum())


def severity_of(found: Change, profile: Profile, allowed: float = 0.0) -> Severity | None:
    """Return how bad a departure is; None where it is none.

    Args:
        found: the departure.
        profile: what it is of.
        allowed: log of the growth that the network has by design.
    """
    size = abs(found.log) - (allowed if found.log > 0 else 0.0)
    if found.linear and found.log > 0:
        return None
    if size >= math.log(EXTREME):
        return "error"
    chance = by_chance(found.crossed, profile.width)
    return "warning" if size >= max(math.log(WIDE), chance) else None


def _finding(
    subject: Subject, direction: Direction, profile: Profile, found: Change, severity: Severity
) -> Finding:
    up = found.log > 0
    draws = profile.logs[:, found.crossed]
    finite = draws[np.isfinite(draws)]
    evidence = {}
    if len(finite):
        evidence["factor_per_block"] = measured_rate(finite / found.crossed)
        evidence["factor_in_all"] = measured_rate(finite)
    cause, remedy, reference = _cause(subject, direction, profile, found)
    return Finding(
        _NAMES[direction, up],
        severity,
        subject.network,
        _summary(direction, profile, found),
        subject.where(found.responsible, subject.steps[:1]),
        evidence,
        cause,
        remedy.words,
        remedy.code,
        reference,
    )


def _summary(direction: Direction, profile: Profile, found: Change) -> str:
    what = "the second moment" if direction == "forward" else "the gradient's squared norm"
    stack = f"in {profile.stack}, " if profile.stack else ""
    way = "" if direction == "forward" else ", from the last one back"
    if math.isinf(found.log):
        return f"{stack}{what} is exactly 0 behind block {found.responsible[0]}"
    over = f"over {counted(found.crossed, 'block')}{way}"
    total = factor(_power(found.log))
    if found.alone:
        return f"{stack}{what} changes {total} {over}, most of it at block {found.responsible[0]}"
    verb = "grows" if found.log > 0 else "shrinks"
    return f"{stack}{what} {verb} {factor(_power(found.rate))} per block ({total} {over})"


def _power(log: float) -> float:
    return math.exp(min(log, 700.0))


def _cause(
    subject: Subject, direction: Direction, profile: Profile, found: Change
) -> tuple[str, Remedy, str]:
    rate, up = _power(found.rate), found.log > 0
    if math.isinf(found.log):
        return _gone(subject, direction, found)
    if found.alone:
        block = found.responsible[0]
        return (
            f"block {block} multiplies it by {factor(_power(_own(profile, found)))}, the others "
            "by far less",
            one_block_scaled(subject, block, _own(profile, found)),
            "",
        )
    normalized = subject.has("BatchNorm") and not subject.residual
    if direction == "backward" and normalized and BATCHNORM_RATE[0] <= rate <= BATCHNORM_RATE[1]:
        return (
            "batch normalization without skip connections makes the squared gradient grow by "
            "π/(π-1) = 1.47 per ReLU layer, whatever the weights",
            Remedy("put skip connections around the blocks, x + block(x), or use fewer layers"),
            "Yang et al. 2019, A mean field theory of batch normalization, section 4",
        )
    if subject.residual and up and not subject.has("Norm"):
        return (
            "each block adds a branch of its own size to the stream, and nothing scales it down",
            branches_scaled(subject),
            "Zhang et al. 2019 (Fixup); Shao et al. 2020 (RescaleNet)",
        )
    if abs(found.log) < by_chance(found.crossed, profile.width):
        return (
            f"{profile.width:.0f} channels are few for {counted(found.crossed, 'layer')}: chance "
            "alone moves the signal this far",
            Remedy("widen the layers, use fewer of them, or normalize them"),
            "Hanin 2018, theorem 3: the spread grows with the sum of 1/width",
        )
    if DEFAULT_RATE[0] <= rate <= DEFAULT_RATE[1]:
        return (
            "PyTorch's default weights have the variance 1/(3 fan_in); a ReLU layer needs "
            "2/fan_in to keep signal and gradient",
            he_initialized(subject),
            "He et al. 2015, section 2.2",
        )
    size = "large" if up else "small"
    return (
        f"the weights are too {size} for their layers",
        he_initialized(subject),
        "He et al. 2015, section 2.2",
    )


def _own(profile: Profile, found: Change) -> float:
    """Return the logarithm of the responsible block's own factor."""
    at = profile.blocks.index(found.responsible[0])
    return float(profile.mean[at + 1] - profile.mean[at])


def _gone(subject: Subject, direction: Direction, found: Change) -> tuple[str, Remedy, str]:
    block = found.responsible[0]
    zero = subject.matrices[(subject.matrices["weight_norm"] == 0)]
    if direction == "backward":
        last = subject.parameters[subject.parameters["ndim"] >= 2]
        names = last.loc[last["weight_norm"] == 0, "name"].unique()
        if len(names):
            return (
                f"{names[-1]} is 0 at the start, so that no gradient passes it",
                Remedy("nothing, if that is meant (Fixup, ReZero): it ends with the first step"),
                "Zhang et al. 2019 (Fixup)",
            )
        return (
            f"no gradient passes block {block}: all its units are off, or it is cut off",
            Remedy("look for dead units, a multiplication by 0, or a mask in that block"),
            "",
        )
    if len(zero[zero["block"] == block]):
        names = zero.loc[zero["block"] == block, "name"].unique()
        return (f"{names[0]} is 0", he_initialized(subject), "He et al. 2015, section 2.2")
    return (
        f"block {block} returns 0 for every input: all its units are off",
        Remedy("set its biases to 0 and its weights anew", he_initialized(subject).code),
        "Lu et al. 2020, Dying ReLU and initialization",
    )
