"""Records, results and ledgers as tables of a terminal, and verdicts as exit codes."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from sigprop.cli import failures
from sigprop.cli.console import out
from sigprop.records import Records
from sigprop.verification.intervals import UNDECIDED, VIOLATED
from sigprop.verification.result import Result

_COLORS = {"holds": "green", "violated": "red"}


def exit_code(verdict: str) -> int:
    """Return 1 for a violated law, 3 for an undecided one, else 0."""
    return {VIOLATED: failures.VIOLATED, UNDECIDED: failures.UNDECIDED}.get(verdict, 0)


def print_blocks(records: Records) -> None:
    """Print one table per network: the signal at each block's output, over seeds and calls."""
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
        table = Table(title=escape(str(network)), title_justify="left", box=None)
        table.header_style = "bold"
        table.add_column("block", justify="right")
        for column in rows.columns:
            table.add_column(column.replace("_", " "), justify="right")
        for block, *numbers in rows.droplevel(0).itertuples():
            table.add_row(str(block), *(_short(number) for number in numbers))
        out.print(table)


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


def print_ledger(summary: pd.DataFrame) -> None:
    """Print one line per claim, with the number that decides its verdict."""
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


def _short(number: Any) -> str:
    return "-" if number is None or pd.isna(number) else f"{number:.4g}"


def _painted(verdict: str, words: str = "") -> str:
    color = _COLORS.get(verdict, "yellow")
    return f"[{color}]{words or verdict}[/{color}]"
