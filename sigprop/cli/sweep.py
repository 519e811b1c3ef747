"""``sigprop sweep``: networks at many depths, widths and seeds, on several processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TextColumn

from sigprop.cli import arguments as given
from sigprop.cli.console import err, out, progress
from sigprop.cli.tables import print_frame
from sigprop.errors import BadInput
from sigprop.experiments.run_cell import Outcome
from sigprop.experiments.sweep import sweep as run_sweep
from sigprop.experiments.train_cell import train_cell
from sigprop.experiments.training import Plan
from sigprop.records.spreadsheet import csv_text

_FAILED = 1


def sweep(
    names: given.Names,
    output: given.Output,
    depths: Annotated[str, typer.Option(help="Depths, as 4,16,64.")] = "4,16",
    widths: Annotated[str, typer.Option(help="Widths, as 32,64.")] = "64",
    seeds: given.Seeds = 1,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 100,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of SGD.")] = 0.01,
    batch_size: given.BatchSize = 64,
    jobs: Annotated[int, typer.Option(help="Processes, of one thread each.")] = 1,
    device: given.DeviceName = "auto",
) -> int:
    """Train networks at every depth, width and seed; started again, it goes on where it was.

    Exit code 1 if a cell failed.
    """  # noqa: DOC201 - it is the text of --help
    axes: list[Sequence[Any]] = [
        names,
        _numbers("depths", depths),
        _numbers("widths", widths),
        range(seeds),
    ]
    grid = dict(zip(("network", "depth", "width", "seed"), axes, strict=True))
    options = given.options_of(1, 1, architecture, option)
    plan = Plan(steps, learning_rate, batch_size=batch_size)
    train = partial(train_cell, data=data, plan=plan, options=options, device=device)
    with progress(TextColumn("{task.fields[news]}")) as bar:
        task = bar.add_task("cells", total=math.prod(map(len, axes)), news="")

        def show(outcome: Outcome) -> None:
            bar.update(task, advance=1, news=outcome.error or "")

        result = run_sweep(grid, train, output, jobs=jobs, on_cell=show)
    print_frame(result.cells.drop(columns=["folder"]))
    path = Path(output) / "cells.csv"
    path.write_text(csv_text(result.cells), "utf-8", newline="")
    for name, trace in result.traces.items():
        err.print(f"{name} failed:\n{trace}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"saved to {path}", soft_wrap=True)
    return _FAILED if len(result.failed) else 0


def _numbers(name: str, text: str) -> list[int]:
    """Return whole numbers.

    Raises:
        BadInput: they are none.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--{name} are whole numbers such as 4,16,64, not {text!r}") from None
