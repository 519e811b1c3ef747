"""``sigprop report``: the page of recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sigprop.cli import arguments as given
from sigprop.cli.console import note, out
from sigprop.records import load
from sigprop.reporting import report as write_report


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders; those below them count too.", parser=given.folder, metavar="RUNS..."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for report.html, figures/ and tables/.",
            parser=given.folder,
            metavar="FOLDER",
        ),
    ],
    figure: Annotated[list[str], typer.Option(help="Only these figures; repeatable.")] = [],
    title: Annotated[str, typer.Option(help="Headline of the page.")] = "",
    linked: Annotated[
        bool, typer.Option("--linked", help="Put Plotly (1.5 MB) beside the page, not into it.")
    ] = False,
) -> None:
    """Draw the report of one or several recorded runs."""
    records = load(*runs)
    for sentence in records.missing:
        note(f"missing: {sentence}")
    page = write_report(records, output, figures=figure or None, title=title or None, linked=linked)
    out.print(f"report: {page}", soft_wrap=True)
