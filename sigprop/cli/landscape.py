"""``sigprop landscape``: the loss along the gradient, during training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import nn
from torch.nn import functional

from sigprop.cli import arguments as given
from sigprop.cli.console import out
from sigprop.cli.observing import observed
from sigprop.cli.tables import print_frame
from sigprop.experiments.training import Plan
from sigprop.inputs.batching import Batch
from sigprop.landscape import scan, summary


def landscape(
    names: given.Names,
    output: given.Output,
    depth: given.Depth = 20,
    width: given.Width = 64,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 100,
    every: Annotated[int, typer.Option(help="Steps between scans.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Rate of SGD.")] = 0.01,
    batch_size: given.BatchSize = 64,
    largest: Annotated[float, typer.Option(help="Largest step, in gradients.")] = 0.4,
    points: Annotated[int, typer.Option(help="Steps that are tried, up to the largest.")] = 8,
    resume: given.Resume = False,
    device: given.DeviceName = "auto",
) -> None:
    """Loss band, gradient predictiveness and smoothness along the gradient (Santurkar et al.)."""
    etas = np.linspace(largest / max(1, points), largest, max(1, points)).tolist()

    def look(model: nn.Module, batch: Batch, _: torch.optim.Optimizer) -> pd.DataFrame:
        return scan(model, functional.cross_entropy, batch, etas, device=device)

    plan = Plan(steps, learning_rate, batch_size=batch_size, schedule="constant")
    options = given.options_of(depth, width, architecture, option)
    path = Path(output) / "landscape.csv"
    found = observed(
        names,
        data,
        look,
        plan,
        path,
        every=every,
        options=options,
        device=device,
        resume=resume,
    )
    print_frame(summary(found, by=["network", "step"]))
    out.print(f"saved to {path}", soft_wrap=True)
