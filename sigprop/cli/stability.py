"""``sigprop stability``: sharpness during training, beside the line of the optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import nn
from torch.nn import functional

from sigprop.cli import arguments as given
from sigprop.cli.console import out
from sigprop.cli.observing import observed
from sigprop.cli.tables import print_frame
from sigprop.curvature import look_at_stability
from sigprop.experiments.training import Plan
from sigprop.inputs.batching import Batch


def stability(
    names: given.Names,
    output: given.Output,
    depth: given.Depth = 20,
    width: given.Width = 64,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 100,
    every: Annotated[int, typer.Option(help="Steps between measurements.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Rate of SGD.")] = 0.01,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = 0.0,
    batch_size: given.BatchSize = 64,
    samples: Annotated[int, typer.Option(help="Training samples of the Hessian.")] = 256,
    resume: given.Resume = False,
    device: given.DeviceName = "auto",
) -> None:
    """The largest Hessian eigenvalue while SGD trains, and the line above which it diverges."""

    def look(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> pd.DataFrame:
        return look_at_stability(model, functional.cross_entropy, batch, optimizer, device=device)

    plan = Plan(steps, learning_rate, momentum, batch_size=batch_size, schedule="constant")
    options = given.options_of(depth, width, architecture, option)
    path = Path(output) / "stability.csv"
    found = observed(
        names,
        data,
        look,
        plan,
        path,
        every=every,
        samples=samples,
        options=options,
        device=device,
        resume=resume,
    )
    print_frame(found)
    out.print(f"saved to {path}", soft_wrap=True)
