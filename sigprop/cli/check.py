"""``sigprop check``: what a probe will see of a model."""

from __future__ import annotations

from rich.markup import escape

from sigprop.cli import arguments as given
from sigprop.cli.console import out
from sigprop.inputs.factories import factory, initialize
from sigprop.probing.check import check as check_model


def check(
    name: given.Name,
    depth: given.Depth = 4,
    width: given.Width = 64,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    inputs: given.InputShape = "",
    batch: given.BatchSize = 16,
    blocks: given.Blocks = "auto",
    device: given.DeviceName = "auto",
) -> None:
    """What a probe will see of a model, what not and why: its tree with the blocks chosen."""
    batch_inputs, _, shape = given.batch_of(data, inputs, batch)
    options = given.options_of(depth, width, architecture, option) | shape
    model = initialize(factory(name, **options), seed=0)
    seen = check_model(model, batch_inputs, blocks=blocks, device=device)
    out.print(escape(str(seen)), soft_wrap=True)
