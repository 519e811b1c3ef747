"""``sigprop claims``: what the papers claim, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import TextColumn
from rich.table import Table

from sigprop.cli import arguments as given
from sigprop.cli.console import err, out, progress
from sigprop.cli.tables import exit_code, print_ledger

if TYPE_CHECKING:
    from sigprop.claims import Claim, Outcome


def claims(
    names: Annotated[list[str] | None, typer.Argument(help="Names or tags; all if none.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the claims; run none.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for table, figures, JSON.", parser=given.folder, metavar="FOLDER"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 1,
    seed_base: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    device: given.DeviceName = "auto",
) -> int:
    """Measure what the papers claim; exit code 0 holds, 1 violated, 3 undecided."""  # noqa: DOC201 - it is the text of --help
    from sigprop import claims as book  # half a second of imports that no other command needs

    picked = book.select_claims(names or ())
    if listing:
        _list(picked)
        return 0
    with progress(TextColumn("{task.fields[news]}")) as bar:
        task = bar.add_task("claims", total=len(picked), news="")

        def show(name: str, done: int, of: int, outcome: Outcome | None) -> None:
            news = name if outcome is None else f"{name}: {outcome.verdict}"
            bar.update(task, completed=done, news=news)

        ledger = book.run(names or (), show, seed_base, jobs=jobs, device=device)
    if as_json:
        out.print_json(json.dumps(ledger.as_dict()))
    else:
        print_ledger(ledger.summary)
        out.print(", ".join(f"{count} {verdict}" for verdict, count in ledger.counts.items()))
    if output is not None:
        err.print(f"saved to {ledger.save(output)}", soft_wrap=True)
    return exit_code(ledger.verdict)


def _list(picked: list[Claim]) -> None:
    table = Table("claim", "tags", "title", box=None, header_style="bold")
    for one in picked:
        table.add_row(one.name, " ".join(one.tags), escape(one.title))
    out.print(table)
