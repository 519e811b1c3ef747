"""Parts that take no part: never called, cut off from the loss, or frozen."""

from __future__ import annotations

from collections.abc import Iterator

from sigprop.capture.recording.coverage import NO_GRADIENT, UNSEEN
from sigprop.diagnosis.finders import finder
from sigprop.diagnosis.finding import Finding, Measured, Severity
from sigprop.diagnosis.subject import Subject
from sigprop.words import counted


@finder("never-called")
def never_called(subject: Subject) -> Iterator[Finding]:
    """Find modules that hold parameters and that no recorded step called.

    Args:
        subject: the network; its model says which modules hold parameters.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = subject.records.coverage
    idle = [str(name) for name in rows.loc[rows["status"] == "never_called", "name"]]
    if subject.model is not None:
        holding = {name.rpartition(".")[0] for name, _ in subject.model.named_parameters()}
        idle = [name for name in idle if name in holding]
    if idle:
        yield Finding(
            "never-called",
            "warning" if subject.model is not None else "info",
            subject.network,
            f"{counted(len(idle), 'module')} took no part in any recorded step",
            subject.where(names=idle),
            {"modules": Measured(float(len(idle)))},
            "the forward pass does not call them, or uses their weights without calling them",
            "call them, or take them out: they cost memory, and are an error under "
            "DistributedDataParallel",
        )


@finder("no-gradient")
def no_gradient(subject: Subject) -> Iterator[Finding]:
    """Find blocks that the gradient of the loss does not reach while it reaches others.

    An output that asked for a gradient and got none was detached behind the block: an error. One
    that asked for none is frozen, or was computed without gradients: worth knowing.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    there = set(subject.signals.loc[subject.signals["direction"] == "backward", "block"])
    coverage = subject.records.coverage
    lost = coverage[coverage["status"] == "no_gradient"]
    for status, severity in ((UNSEEN, "error"), (NO_GRADIENT, "info")):
        names = set(lost.loc[lost["gradient"] == status, "name"])
        blocks = sorted(block for block, name in subject.labels.items() if name in names)
        if there and blocks:
            yield _cut(subject, blocks, "error" if severity == "error" else "info")


def _cut(subject: Subject, blocks: list[int], severity: Severity) -> Finding:
    end = max(blocks)
    by_design = severity == "info"
    return Finding(
        "no-gradient",
        severity,
        subject.network,
        f"the gradient does not reach {counted(len(blocks), 'block')}; the last is block {end}",
        subject.where(blocks),
        {"blocks": Measured(float(len(blocks)))},
        "they are frozen, or run under torch.no_grad()"
        if by_design
        else "their output is cut off from the loss: .detach(), .data, torch.no_grad(), an integer "
        "or a comparison stands behind them",
        "nothing, if that is meant" if by_design else f"look at what stands behind block {end}",
    )


@finder("unused-parameters")
def unused(subject: Subject) -> Iterator[Finding]:
    """Find parameters that get no gradient in any recorded step.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = subject.parameters
    if not (rows["grad_norm"] >= 0).any():
        return
    reached = rows["grad_norm"].notna().groupby(rows["name"], sort=False).any()
    names = [str(name) for name in reached.index[~reached]]
    if subject.model is not None:
        trainable = {name for name, p in subject.model.named_parameters() if p.requires_grad}
        names = [name for name in names if name in trainable]
    if names:
        yield Finding(
            "unused-parameters",
            "info",
            subject.network,
            f"{counted(len(names), 'parameter')} got no gradient in any recorded step",
            subject.where(names=names),
            {"parameters": Measured(float(len(names)))},
            "they are frozen, or the loss does not depend on them",
            "leave them out of the optimizer if that is meant",
        )
