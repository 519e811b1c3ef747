"""JSON lines: one object a step, for `jq`, pandas and every log collector."""

from __future__ import annotations

import json
import math
from pathlib import Path

from sigprop.diagnosis.finding import Findings
from sigprop.integrations.grouped import NO_FINDINGS, by_step
from sigprop.records import Records


def write_json_lines(records: Records, path: str | Path, findings: Findings = NO_FINDINGS) -> None:
    """Append a line for each step, and one for each finding.

    Args:
        records: as of `sigprop.integrations.grouped.by_step`, which makes the keys.
        path: of the file.
        findings: of `sigprop.diagnose`.

    Example:
        >>> import tempfile
        >>> from sigprop.records import tidy
        >>> rows = tidy("training", [{"network": "net", "step": 3, "loss": 0.5, "mode": "train"}])
        >>> path = Path(tempfile.mkdtemp()) / "run.jsonl"
        >>> write_json_lines(Records(training=rows), path)
        >>> print(path.read_text().strip())
        {"network": "net", "seed": 0, "step": 3, "train/loss": 0.5}
    """
    with Path(path).open("a", encoding="utf-8") as file:
        for network, seed, step, numbers in by_step(records):
            finite = {key: _finite(number) for key, number in numbers.items()}
            line = {"network": network, "seed": seed, "step": step, **finite}
            file.write(json.dumps(line) + "\n")
        for one in json.loads(findings.to_json()):
            file.write(json.dumps({"finding": one["id"], **one}) + "\n")


def _finite(number: float) -> float | str:
    """Return a number as JSON has it: it has none that are infinite."""
    return number if math.isfinite(number) else str(number)
