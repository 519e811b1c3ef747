"""``sigprop diagnose``: what is wrong, where, why, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sigprop.cli import arguments as given
from sigprop.cli.console import note, out
from sigprop.cli.failures import VIOLATED
from sigprop.cli.measure import measured
from sigprop.diagnosis.diagnose import diagnose as findings_of
from sigprop.diagnosis.finding import SEVERITIES, Finding, Findings, Severity
from sigprop.errors import UnknownName, suggestion
from sigprop.records import load

_COLORS = {"error": "red", "warning": "yellow", "info": "cyan"}


def diagnose(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, or networks to measure at initialization: names of the zoo, or "
            "your own as [b]module:factory[/b].",
            metavar="RUNS...",
        ),
    ],
    depth: given.Depth = 20,
    width: given.Width = 64,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    inputs: given.InputShape = "",
    batch: given.BatchSize = 256,
    seeds: given.Seeds = 3,
    blocks: given.Blocks = "auto",
    fail_on: Annotated[
        str, typer.Option(help="Exit with code 1 at this severity or worse: error, warning, info.")
    ] = "error",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    device: given.DeviceName = "auto",
) -> int:
    """What is wrong with a run or a network: where, why, what to do; exit code 1 for findings."""  # noqa: DOC201 - it is the text of --help
    worst = _severity(fail_on)
    folders = [run for run in runs if Path(run).is_dir()]
    names = [run for run in runs if run not in folders]
    found: list[Finding] = []
    if folders:
        records = load(*(Path(run) for run in folders))
        for sentence in records.missing:
            note(f"missing: {sentence}")
        found += findings_of(records)
    if names:
        batch_inputs, targets, shape = given.batch_of(data, inputs, batch)
        options = given.options_of(depth, width, architecture, option) | shape
        for records in measured(names, batch_inputs, targets, seeds, blocks, (), options, device):
            found += findings_of(records)
    findings = Findings(found)
    if as_json:
        out.print_json(findings.to_json())
    elif findings:
        for one in findings:
            _print(one)
    else:
        out.print("[green]no findings[/green]")
    return VIOLATED if findings.at_least(worst) else 0


def _severity(name: str) -> Severity:
    for severity in SEVERITIES:
        if name == severity:
            return severity
    raise UnknownName(f"no severity is called {name!r}; {suggestion(name, SEVERITIES)}")


def _print(finding: Finding) -> None:
    first, _, rest = str(finding).partition("\n")
    color = _COLORS[finding.severity]
    title = f"{finding.network}: {first}"
    out.print(f"[{color}]{escape(title)}[/{color}]", soft_wrap=True, highlight=False)
    out.print(escape(rest), soft_wrap=True, highlight=False)
