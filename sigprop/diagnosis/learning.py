"""Steps that are too large, too small, uneven over depth, lost in rounding, or never made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sigprop.diagnosis.finders import finder
from sigprop.diagnosis.finding import Finding, Measured
from sigprop.diagnosis.remedies import slower
from sigprop.diagnosis.subject import Subject, largest, measured
from sigprop.records.queries import at_first_step, weights_by_block
from sigprop.records.training import train_rows
from sigprop.words import number

#: Usual size of an update relative to its weight. Source: Karpathy, *makemore*, part 3: about 1e-3.
USUAL = 1e-3
#: Median updates outside of these bounds cannot train for long, or do not train at all.
LARGE, SMALL = 0.1, 1e-6
#: Factor between the blocks with the largest and the smallest gradient-to-weight ratio that one
#: learning rate cannot serve.
UNEVEN = 1e3
#: Kurtosis of a gradient, over all its elements, that is called heavy-tailed; Gaussian is 3.
HEAVY = 300.0
#: Factor by which a loss above its first value counts as rising.
RISEN = 2.0
#: Change of ‖w‖² over a run that changes the effective learning rate of a normalized weight.
DRIFTED = 10.0
#: Significant bits of the formats whose rounding swallows small updates (relative half spacing).
ROUNDING = {"torch.bfloat16": 2.0**-8, "torch.float16": 2.0**-11}


@finder("learning-rate-too-large", "loss-diverged")
def too_large(subject: Subject) -> Iterator[Finding]:
    """Find updates of the size of the weights, and a loss that rises or stops being finite.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    loss = train_rows(subject.records.training)
    known = loss[loss["loss"].notna() | loss["learning_rate"].notna()]
    broken = known[~np.isfinite(known["loss"])]
    finite = known[np.isfinite(known["loss"])]
    first = finite["loss"].iloc[0] if len(finite) else np.nan
    risen = bool(len(finite) > 1 and finite["loss"].iloc[-1] > RISEN * first)
    updates = _median_updates(subject)
    large = updates[updates >= LARGE]
    if len(broken) or risen:
        step = int(broken["step"].min()) if len(broken) else int(finite["step"].iloc[-1])
        what = (
            f"the loss is NaN or infinite from step {step} on"
            if len(broken)
            else f"the loss rises from {number(float(first))} to "
            f"{number(float(finite['loss'].iloc[-1]))} (step {step})"
        )
        evidence = {"first_loss": Measured(float(first))} if np.isfinite(first) else {}
        if len(updates):
            evidence["largest_median_update"] = Measured(float(updates.max()))
        yield Finding(
            "loss-diverged",
            "error",
            subject.network,
            what,
            subject.where(steps=[step]),
            evidence,
            _why_diverged(updates),
            slower(10).words,
            slower(10).code,
            "Cohen et al. 2021 (edge of stability): gradient descent diverges beyond 2/sharpness",
        )
    elif len(large):
        yield Finding(
            "learning-rate-too-large",
            "warning",
            subject.network,
            f"one step changes the weights by {number(float(large.max()))} of their norm "
            "(median over matrices)",
            subject.where(steps=large.index),
            {"median_update_to_weight": Measured(float(large.max()))},
            f"the learning rate is too large for these gradients; about {USUAL:g} is usual",
            slower(float(large.max()) / (10 * USUAL)).words,
            slower(float(large.max()) / (10 * USUAL)).code,
            "Karpathy, makemore part 3; You et al. 2017 (LARS)",
        )


def _why_diverged(updates: pd.Series[float]) -> str:
    if len(updates) and updates.max() >= LARGE:
        return f"steps of {number(float(updates.max()))} of the weights' norm are too large"
    return "the step is beyond what the curvature allows, or the forward pass overflows"


@finder("learning-rate-too-small")
def too_small(subject: Subject) -> Iterator[Finding]:
    """Find runs none of whose steps moves the weights.

    The largest median over the steps counts: at the end of a schedule every update vanishes.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    updates = _median_updates(subject)
    if updates.empty or updates.max() > SMALL or not (subject.matrices["grad_norm"] > 0).any():
        return
    rate = USUAL / updates.max() if updates.max() > 0 else 1e3
    yield Finding(
        "learning-rate-too-small",
        "warning",
        subject.network,
        f"no recorded step changes the weights by more than {number(float(updates.max()))} of "
        "their norm (median over matrices)",
        subject.where(steps=updates.index),
        {"largest_median_update": Measured(float(updates.max()))},
        f"the learning rate or the gradients are too small; about {USUAL:g} is usual",
        "raise the learning rate, or look for vanishing gradients",
        f'for group in optimizer.param_groups:\n    group["lr"] *= {rate:.3g}',
        "Karpathy, makemore part 3",
    )


def _median_updates(subject: Subject) -> pd.Series[float]:
    """Return step -> the median of update-to-weight over matrices that have one."""
    rows = subject.matrices[np.isfinite(subject.matrices["update_to_weight"])]
    rows = rows[~rows["skipped"].astype(bool)]
    medians: pd.Series[float] = rows.groupby("step")["update_to_weight"].median()
    return medians


@finder("uneven-gradients")
def uneven(subject: Subject) -> Iterator[Finding]:
    """Find gradients that differ over depth by more than one learning rate can serve.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = at_first_step(weights_by_block(subject.parameters))
    rows = rows[np.isfinite(rows["grad_to_weight"]) & (rows["grad_to_weight"] > 0)]
    blocks = np.log(rows["grad_to_weight"]).groupby(rows["block"]).mean()
    if len(blocks) < 3 or blocks.max() - blocks.min() < np.log(UNEVEN):
        return
    high, low = largest(blocks), largest(-blocks)
    ratio = float(np.exp(min(blocks.max() - blocks.min(), 700.0)))
    yield Finding(
        "uneven-gradients",
        "warning",
        subject.network,
        f"the gradient-to-weight ratio of block {high} is {number(ratio)} times that of block "
        f"{low}",
        subject.where([low, high], subject.steps[:1]),
        {"ratio": Measured(ratio)},
        "signal or gradient grows or shrinks over the blocks, and a weight's gradient is the "
        "product of both",
        "mend the propagation first; an optimizer that normalizes each layer's step (Adam, LARS) "
        "hides it",
        "optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)",
        "Glorot & Bengio 2010, section 4; You et al. 2017 (LARS)",
    )


@finder("heavy-tailed-gradients")
def heavy_tails(subject: Subject) -> Iterator[Finding]:
    """Find gradients of activations whose elements are far from Gaussian.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = subject.signals[(subject.signals["direction"] == "backward")]
    rows = at_first_step(rows[(rows["port"] == "out") & np.isfinite(rows["kurtosis"])])
    parts = rows.groupby("block")["kurtosis"].mean()
    bad = parts[parts >= HEAVY]
    if len(parts) < 3 or len(bad) < len(parts) / 2:
        return
    worst = largest(bad)
    yield Finding(
        "heavy-tailed-gradients",
        "info",
        subject.network,
        f"the gradients' kurtosis reaches {number(float(bad.max()))} (3 for a Gaussian)",
        subject.where(bad.index, subject.steps[:1]),
        {"kurtosis": measured(rows.loc[rows["block"] == worst, "kurtosis"])},
        "a few samples or units dominate each step",
        "clip gradients, unit by unit or in all",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
        "Bjorck et al. 2018, section 3; Zhang et al. 2020 (heavy-tailed noise)",
    )


@finder("swallowed-updates")
def swallowed(subject: Subject) -> Iterator[Finding]:
    """Find half-precision weights whose updates are below their own rounding.

    Args:
        subject: the network; its model says the precision.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    if subject.model is None:
        return
    halves = {
        name: ROUNDING[str(p.dtype)]
        for name, p in subject.model.named_parameters()
        if str(p.dtype) in ROUNDING
    }
    rows = subject.matrices
    smallest = np.array([halves.get(str(name), 0.0) for name in rows["name"]]) / 4
    rows = rows[(rows["update_to_weight"] < smallest) & (rows["grad_norm"] > 0)]
    rows = rows[~rows["skipped"].astype(bool)]
    lost = rows.groupby("name").size()
    names = [str(name) for name in lost[lost >= max(len(subject.steps) / 2, 1)].index]
    if not names:
        return
    yield Finding(
        "swallowed-updates",
        "warning",
        subject.network,
        f"updates of {names[0]}{' and others' if len(names) > 1 else ''} are smaller than the "
        "rounding of its 16-bit format",
        subject.where(names=names, steps=rows["step"]),
        {"median_update_to_weight": Measured(float(rows["update_to_weight"].median()))},
        "bfloat16 keeps 8 significant bits: a change below 1/256 of a weight is rounded away",
        "keep the weights in float32 and compute under autocast",
        "model.float()\n"
        'with torch.autocast("cuda", dtype=torch.bfloat16):\n    outputs = model(inputs)',
        "Micikevicius et al. 2018, section 3.1 (master weights)",
    )


@finder("effective-learning-rate")
def effective_rate(subject: Subject) -> Iterator[Finding]:
    """Find normalized weights whose norm grows so much that their learning rate has fallen.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    if not subject.has("BatchNorm", "LayerNorm", "GroupNorm", "RMSNorm"):
        return
    rows = subject.matrices[subject.matrices["weight_norm"] > 0]
    first = rows[rows["step"] == rows["step"].min()].groupby("name")["weight_norm"].mean()
    last = rows[rows["step"] == rows["step"].max()].groupby("name")["weight_norm"].mean()
    change = (2 * (np.log(last) - np.log(first))).dropna()
    if change.empty or abs(float(change.median())) < np.log(DRIFTED):
        return
    factor = float(np.exp(change.median()))
    yield Finding(
        "effective-learning-rate",
        "info",
        subject.network,
        f"‖w‖² changes by a factor of {number(factor)} (median over matrices)",
        subject.where(steps=[subject.steps[0], subject.steps[-1]]),
        {"factor": Measured(factor)},
        "behind a normalization the size of a weight does not matter, and its effective learning "
        "rate is the learning rate over ‖w‖²",
        "choose weight decay and learning rate together: they set the norm at which it rests",
        "",
        "van Laarhoven 2017; Hoffer et al. 2018, section 3",
    )


@finder("not-in-optimizer")
def not_in_optimizer(subject: Subject) -> Iterator[Finding]:
    """Find parameters with a gradient that no optimizer updates.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = subject.parameters[subject.parameters["grad_norm"] > 0]
    updated = rows["update_to_weight"].notna().groupby(rows["name"]).any()
    norm = rows.groupby("name")["weight_norm"].max() > 0
    names = [str(name) for name in updated.index[~updated & norm]]
    if not names or not updated.any():
        return
    yield Finding(
        "not-in-optimizer",
        "warning",
        subject.network,
        f"{len(names)} of {len(updated)} parameters with a gradient are never updated",
        subject.where(names=names),
        {"parameters": Measured(float(len(names)))},
        "the optimizer does not hold them: it was made before they were, or from another list",
        "make the optimizer from all parameters",
        "missing = [p for p in model.parameters() if all(p is not q for g in "
        'optimizer.param_groups for q in g["params"])]\n'
        'optimizer.add_param_group({"params": missing})',
        "",
    )
