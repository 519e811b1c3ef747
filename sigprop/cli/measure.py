"""``sigprop measure``: one forward and one backward pass at initialization."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sigprop.cli import arguments as given
from sigprop.cli.console import out, progress
from sigprop.cli.tables import print_blocks
from sigprop.experiments.measure import measure as measure_network
from sigprop.records import concat


def measure(
    names: given.Names,
    depth: given.Depth = 20,
    width: given.Width = 64,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    inputs: given.InputShape = "",
    batch: given.BatchSize = 256,
    seeds: given.Seeds = 3,
    blocks: given.Blocks = "auto",
    metric: given.Metric = [],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Save the records as a run folder.", parser=given.folder, metavar="FOLDER"
        ),
    ] = None,
    device: given.DeviceName = "auto",
) -> None:
    """One forward and backward pass at initialization: how the signal travels, block by block."""
    batch_inputs, targets, shape = given.batch_of(data, inputs, batch)
    options = given.options_of(depth, width, architecture, option) | shape
    with progress() as bar:
        found = [
            measure_network(
                name,
                batch_inputs,
                targets,
                seeds=seeds,
                network=name,
                blocks=blocks,
                metrics=metric,
                options=options,
                device=device,
            )
            for name in bar.track(names, description="measuring")
        ]
    records = concat(found)
    print_blocks(records)
    if output is not None:
        out.print(f"saved to {records.save(output)}", soft_wrap=True)
