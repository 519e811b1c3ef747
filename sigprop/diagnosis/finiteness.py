"""Values that are NaN or infinite: which module made the first of them."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from sigprop.diagnosis.finders import finder
from sigprop.diagnosis.finding import Finding, Measured
from sigprop.diagnosis.remedies import slower
from sigprop.diagnosis.subject import Subject
from sigprop.words import counted

#: Order of a block's ports in a forward pass, and what they are called.
_PORTS = {"in": 0, "skip": 1, "branch": 2, "out": 3}
_CALLED = {"in": "input", "skip": "skip", "branch": "branch", "out": "output"}


@finder("not-finite")
def not_finite(subject: Subject) -> Iterator[Finding]:
    """Find the first NaN or infinity: the module that made it, not those that passed it on.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = subject.records.signals
    bad = rows[rows["nonfinite"] > 0]
    if bad.empty:
        return
    step = int(bad["step"].min())
    now = bad[bad["step"] == step]
    forward = now[now["direction"] == "forward"]
    kind = "forward" if len(forward) else "backward"
    first = _first(forward) if len(forward) else _last(now)
    passed = now[now["direction"] == kind]["block"].nunique() - 1
    cause, remedy, code = _cause(subject, first, step)
    names = [str(first["name"])]
    what = "activation" if kind == "forward" else "gradient"
    yield Finding(
        "not-finite",
        "error",
        subject.network,
        f"the first NaN or infinite {what} is at the {_CALLED[first['port']]} of "
        f"{first['name']} in step {step}; {counted(max(passed, 0), 'block')} passed it on",
        subject.where([int(first["block"])], [step], names),
        {
            "elements": Measured(float(first["nonfinite"])),
            "of": Measured(float(first["count"])),
        },
        cause,
        remedy,
        code,
        "",
    )


def _first(rows: pd.DataFrame) -> pd.Series:
    """Return the first row of a forward pass: least block, what is inside before what comes out."""
    placed = rows.assign(
        inside=(~rows["kind"].isin(["block", "leaf"])).astype(int),
        place=rows["port"].map(_PORTS),
    )
    return placed.sort_values(["block", "place", "inside"], kind="stable").iloc[0]


def _last(rows: pd.DataFrame) -> pd.Series:
    """Return the first row of a backward pass: the deepest block, its output before its input."""
    placed = rows.assign(place=rows["port"].map(_PORTS))
    return placed.sort_values(["block", "place"], ascending=False, kind="stable").iloc[0]


def _cause(subject: Subject, first: pd.Series, step: int) -> tuple[str, str, str]:
    weights = subject.parameters[subject.parameters["step"] == step]
    broken = weights[weights["weight_norm"].isna() | (weights["weight_norm"] == float("inf"))]
    if len(broken):
        return (
            f"{broken['name'].iloc[0]} is not finite before this step: an earlier update broke it",
            slower(10).words,
            slower(10).code,
        )
    if first["direction"] == "backward":
        return (
            "the loss or an operation behind this block has an infinite derivative, such as a "
            "root or a norm at 0, or log of 0",
            "add a small number inside of roots, norms and logarithms",
            "with torch.autograd.detect_anomaly():\n    loss.backward()",
        )
    rows = subject.records.signals
    received = rows[
        (rows["direction"] == "forward")
        & (rows["step"] == step)
        & (rows["block"] == first["block"])
        & (rows["port"] == "in")
    ]
    size = float(received["max_abs"].max()) if len(received) else 0.0
    if first["port"] == "in":
        before = [name for block, name in subject.labels.items() if block < first["block"]]
        if before:
            return (
                f"the output of {before[-1]} is finite, so what stands between it and "
                f"{first['module']} makes it",
                "look at that code: a division by 0, a root or logarithm of a negative number, an "
                "overflow",
                "with torch.autograd.detect_anomaly():\n    model(inputs).sum().backward()",
            )
        return (
            "the blocks receive it: the inputs hold it, or a layer in front of the blocks makes it",
            "look at the inputs and the first layers",
            "assert torch.isfinite(inputs).all()",
        )
    if size > 1e4:
        return (
            f"its input reaches {size:.3g}: a product or a power of such numbers overflows",
            "mend the growth in front of it, or use bfloat16 or float32 there",
            'with torch.autocast("cuda", dtype=torch.bfloat16):\n    outputs = model(inputs)',
        )
    return (
        "its input is finite, so an operation in it divides by 0, takes a root or logarithm of a "
        "negative number, or masks a whole row before a softmax",
        "step through this module with the inputs of this step",
        "with torch.autograd.detect_anomaly():\n    model(inputs).sum().backward()",
    )
