"""``sigprop sharpness``: the Hessian's largest eigenvalues at initialization."""

from __future__ import annotations

from typing import Annotated

import typer
from torch.nn import functional

from sigprop.cli import arguments as given
from sigprop.cli.console import progress
from sigprop.cli.tables import print_frame
from sigprop.curvature import critical_sharpness, sharpness
from sigprop.inputs.datasets import resolve
from sigprop.inputs.devices import resolve_device
from sigprop.inputs.factories import factory, initialize


def sharpness_command(
    names: given.Names,
    depth: given.Depth = 20,
    width: given.Width = 64,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    batch: given.BatchSize = 256,
    k: Annotated[int, typer.Option("--k", "-k", help="How many eigenvalues.")] = 3,
    seeds: given.Seeds = 1,
    device: given.DeviceName = "auto",
) -> None:
    """The largest eigenvalues of the loss's Hessian, and the critical sharpness of its gradient."""
    import pandas as pd

    task = resolve(data)
    given.say_unusual_batch(task, batch)
    samples = next(task.batches(seed=0, batch_size=batch))
    options = given.options_of(depth, width, architecture, option)
    options |= {"inputs": task.shape, "classes": task.classes}
    rows = []
    with progress() as bar:
        trials = [(name, seed) for name in names for seed in range(seeds)]
        for name, seed in bar.track(trials, description="multiplying by Hessians"):
            model = initialize(factory(name, **options), seed, resolve_device(device))
            values = sharpness(model, functional.cross_entropy, samples, k, device=device)
            along = critical_sharpness(model, functional.cross_entropy, samples, device=device)
            row = {"network": name, "seed": seed, "along the gradient": along}
            rows.append(row | {f"eigenvalue {i + 1}": value for i, value in enumerate(values)})
    print_frame(pd.DataFrame(rows))
