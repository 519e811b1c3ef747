"""Arguments that several commands share, and what they mean to the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from sigprop.cli.console import note
from sigprop.errors import BadInput
from sigprop.inputs.batching import length
from sigprop.inputs.datasets import Data, resolve
from sigprop.inputs.devices import normal


def folder(text: str) -> Path:
    """Return a folder's path.

    Raises:
        typer.BadParameter: it is empty, which would mean the current folder.
    """
    if not text.strip():
        raise typer.BadParameter("the name is empty, give one, or '.' for the current folder")
    return Path(text)


def count_or_auto(text: str) -> int | Literal["auto"]:
    """Return a number of seeds, or ``"auto"``.

    Raises:
        typer.BadParameter: it is neither.
    """
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"seeds is a number or 'auto', not {text!r}") from None


Output = Annotated[
    Path, typer.Option(help="Folder of the results.", parser=folder, metavar="FOLDER")
]
Resume = Annotated[bool, typer.Option(help="Go on with what is in the folder.")]
Name = Annotated[str, typer.Argument(help="A name of the zoo, or [b]module:factory[/b].")]
Names = Annotated[
    list[str], typer.Argument(help="Names of the zoo, or your own as [b]module:factory[/b].")
]
Depth = Annotated[int, typer.Option(help="Residual blocks (networks of the zoo).")]
Width = Annotated[int, typer.Option(help="Units, or channels of the first stage.")]
Architecture = Annotated[str, typer.Option(help="mlp, resnet or transformer.")]
Options = Annotated[
    list[str],
    typer.Option("--option", "-o", help="Any other option of the zoo, as name=value; repeatable."),
]
DataName = Annotated[str, typer.Option("--data", help="digits, fashion-mnist or an IDX folder.")]
Seeds = Annotated[int, typer.Option(help="Initializations per network.")]
RunFolder = Annotated[
    Path | None,
    typer.Option(help="Save what was recorded as a run folder.", parser=folder, metavar="FOLDER"),
]
Blocks = Annotated[str, typer.Option(help="auto, leaves, or a glob over module names.")]
Metric = Annotated[
    list[str], typer.Option("--metric", help="Compute only these numbers; repeatable.")
]
InputShape = Annotated[
    str, typer.Option(help="Standard normal inputs of this shape instead of data: 16,3,32,32.")
]
BatchSize = Annotated[int, typer.Option(help="Samples in a batch.")]
DeviceName = Annotated[
    str, typer.Option("--device", help="auto (CUDA, else MPS, else the CPU), cpu, cuda:1, ...")
]


def batch_of(data: str, inputs: str, batch: int) -> tuple[torch.Tensor, Any, dict[str, Any]]:
    """Return one batch, on the CPU.

    Args:
        data: name of a data set, or its folder.
        inputs: a shape ``"16,3,32,32"`` of standard normal inputs instead; empty for data.
        batch: number of samples.

    Returns:
        Inputs (N, ...), targets (N,) or None, and the options that a network of the zoo takes
        from them.

    Raises:
        BadInput: the shape or the number cannot be used, or the data is not there.
    """
    if not inputs:
        task = resolve(data)
        x, y = next(task.batches(seed=0, batch_size=batch))
        say_unusual_batch(task, batch)
        return x, y, {"inputs": task.shape, "classes": task.classes}
    try:
        shape = tuple(int(n) for n in inputs.split(","))
    except ValueError:
        raise BadInput(f"--inputs is a shape such as 16,3,32,32, not {inputs!r}") from None
    if len(shape) < 2 or min(shape) < 1:
        raise BadInput(f"--inputs is (samples, ...) of positive sizes, not {inputs!r}")
    return normal(shape, seed=0), None, {"inputs": shape[1:]}


def say_unusual_batch(task: Data, size: int) -> None:
    """Print a note where a batch has fewer samples than was asked for, or just one."""
    there = length(task.train)
    if size > there:
        note(f"{task.name} has {there} samples for training: a batch has these, not {size}")
    if size == 1:
        note("over a batch of one sample, channel variance is that of positions, or 0 without any")


def options_of(depth: int, width: int, architecture: str, extra: list[str]) -> dict[str, object]:
    """Return the options of a network of the zoo.

    Args:
        depth: number of residual blocks.
        width: units, or channels of the first stage.
        architecture: mlp, resnet or transformer.
        extra: ``name=value``, the value as JSON has it (2, 0.5, true, null) or else a word.

    Raises:
        BadInput: an item is not ``name=value``.
    """
    options: dict[str, object] = {"depth": depth, "width": width, "architecture": architecture}
    for item in extra:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise BadInput(f"--option is name=value, not {item!r}")
        options[name] = _value(value)
    return options


def _value(text: str) -> object:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
