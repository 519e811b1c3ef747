"""``sigprop compare``: networks trained side by side, and the report of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID, TextColumn

from sigprop.cli import arguments as given
from sigprop.cli.console import out, progress
from sigprop.experiments.compare import compare as compare_networks
from sigprop.experiments.training import Plan, Progress
from sigprop.inputs.datasets import resolve
from sigprop.reporting import report


def compare(
    names: given.Names,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for the run and the report.", parser=given.folder, metavar="FOLDER"
        ),
    ],
    depth: given.Depth = 32,
    width: given.Width = 64,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 200,
    seeds: given.Seeds = 3,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of SGD.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 64,
    schedule: Annotated[str, typer.Option(help="cosine, constant or step.")] = "cosine",
    warmup: Annotated[int, typer.Option(help="Steps of linear increase.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Steps between tests; 0: at the end.")] = 20,
    blocks: given.Blocks = "auto",
    metric: given.Metric = [],
    resume: Annotated[bool, typer.Option(help="Go on with what is in the folder.")] = False,
    device: given.DeviceName = "auto",
) -> None:
    """Train networks side by side with a probe on each, and write the report."""
    plan = Plan(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        schedule=schedule,
        warmup=warmup,
        evaluate_every=evaluate_every,
    )
    task = resolve(data)
    given.say_unusual_batch(task, batch_size)
    with progress(TextColumn("{task.fields[news]}")) as bar:
        tasks: dict[tuple[str, int], TaskID] = {}

        def show(label: str, seed: int, row: Progress) -> None:
            key = label, seed
            if key not in tasks:
                tasks[key] = bar.add_task(f"{label}, seed {seed}", total=steps, news="")
            news = f"{row.mode} loss {row.loss:.4g}, accuracy {row.accuracy:.0%}"
            bar.update(tasks[key], completed=row.step + 1, news=news)

        records = compare_networks(
            names,
            task,
            plan=plan,
            seeds=seeds,
            directory=output / "run",
            resume=resume,
            blocks=blocks,
            metrics=metric,
            options=given.options_of(depth, width, architecture, option),
            on_progress=show,
            device=device,
        )
    out.print(f"report: {report(records, output)}", soft_wrap=True)
