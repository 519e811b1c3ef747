"""TensorBoard: a chart for each number, with a line for each block, and findings as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sigprop.diagnosis.finding import Findings
from sigprop.integrations.grouped import NO_FINDINGS, by_step, findings_text, package
from sigprop.records import Records


def write_tensorboard(records: Records, writer: Any, findings: Findings = NO_FINDINGS) -> None:
    """Write every step's numbers as scalars.

    Args:
        records: as of `sigprop.integrations.grouped.by_step`, which makes the tags.
        writer: a `torch.utils.tensorboard.SummaryWriter`, or a folder for one.
        findings: of `sigprop.diagnose`, written as text.

    Raises:
        BadInput: the package ``tensorboard`` is not installed.
    """
    own = isinstance(writer, str | Path)
    if own:
        package("tensorboard", "tensorboard")
        writer = package("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(writer))
    last = 0
    several = len(records.networks()) > 1
    for network, _, step, numbers in by_step(records):
        last = max(last, step)
        for key, number in numbers.items():
            writer.add_scalar(f"{key}/{network}" if several else key, number, step)
    for key, text in findings_text(findings).items():
        writer.add_text(f"findings/{key}", text, last)
    writer.flush()
    if own:
        writer.close()
