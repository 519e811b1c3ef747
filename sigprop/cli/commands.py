"""The command line: turns words into calls of the library. The only file that prints."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sigprop import networks as zoo
from sigprop.errors import BadInput, SigpropError
from sigprop.experiments import training
from sigprop.experiments.compare import compare as compare_networks
from sigprop.experiments.measure import measure as measure_network
from sigprop.inputs.datasets import resolve
from sigprop.inputs.factories import factory, initialize
from sigprop.probing.check import check as check_model
from sigprop.records import Records, concat, load
from sigprop.reporting import report as write_report
from sigprop.verification.intervals import VIOLATED
from sigprop.verification.result import Result
from sigprop.verification.verify import verify as verify_law

app = typer.Typer(
    help="Signal-propagation diagnostics for PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)
_BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

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
Blocks = Annotated[str, typer.Option(help="auto, leaves, or a glob over module names.")]
Metric = Annotated[
    list[str], typer.Option("--metric", help="Compute only these numbers; repeatable.")
]
InputShape = Annotated[
    str, typer.Option(help="Standard normal inputs of this shape instead of data: 16,3,32,32.")
]
Batch = Annotated[int, typer.Option(help="Samples in a batch.")]


@app.command(epilog="Example: [b]sigprop networks[/b]")
def networks() -> None:
    """List the networks of the zoo and their own options."""
    table = Table("network", "own options", "what it is", box=None, header_style="bold")
    for name in zoo.names():
        own = ", ".join(f"{key}={value}" for key, value in zoo.options(name).items())
        about = (inspect.getdoc(zoo.NETWORKS[name]) or "").split("\n")[0].removeprefix("Return ")
        table.add_row(name, escape(own) or "-", escape(about))
    out.print(table)


@app.command(
    epilog="Example: [b]sigprop measure rescale plain --depth 50 --seeds 3[/b]  |  "
    "[b]sigprop measure mypkg.models:make --inputs 16,3,32,32[/b]"
)
def measure(
    names: Names,
    depth: Depth = 20,
    width: Width = 64,
    architecture: Architecture = "mlp",
    option: Options = [],
    data: DataName = "digits",
    inputs: InputShape = "",
    batch: Batch = 256,
    seeds: Seeds = 3,
    blocks: Blocks = "auto",
    metric: Metric = [],
    output: Annotated[Path | None, typer.Option(help="Save the records as a run folder.")] = None,
) -> None:
    """One forward and backward pass at initialization: how the signal travels, block by block."""
    batch_inputs, targets, shape = _batch(data, inputs, batch)
    options = _options(depth, width, architecture, option) | shape

    def one(name: str) -> Records:
        return measure_network(
            name,
            batch_inputs,
            targets,
            seeds=seeds,
            network=name,
            blocks=blocks,
            metrics=metric,
            options=options,
        )

    with Progress(*_BAR, console=err) as bar:
        records = concat([one(name) for name in bar.track(names, description="measuring")])
    _print_blocks(records)
    if output is not None:
        out.print(f"saved to {records.save(output)}", soft_wrap=True)


@app.command(
    epilog="Example: [b]sigprop compare plain batchnorm rescale --depth 32 --output out[/b]"
)
def compare(
    names: Names,
    output: Annotated[Path, typer.Option(help="Folder for the run and the report.")],
    depth: Depth = 32,
    width: Width = 64,
    architecture: Architecture = "mlp",
    option: Options = [],
    data: DataName = "digits",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 200,
    seeds: Seeds = 3,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of SGD.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 64,
    schedule: Annotated[str, typer.Option(help="cosine, constant or step.")] = "cosine",
    warmup: Annotated[int, typer.Option(help="Steps of linear increase.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Steps between tests; 0: at the end.")] = 20,
    blocks: Blocks = "auto",
    metric: Metric = [],
    resume: Annotated[bool, typer.Option(help="Go on with what is in the folder.")] = False,
) -> None:
    """Train networks side by side with a probe on each, and write the report."""
    plan = training.Plan(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        schedule=schedule,
        warmup=warmup,
        evaluate_every=evaluate_every,
    )
    with Progress(*_BAR, TextColumn("{task.fields[news]}"), console=err) as bar:
        tasks: dict[tuple[str, int], TaskID] = {}

        def show(label: str, seed: int, row: training.Progress) -> None:
            key = label, seed
            if key not in tasks:
                tasks[key] = bar.add_task(f"{label}, seed {seed}", total=steps, news="")
            news = f"{row.mode} loss {row.loss:.4g}, accuracy {row.accuracy:.0%}"
            bar.update(tasks[key], completed=row.step + 1, news=news)

        records = compare_networks(
            names,
            data,
            plan=plan,
            seeds=seeds,
            directory=output / "run",
            resume=resume,
            blocks=blocks,
            metrics=metric,
            options=_options(depth, width, architecture, option),
            on_progress=show,
        )
    out.print(f"report: {write_report(records, output)}", soft_wrap=True)


@app.command(
    epilog="Example: [b]sigprop verify rescale --depth 50 --seeds 16[/b]  |  "
    "[b]sigprop verify mypkg.models:make --inputs 64,128 --law gradient-preserved[/b]"
)
def verify(
    name: Annotated[str, typer.Argument(help="A name of the zoo, or [b]module:factory[/b].")],
    law: Annotated[
        str,
        typer.Option(
            help="preserved, preserved:channel_variance, gradient-preserved, doubling, predicted."
        ),
    ] = "preserved",
    depth: Depth = 20,
    width: Width = 128,
    architecture: Architecture = "mlp",
    option: Options = [],
    data: DataName = "digits",
    inputs: InputShape = "",
    batch: Batch = 256,
    seeds: Annotated[int, typer.Option(help="Initializations to judge from.")] = 16,
    tolerance: Annotated[float, typer.Option(help="Relative deviation that still holds.")] = 0.05,
    blocks: Blocks = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Test a law of signal propagation, block by block; exit code 1 when it is violated."""
    batch_inputs, _, shape = _batch(data, inputs, batch)
    options = _options(depth, width, architecture, option) | shape
    result = verify_law(name, batch_inputs, law, seeds, tolerance, blocks=blocks, options=options)
    if as_json:
        out.print_json(json.dumps(result.as_dict(), allow_nan=False))
    else:
        _print_result(result)
    return int(result.verdict == VIOLATED)


@app.command(
    epilog="Example: [b]sigprop check mypkg.models:make --inputs 4,3,32,32[/b]  |  "
    "[b]sigprop check rescale --architecture resnet[/b]"
)
def check(
    name: Annotated[str, typer.Argument(help="A name of the zoo, or [b]module:factory[/b].")],
    depth: Depth = 4,
    width: Width = 64,
    architecture: Architecture = "mlp",
    option: Options = [],
    data: DataName = "digits",
    inputs: InputShape = "",
    batch: Batch = 16,
    blocks: Blocks = "auto",
) -> None:
    """What a probe will see of a model, what not and why: its tree with the blocks chosen."""
    batch_inputs, _, shape = _batch(data, inputs, batch)
    options = _options(depth, width, architecture, option) | shape
    model = initialize(factory(name, **options), seed=0)
    out.print(escape(str(check_model(model, batch_inputs, blocks=blocks))), soft_wrap=True)


@app.command(epilog="Example: [b]sigprop claims rescale-preserves law --output reports/claims[/b]")
def claims(
    names: Annotated[list[str] | None, typer.Argument(help="Names or tags; all if none.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the claims; run none.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for table, figures, JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 1,
    seed_base: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
) -> int:
    """Measure what the papers claim; exit code 1 when a claim is violated."""
    from sigprop import claims as book  # half a second of imports that no other command needs

    picked = book.select_claims(names or ())
    if listing:
        table = Table("claim", "row", "tags", "title", box=None, header_style="bold")
        for one in picked:
            table.add_row(one.name, one.row, " ".join(one.tags), escape(one.title))
        out.print(table)
        return 0
    with Progress(*_BAR, TextColumn("{task.fields[news]}"), console=err) as bar:
        task = bar.add_task("claims", total=len(picked), news="")

        def show(name: str, done: int, of: int, outcome: book.Outcome | None) -> None:
            news = name if outcome is None else f"{name}: {outcome.verdict}"
            bar.update(task, completed=done, news=news)

        ledger = book.run(names or (), show, seed_base, jobs=jobs)
    if as_json:
        out.print_json(json.dumps(ledger.as_dict()))
    else:
        _print_ledger(ledger.summary)
        out.print(", ".join(f"{count} {verdict}" for verdict, count in ledger.counts.items()))
    if output is not None:
        err.print(f"saved to {ledger.save(output)}", soft_wrap=True)
    return int(ledger.verdict == VIOLATED)


@app.command(epilog="Example: [b]sigprop report runs/a runs/b --output reports/a-and-b[/b]")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; those below them count too.")],
    output: Annotated[Path, typer.Option(help="Folder for report.html, figures/ and tables/.")],
    figure: Annotated[list[str], typer.Option(help="Only these figures; repeatable.")] = [],
    title: Annotated[str, typer.Option(help="Headline of the page.")] = "",
) -> None:
    """Draw the report of one or several recorded runs."""
    records = load(*runs)
    for sentence in records.missing:
        err.print(f"[yellow]missing:[/yellow] {escape(sentence)}")
    page = write_report(records, output, figures=figure or None, title=title or None)
    out.print(f"report: {page}", soft_wrap=True)


def _batch(data: str, inputs: str, batch: int) -> tuple[torch.Tensor, Any, dict[str, Any]]:
    """Return (inputs, targets, what the zoo needs to know of them)."""
    if not inputs:
        task = resolve(data)
        x, y = next(task.batches(seed=0, batch_size=batch))
        return x, y, {"inputs": task.shape, "classes": task.classes}
    try:
        shape = tuple(int(n) for n in inputs.split(","))
    except ValueError:
        raise BadInput(f"--inputs is a shape such as 16,3,32,32, not {inputs!r}") from None
    if len(shape) < 2 or min(shape) < 1:
        raise BadInput(f"--inputs is (samples, ...) of positive sizes, not {inputs!r}")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x, None, {"inputs": shape[1:]}


def _options(depth: int, width: int, architecture: str, extra: list[str]) -> dict[str, object]:
    options: dict[str, object] = {"depth": depth, "width": width, "architecture": architecture}
    for item in extra:
        name, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"--option is name=value, not {item!r}")
        options[name] = _value(value)
    return options


def _value(text: str) -> object:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _print_blocks(records: Records) -> None:
    signals = records.signals.query("port == 'out'")
    keys = ["network", "block"]
    named = signals[signals["name"].isin(records.signals.query("port == 'in'")["name"])]
    forward, back = (
        named[named["direction"] == side].groupby(keys) for side in ("forward", "backward")
    )
    inside = signals[signals["dead_fraction"].notna()].groupby(keys)
    frame = forward[["second_moment", "channel_variance", "mean_shift"]].mean()
    frame["dead units"] = inside["dead_fraction"].mean()
    frame["gradient"] = back["second_moment"].mean()
    for network, rows in frame.groupby(level=0, sort=False):
        table = Table(title=str(network), title_justify="left", box=None, header_style="bold")
        table.add_column("block", justify="right")
        for column in rows.columns:
            table.add_column(column.replace("_", " "), justify="right")
        for block, *numbers in rows.droplevel(0).itertuples():
            table.add_row(str(block), *(_short(number) for number in numbers))
        out.print(table)


def _print_result(result: Result) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("block")
    for column in ("law", "measured", "interval", "spread", "corr.", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in result.table.to_dict("records"):
        block = str(row["block"]) if row["block"] >= 0 else str(row["name"])
        keys = ("predicted", "measured", "spread", "correlation", "share")
        law, measured, *rest = (_short(row.get(key)) for key in keys)
        interval = f"{_short(row.get('low'))} .. {_short(row.get('high'))}"
        table.add_row(block, law, measured, interval, *rest, _painted(str(row["verdict"])))
    out.print(table)
    if result.cause():
        out.print(f"likely cause: {escape(result.cause())}")
    out.print(_painted(result.verdict, escape(result.headline())))


def _short(number: Any) -> str:
    return "-" if number is None or pd.isna(number) else f"{number:.4g}"


def _painted(verdict: str, words: str = "") -> str:
    color = {"holds": "green", "violated": "red"}.get(verdict, "yellow")
    return f"[{color}]{words or verdict}[/{color}]"


def _print_ledger(summary: pd.DataFrame) -> None:
    table = Table("claim", "row", "number", box=None, header_style="bold")
    for column in ("predicted", "measured", "±"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in summary.to_dict("records"):
        numbers = [row.get(key) for key in ("predicted", "measured", "error")]
        shown = ["" if v is None or pd.isna(v) else f"{v:.5g}" for v in numbers]
        what = row.get("what")
        words = escape(what) if isinstance(what, str) else ""
        number = str(row["number"]).removeprefix("row ")
        table.add_row(str(row["claim"]), number, words, *shown, str(row["verdict"]))
    out.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; errors of ours become one sentence and exit code 2.

    Returns:
        The exit code: 0, or 1 when a law is violated, or 2 on bad arguments.
    """
    run: Callable[..., Any] = typer.main.get_command(app)
    try:
        code = run(args=arguments, prog_name="sigprop", standalone_mode=False)
    except SigpropError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    sys.exit(int(code or 0))
