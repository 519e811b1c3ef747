"""Activations that carry little: collapsed samples, dead and saturated units, outliers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sigprop.diagnosis.finders import finder
from sigprop.diagnosis.finding import Finding, Measured
from sigprop.diagnosis.remedies import he_initialized
from sigprop.diagnosis.subject import Subject, largest, measured
from sigprop.records.queries import at_first_step, at_last_step, dead_by_block
from sigprop.words import number, share

#: Share of the second moment that is mean shift where samples can hardly be told apart. A He ReLU
#: network reaches it behind 30 layers: 1 - c_l -> 9π²/(2 l²) (Cho & Saul's kernel).
COLLAPSED = 0.95
#: Share from which on the input itself is called uncentered.
UNCENTERED = 0.9
#: Share of dead units beyond that of any deep He ReLU network (its limit is 1/2).
DEAD = 0.6
#: Share of zeros that says that a whole layer is off.
OFF = 0.999
#: |tanh| from which on a unit counts as saturated, and the share of them that matters.
FLAT, SATURATED = 0.97, 0.5
#: Massive activations: larger than 100, and 50 times the root mean square at the least. Source:
#: Sun et al. 2024, *Massive activations in large language models*, section 2 (100, and 1000 times
#: the median).
MASSIVE, OUTSTANDING = 100.0, 50.0
#: Largest number of float16, and the factor below it that leaves no margin.
FLOAT16, MARGIN = 65504.0, 4.0


@finder("mean-shift")
def mean_shift(subject: Subject) -> Iterator[Finding]:
    """Find blocks behind which all samples have nearly the same activations.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = at_first_step(subject.outputs)
    rows = rows[rows["second_moment"] > 0]
    parts = (rows["mean_shift"] / rows["second_moment"]).groupby(rows["block"]).mean()
    entry = at_first_step(subject.forward)
    entry = entry[(entry["port"] == "in") & (entry["block"] == entry["block"].min())]
    before = float((entry["mean_shift"] / entry["second_moment"]).mean()) if len(entry) else 0.0
    bad = parts[parts >= COLLAPSED]
    if bad.empty or before >= UNCENTERED:
        return
    worst = largest(bad)
    draws = rows[rows["block"] == worst]
    yield Finding(
        "mean-shift",
        "warning",
        subject.network,
        f"{share(float(bad.max()))} of the second moment is mean shift: every sample gives nearly "
        "the same activations",
        subject.where(bad.index, subject.steps[:1]),
        {
            "mean_shift_share": measured(draws["mean_shift"] / draws["second_moment"]),
            "share_at_the_input": Measured(before),
        },
        "the correlation of any two samples grows with every rectified layer, until the layers "
        "behind see no difference between inputs",
        "center what the layers receive: biases in front of the weights, or a normalization",
        "sigprop.networks.center_(model, inputs)",
        "Poole et al. 2016; Brock et al. 2021 (mean shift), section 3",
    )


@finder("dead-units", "dead-layer")
def dead_units(subject: Subject) -> Iterator[Finding]:
    """Find rectified layers whose units are never on.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rectified = subject.forward[subject.forward["dead_fraction"].notna()]
    off = rectified[rectified["zero_fraction"] >= OFF]
    if len(off):
        first = off.sort_values(["step", "block"], kind="stable").iloc[0]
        at = off[off["step"] == first["step"]]
        yield Finding(
            "dead-layer",
            "error",
            subject.network,
            f"all units of {first['name']} are off since step {first['step']}",
            subject.where(at["block"], [first["step"]], at["module"]),
            {"zero_fraction": measured(at["zero_fraction"])},
            "every pre-activation is negative, so that neither signal nor gradient passes",
            "set the layer in front anew and lower the learning rate; a leaky rectifier passes "
            "gradients where a ReLU does not",
            he_initialized(subject).code if first["step"] == subject.steps[0] else "",
            "Lu et al. 2020, Dying ReLU and initialization",
        )
        return
    history = dead_by_block(subject.signals)
    dead = at_last_step(history)
    parts = dead.groupby("block")["dead_fraction"].mean()
    bad = parts[parts >= DEAD]
    if bad.empty:
        return
    since = history[history["block"].isin(bad.index) & (history["dead_fraction"] >= DEAD)]
    worst = dead[dead["block"] == largest(bad)]
    yield Finding(
        "dead-units",
        "warning",
        subject.network,
        f"up to {share(float(bad.max()))} of the units are dead ReLUs: never above 0 on any "
        f"recorded sample since step {int(since['step'].min())}",
        subject.where(bad.index, [int(since["step"].min())]),
        {"dead_fraction": measured(worst["dead_fraction"])},
        "their pre-activations are negative for every input: biases or a large update pushed them "
        "there, or all inputs are alike by then",
        "lower the learning rate, or center what the layers receive so that each unit is on for "
        "half of the samples",
        "sigprop.networks.center_(model, inputs)",
        "Shao et al. 2020 (RescaleNet), section 4; Lu et al. 2020",
    )


@finder("saturated-units")
def saturated_units(subject: Subject) -> Iterator[Finding]:
    """Find tanh layers most of whose units are at ±1.

    A second moment m of values in [-1, 1] has a share of at least (m - t²)/(1 - t²) beyond t.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    if not subject.has("Tanh"):
        return
    coverage = subject.records.coverage
    tanh = {str(name) for name in coverage.loc[coverage["type"] == "Tanh", "name"]}
    rows = at_first_step(subject.outputs)
    inside = tanh | {name.rpartition(".")[0] for name in tanh}
    rows = rows[rows["module"].isin(inside) & (rows["max_abs"] <= 1)]
    shares = (rows["second_moment"] - FLAT**2) / (1 - FLAT**2)
    parts = shares.groupby(rows["block"]).mean()
    bad = parts[parts >= SATURATED]
    if bad.empty:
        return
    worst = largest(bad)
    yield Finding(
        "saturated-units",
        "warning",
        subject.network,
        f"at least {share(float(bad.max()))} of the tanh units are saturated (|tanh| > {FLAT}), "
        f"first at block {int(bad.index.min())}",
        subject.where(bad.index, subject.steps[:1]),
        {"saturated_share_at_least": measured(shares[rows["block"] == worst])},
        "pre-activations are far larger than 1, where tanh is flat and gradients vanish",
        "use smaller weights",
        "for layer in model.modules():\n"
        "    if isinstance(layer, torch.nn.Linear):\n"
        "        torch.nn.init.xavier_normal_(layer.weight)",
        "Glorot & Bengio 2010, section 3",
    )


@finder("massive-activations", "overflow-margin")
def outliers(subject: Subject) -> Iterator[Finding]:
    """Find single activations far above all others, and those near the end of float16.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = subject.outputs[np.isfinite(subject.outputs["max_abs"])]
    if rows.empty:
        return
    rms = np.sqrt(rows["second_moment"])
    massive = rows[(rows["max_abs"] >= MASSIVE) & (rows["max_abs"] >= OUTSTANDING * rms)]
    if len(massive):
        yield Finding(
            "massive-activations",
            "info",
            subject.network,
            f"single activations reach {number(float(massive['max_abs'].max()))}, "
            f"{number(float((massive['max_abs'] / rms[massive.index]).max()))} times the root "
            "mean square of their layer",
            subject.where(massive["block"], massive["step"]),
            {"max_abs": Measured(float(massive["max_abs"].max()))},
            "a few channels or tokens carry a nearly constant, huge value; trained Transformers "
            "use them as biases of attention",
            "keep these activations out of 8-bit quantization; registers or attention biases "
            "prevent them",
            "",
            "Sun et al. 2024, Massive activations in large language models",
        )
    near = rows[rows["max_abs"] >= FLOAT16 / MARGIN]
    if len(near):
        half = _half(subject)
        yield Finding(
            "overflow-margin",
            "error" if half else "info",
            subject.network,
            f"activations reach {number(float(near['max_abs'].max()))}; float16 ends at 65504",
            subject.where(near["block"], near["step"]),
            {"max_abs": Measured(float(near["max_abs"].max()))},
            "float16 has no larger numbers, and a sum over a layer overflows before that",
            "use bfloat16, which has float32's range, or keep these blocks in float32",
            'with torch.autocast("cuda", dtype=torch.bfloat16):\n    outputs = model(inputs)',
            "Micikevicius et al. 2018, Mixed precision training",
        )


def _half(subject: Subject) -> bool:
    """Return whether the model computes in float16."""
    if subject.model is None:
        return False
    return any(str(p.dtype) == "torch.float16" for p in subject.model.parameters())


@finder("lost-law")
def lost_law(subject: Subject) -> Iterator[Finding]:
    """Find blocks whose second moment changes by orders of magnitude in training.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = subject.outputs[subject.outputs["second_moment"] > 0]
    if rows["step"].nunique() < 2:
        return
    first, last = (_logs(part) for part in (at_first_step(rows), at_last_step(rows)))
    moved = (last - first).dropna()
    bad = moved[moved.abs() >= np.log(1e3)]
    if bad.empty:
        return
    worst = largest(bad.abs())
    yield Finding(
        "lost-law",
        "warning",
        subject.network,
        f"in training the second moment of block {worst}'s output changes by a factor of "
        f"{number(float(np.exp(np.clip(bad[worst], -700, 700))))}",
        subject.where(bad.index, [subject.steps[0], subject.steps[-1]]),
        {"factor": Measured(float(np.exp(np.clip(bad[worst], -700, 700))))},
        "nothing in the network holds the size of the signal while its weights change",
        "lower the learning rate, decay the weights, or normalize or clip",
        "",
        "",
    )


def _logs(rows: pd.DataFrame) -> pd.Series[float]:
    logs: pd.Series[float] = np.log(rows["second_moment"]).groupby(rows["block"]).mean()
    return logs
