"""Records, results and ledgers as tables of a terminal, and verdicts as exit codes."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from sigprop.cli import failures
from sigprop.cli.console import out
from sigprop.records import Records
from sigprop.reporting.story import forward_clause
from sigprop.reporting.summary import summarize
from sigprop.reporting.tables import TABLES
from sigprop.verification.intervals import UNDECIDED, VIOLATED
from sigprop.verification.result import Result
from sigprop.words import known

_MOMENTS = ["second_moment", "channel_variance", "mean_shift"]
_HEADS = {"dead_fraction": "dead units"}
_COLORS = {"holds": "green", "violated": "red"}


def exit_code(verdict: str) -> int:
    """Return 1 for a violated law, 3 for an undecided one, else 0."""
    return {VIOLATED: failures.VIOLATED, UNDECIDED: failures.UNDECIDED}.get(verdict, 0)


def print_blocks(records: Records) -> None:
    """Print one table per network: the signal at each block's output, as the report has it.

    Of a block with non-finite elements no moments are printed: they would be those of the finite
    rest. What is not finite, and from which block on, is said below the table.

    Args:
        records: rows of signals; their first recorded step is shown.
    """
    forward = TABLES["init_by_block"].build(records, None)
    back = TABLES["gradient_by_block"].build(records, None)
    gradient = back[["network", "block", "second_moment"]].rename(
        columns={"second_moment": "gradient"}
    )
    frame = forward.merge(gradient, on=["network", "block"], how="left")
    columns = [*_MOMENTS, "dead_fraction", "gradient"]
    for network, rows in frame.groupby("network", sort=False):
        table = Table(title=escape(str(network)), title_justify="left", box=None, pad_edge=False)
        table.header_style = "bold"
        table.add_column("block", overflow="fold")
        for column in columns:
            head = _HEADS.get(column, column.replace("_", " "))
            table.add_column(head, justify="right", no_wrap=True)
        for row in rows.to_dict("records"):
            numbers = [_short(row[column]) for column in columns]
            table.add_row(escape(f"{row['block']} {row['name']}"), *numbers)
        out.print(table)
    for facts in summarize(records).to_dict("records"):
        story = {str(name): value for name, value in facts.items()}
        if known(story["nonfinite_from_block"]):
            out.print(escape(f"{story['network']}: {forward_clause(story)}"), soft_wrap=True)


def print_result(result: Result) -> None:
    """Print a result: one line per block and stage, the likely cause, the verdict."""
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
        verdict = _painted(str(row["verdict"]))
        table.add_row(escape(block), law, measured, interval, *rest, verdict)
    out.print(table)
    if result.cause():
        out.print(f"likely cause: {escape(result.cause())}", soft_wrap=True)
    out.print(_painted(result.verdict, escape(result.headline())), soft_wrap=True)


def print_frame(frame: pd.DataFrame) -> None:
    """Print a frame as it is, numbers with four digits."""
    table = Table(box=None, header_style="bold")
    for name in frame:
        text = pd.api.types.is_string_dtype(frame[name])
        table.add_column(str(name).replace("_", " "), justify="left" if text else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(v) if isinstance(v, str) else _short(v) for v in row))
    out.print(table)


def print_ledger(summary: pd.DataFrame) -> None:
    """Print one line per claim, with the number that decides its verdict."""
    table = Table("claim", "number", box=None, header_style="bold")
    for column in ("predicted", "measured", "±"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in summary.to_dict("records"):
        numbers = [row.get(key) for key in ("predicted", "measured", "error")]
        shown = ["" if v is None or pd.isna(v) else f"{v:.5g}" for v in numbers]
        what = row.get("what")
        words = escape(what) if isinstance(what, str) else ""
        table.add_row(str(row["claim"]), words, *shown, str(row["verdict"]))
    out.print(table)


def _short(number: Any) -> str:
    return "-" if number is None or pd.isna(number) else f"{number:.4g}"


def _painted(verdict: str, words: str = "") -> str:
    color = _COLORS.get(verdict, "yellow")
    return f"[{color}]{words or verdict}[/{color}]"
