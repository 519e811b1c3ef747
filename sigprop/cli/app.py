"""The commands joined into one program, and its exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape

import sigprop
from sigprop.cli.check import check
from sigprop.cli.claims import claims
from sigprop.cli.compare import compare
from sigprop.cli.console import OutputError, checked_output, err, give_up_output, out
from sigprop.cli.diagnose import diagnose
from sigprop.cli.failures import INTERRUPTED, failure_of, python_version
from sigprop.cli.landscape import landscape
from sigprop.cli.measure import measure
from sigprop.cli.networks import networks
from sigprop.cli.report import report
from sigprop.cli.sharpness import sharpness_command
from sigprop.cli.spectra import spectra
from sigprop.cli.stability import stability
from sigprop.cli.sweep import sweep
from sigprop.cli.verify import verify

app = typer.Typer(
    help="Signal-propagation diagnostics for PyTorch.",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, or a law holds; 1 a law is violated, or a finding; "
    "2 bad arguments; 3 undecided.  |  Example: [b]sigprop measure rescale plain --depth 50[/b]",
)

#: Command -> the examples that its help shows.
_COMMANDS: dict[Callable[..., Any], list[str]] = {
    networks: ["sigprop networks"],
    measure: [
        "sigprop measure rescale plain --depth 50 --seeds 3",
        "sigprop measure mypkg.models:make --inputs 16,3,32,32",
    ],
    compare: ["sigprop compare plain batchnorm rescale --depth 32 --output out"],
    verify: [
        "sigprop verify rescale --depth 50",
        "sigprop verify mypkg.models:make --inputs 64,128 --law gradient-preserved",
    ],
    check: [
        "sigprop check mypkg.models:make --inputs 4,3,32,32",
        "sigprop check rescale --architecture resnet",
    ],
    diagnose: [
        "sigprop diagnose mypkg.models:make --inputs 64,128",
        "sigprop diagnose runs/mine --json --fail-on warning",
    ],
    landscape: ["sigprop landscape plain batchnorm rescale --output out/landscape"],
    stability: ["sigprop stability batchnorm --learning-rate 0.1 --output out/stability"],
    spectra: [
        "sigprop spectra rescale plain --depth 10",
        "sigprop spectra mypkg.models:make --inputs 4,3,32,32 --of jacobian --stop layer2 -k 5",
    ],
    sweep: ["sigprop sweep plain rescale --depths 4,16,64 --seeds 3 --jobs 2 --output runs/sweep"],
    claims: ["sigprop claims rescale-preserves law --output reports/claims"],
    report: ["sigprop report runs/a runs/b --output reports/a-and-b"],
}
for _command, _examples in _COMMANDS.items():
    _epilog = "Example: " + "  |  ".join(f"[b]{example}[/b]" for example in _examples)
    app.command(epilog=_epilog)(_command)
app.command("sharpness", epilog="Example: [b]sigprop sharpness plain batchnorm rescale -k 3[/b]")(
    sharpness_command
)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(
            f"sigprop {sigprop.__version__} (torch {torch.__version__}, Python {python_version()})",
            highlight=False,
        )
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        out.print(context.get_help(), end="")
        raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process.

    Args:
        arguments: what follows the program's name; those of the process when not given.

    Raises:
        SystemExit: with code 0 (done, or a law holds), 1 (a law is violated), 2 (bad arguments,
            said in one sentence on standard error; an exception of the user's own code shows its
            lines below), 3 (undecided), 70 (a fault of this library) or 130 (interrupted).
    """
    try:
        with checked_output():
            code = _run(arguments)
    except OutputError as error:
        give_up_output()
        code = _say(error)
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    run: Callable[..., Any] = typer.main.get_command(app)
    try:
        code = int(run(args=arguments, prog_name="sigprop", standalone_mode=False) or 0)
    except OutputError:
        raise
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        return _say(error)
    if code == INTERRUPTED:
        err.print("[red]error:[/red] interrupted")
    return code


def _say(error: Exception) -> int:
    """Return the exit code of an error; print its sentence, and the user's own lines in it."""
    failure = failure_of(error)
    err.print(f"[red]error:[/red] {escape(failure.sentence)}", soft_wrap=True, highlight=False)
    if failure.frames:
        err.print(escape(failure.frames), soft_wrap=True, highlight=False)
    return failure.code
