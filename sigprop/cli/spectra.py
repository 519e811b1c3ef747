"""``sigprop spectra``: singular values of weights, of Jacobians, and partial Jacobian norms."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import pandas as pd
import typer
from rich.markup import escape
from rich.table import Table

from sigprop import spectra as instruments
from sigprop.cli import arguments as given
from sigprop.cli.console import out, progress
from sigprop.experiments.measure import measure
from sigprop.inputs.devices import moved, resolve_device
from sigprop.inputs.factories import factory, initialize
from sigprop.records import Records, new_manifest, tidy


class Kind(StrEnum):
    """What the singular values are of."""

    weights = "weights"
    jacobian = "jacobian"
    density = "density"
    norms = "norms"


def spectra(
    names: given.Names,
    of: Annotated[
        Kind,
        typer.Option(
            help="weights; jacobian of a range of blocks; its spectral density; or norms, partial "
            "Jacobian norms at every block from random signs."
        ),
    ] = Kind.weights,
    start: Annotated[str, typer.Option(help="First module of the range; else the input.")] = "",
    stop: Annotated[str, typer.Option(help="Last module of the range; else the output.")] = "",
    largest: Annotated[int, typer.Option("-k", help="Only the k largest values; 0 for all.")] = 0,
    evaluation: Annotated[
        bool, typer.Option("--eval", help="Put the network in evaluation mode first.")
    ] = False,
    depth: given.Depth = 20,
    width: given.Width = 64,
    architecture: given.Architecture = "mlp",
    option: given.Options = [],
    data: given.DataName = "digits",
    inputs: given.InputShape = "",
    batch: given.BatchSize = 16,
    seeds: given.Seeds = 1,
    output: given.RunFolder = None,
    device: given.DeviceName = "auto",
) -> None:
    """Singular values of anyone's network at initialization: norms, ranks, condition numbers."""
    sample, _, shape = given.batch_of(data, inputs, batch)
    options = given.options_of(depth, width, architecture, option) | shape
    if of is Kind.norms:
        _print_norms(names, sample, seeds, options, device)
        return
    chosen = resolve_device(device)
    k = largest or None
    frames = []
    with progress() as bar:
        work = [(name, seed) for name in names for seed in range(seeds)]
        for name, seed in bar.track(work, description="decomposing"):
            model = initialize(factory(name, **options), seed, chosen).train(not evaluation)
            if of is Kind.weights:
                found = instruments.weights(model, k)
            else:
                found = instruments.jacobian(
                    model,
                    moved(sample, chosen),
                    start or None,
                    stop or None,
                    k,
                    density=of is Kind.density,
                    batch_statistics=True,
                    device=chosen,
                )
            frames.append(found.assign(network=name, seed=seed))
    records = Records(
        spectra=tidy("spectra", pd.concat(frames)),
        manifest=new_manifest(networks=names, seeds=list(range(seeds)), device=str(chosen)),
    )
    _print(instruments.summary(records.spectra), "operators", _NUMBERS)
    if output is not None:
        out.print(f"saved to {records.save(output)}", soft_wrap=True)


#: Column -> its head in the terminal.
_HEADS = {
    "size": "values",
    "spectral_norm": "σ max",
    "smallest": "σ min",
    "condition_number": "condition",
    "stable_rank": "stable rank",
    "effective_rank": "eff. rank",
    "norm": "‖∂h_L/∂h_l‖²/n_L",
}
_NUMBERS = tuple(_HEADS)[:-1]


def _print_norms(
    names: list[str], sample: Any, seeds: int, options: dict[str, object], device: str
) -> None:
    from sigprop.theory import decay_fits

    with progress() as bar:
        for name in bar.track(names, description="measuring"):
            records = measure(
                name, sample, seeds=seeds, network=name, options=options, spectra=False,
                cotangent="rademacher", device=device,
            )  # fmt: skip
            table = instruments.jacobian_norms(records)
            _print(table.rename(columns={"module": "name"}), "blocks", ("norm", "low", "high"))
            if len(table) >= 3 and (table["norm"] > 0).all():
                best = decay_fits(table["block"] + 1, table["norm"])[0]
                out.print(
                    f"{escape(name)}: of exponential, power law and stretched exponential over "
                    f"depth, {best.name} fits best (rate {best.rate:.3g}, residual "
                    f"{best.error:.2g} in the logarithm)\n",
                    soft_wrap=True,
                )


def _print(frame: pd.DataFrame, what: str, numbers: tuple[str, ...]) -> None:
    """Print one table per network, averaged over seeds."""
    columns = list(numbers)
    for network, rows in frame.groupby("network", sort=False):
        mean = rows.groupby("name", sort=False)[columns].mean()
        table = Table(title=escape(str(network)), title_justify="left", box=None, pad_edge=False)
        table.header_style = "bold"
        table.add_column(what, overflow="fold")
        for column in columns:
            table.add_column(_HEADS.get(column, column), justify="right", no_wrap=True)
        for name, row in mean.iterrows():
            table.add_row(escape(str(name)), *(_short(row[column]) for column in columns))
        out.print(table)


def _short(number: float) -> str:
    return "" if pd.isna(number) else f"{number:.4g}"
