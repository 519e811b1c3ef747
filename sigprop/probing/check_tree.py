"""The tree of a check: a table's rows as indented lines, in execution order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sigprop.capture.model.naming import ROOT

if TYPE_CHECKING:  # loaded with the first frame, see `records`
    import pandas as pd

#: Statuses that a line does not repeat: the tree shows them by itself.
_PLAIN = ("outside", "container")


def tree(table: pd.DataFrame, root: str) -> str:
    """Return one line per module: name, type, output shape, parameters, what is seen.

    Args:
        table: of `check_rows.check_table`.
        root: what the model itself is called.
    """
    lines = list(_lines(table, ROOT, root))
    width = max(len(line) for line, _ in lines) + 2
    header = f"{'module':<{width}}{'output':<20}{'parameters':>12}  seen"
    rule = "=" * max(len(header), width + 50)
    body = [
        f"{line:<{width}}{row['output']:<20}{_count(row):>12}  {_seen(row)}".rstrip()
        for line, row in lines
    ]
    blocks = int(table["block"].sum())
    counted = "1 block" if blocks == 1 else f"{blocks} blocks"
    foot = f"■ {counted}, · inside a block; modules in execution order"
    return "\n".join([rule, header, rule, *body, rule, foot])


def _count(row: pd.Series) -> str:
    return f"{row['parameters']:,}" if row["parameters"] else ""


def _seen(row: pd.Series) -> str:
    if row["status"] == "block":
        return f"■ {row['ports']}"
    if row["status"] in ("inside a block", "function"):
        return f"· {row['ports']}".rstrip()
    return "" if row["status"] in _PLAIN else str(row["status"])


def _lines(table: pd.DataFrame, name: str, label: str) -> Iterator[tuple[str, pd.Series]]:
    """Yield the tree's lines below a module, its children in execution order."""
    row = table[table["name"] == name].iloc[0]
    yield label if name == ROOT else f"{label} ({row['type']})", row
    children = [
        str(other)
        for other, status in zip(table["name"], table["status"], strict=True)
        if status != "alias" and other != name and _parent(str(other)) == name
    ]
    for child in children:
        last = child == children[-1]
        short = child if name == ROOT and ":" not in child else child[len(name) :].lstrip(".")
        for index, (line, at) in enumerate(_lines(table, child, short)):
            lead = ("└─ " if last else "├─ ") if index == 0 else ("   " if last else "│  ")
            yield lead + line, at


def _parent(name: str) -> str:
    if ":" in name:
        return name.partition(":")[0]
    return name.rpartition(".")[0] or ROOT
