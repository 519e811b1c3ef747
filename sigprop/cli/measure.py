"""``sigprop measure``: one forward and one backward pass at initialization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from sigprop.cli import arguments as given
from sigprop.cli.console import out, progress
from sigprop.cli.tables import print_blocks
from sigprop.experiments.measure import measure as measure_network
from sigprop.records import Records, concat


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
    output: given.RunFolder = None,
    device: given.DeviceName = "auto",
) -> None:
    """One forward and backward pass at initialization: how the signal travels, block by block."""
    batch_inputs, targets, shape = given.batch_of(data, inputs, batch)
    options = given.options_of(depth, width, architecture, option) | shape
    found = measured(names, batch_inputs, targets, seeds, blocks, metric, options, device)
    records = concat(list(found))
    print_blocks(records)
    if output is not None:
        out.print(f"saved to {records.save(output)}", soft_wrap=True)


def measured(
    names: Sequence[str],
    inputs: Tensor,
    targets: Tensor | None,
    seeds: int,
    blocks: str,
    metrics: Sequence[str],
    options: Mapping[str, object],
    device: str,
) -> Iterator[Records]:
    """Yield the records of each network at initialization, with a progress bar.

    Args:
        names: of the zoo, or ``module:factory``.
        inputs: one batch (N, ...).
        targets: of the same samples, or None.
        seeds: initializations of each.
        blocks: what to record, as in `sigprop.attach`.
        metrics: the only numbers to compute; all when empty.
        options: of the zoo's networks.
        device: as in `sigprop.measure`.

    Yields:
        One `Records` per name.
    """
    with progress() as bar:
        for name in bar.track(names, description="measuring"):
            yield measure_network(
                name,
                inputs,
                targets,
                seeds=seeds,
                network=name,
                blocks=blocks,
                metrics=metrics,
                options=options,
                device=device,
            )
