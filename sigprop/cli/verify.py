"""``sigprop verify``: a law of signal propagation, tested block by block."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sigprop.cli import arguments as given
from sigprop.cli.console import out
from sigprop.cli.tables import exit_code, print_result
from sigprop.verification.verify import verify as verify_law


def verify(
    name: given.Name,
    law: Annotated[
        str,
        typer.Option(
            help="preserved, preserved:channel_variance, gradient-preserved, jacobian-preserved, "
            "doubling, equal-shares, equal-parameter-gradients, predicted."
        ),
    ] = "preserved",
    depth: given.Depth = 20,
    width: given.Width = 128,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    inputs: given.InputShape = "",
    batch: given.BatchSize = 256,
    seeds: Annotated[
        str, typer.Option(help="Initializations to judge from; auto: as many as decide.")
    ] = "auto",
    tolerance: Annotated[float, typer.Option(help="Relative deviation that still holds.")] = 0.05,
    blocks: given.Blocks = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    device: given.DeviceName = "auto",
) -> int:
    """Test a law, block by block; exit code 0 holds, 1 violated, 3 undecided."""  # noqa: DOC201 - it is the text of --help
    batch_inputs, _, shape = given.batch_of(data, inputs, batch)
    options = given.options_of(depth, width, architecture, option) | shape
    result = verify_law(
        name,
        batch_inputs,
        law,
        given.count_or_auto(seeds),
        tolerance,
        blocks=blocks,
        options=options,
        device=device,
    )
    if as_json:
        out.print_json(json.dumps(result.as_dict(), allow_nan=False))
    else:
        print_result(result)
    return exit_code(result.verdict)
