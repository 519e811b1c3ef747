"""Runs of schema 1 as runs of schema 2: what the rows say they are is found from what they hold.

Schema 1 had no columns `kind`, `module`, `shape`, `ndim` and `status`, and called the direction
`pass`. Only here are names of taps taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sigprop.records.schema import SCHEMA, SCHEMA_VERSION

#: Table -> columns that schema 1 lacked.
ADDED: Mapping[str, tuple[str, ...]] = {
    "signals": ("kind", "module"),
    "parameters": ("shape", "ndim", "skipped"),
    "coverage": ("status",),
}
_RENAMED = {"pass": "direction"}

#: How a reason in the coverage table of schema 1 begins -> its code.
_REASONS = {
    "the probe failed": "failed",
    "a ScriptModule": "scripted",
    "a container without": "not_chosen",
    "not selected by blocks": "not_chosen",
    "another name of": "not_chosen",
    "not callable": "unsupported",
    "compiled, and": "unsupported",
    "called only": "unsupported",
    "returned no": "unsupported",
    "not called: PyTorch ran": "fused",
    "never called as a module": "called_directly",
    "never called": "never_called",
}
#: Ratios of one output unit agree to rounding in float32; those of several differ by far more.
_ONE_UNIT = 1e-4
#: The smallest norm that `unit_grad_to_weight_max` divides by.
_FLOOR = 1e-3


def columns_of(table: str, schema: int) -> set[str]:
    """Return the columns that every part of a table has.

    Args:
        table: its name.
        schema: version.
    """
    now = set(SCHEMA[table])
    if schema == SCHEMA_VERSION:
        return now
    before = {new: old for old, new in _RENAMED.items()}
    return {before.get(name, name) for name in now - set(ADDED.get(table, ()))}


def schema_of(table: str, columns: Iterable[str]) -> int:
    """Return the schema in which a part of a table was written, 0 for none.

    Args:
        table: its name.
        columns: those that a file has.
    """
    known = set(columns)
    schemas = range(SCHEMA_VERSION, 0, -1)
    return next((schema for schema in schemas if columns_of(table, schema) <= known), 0)


def renamed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a part of schema 1 with today's names of its columns."""
    return frame.rename(columns=_RENAMED)


def upgraded(table: str, rows: pd.DataFrame, coverage: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table that schema 1 wrote with the columns that it lacked.

    Args:
        table: its name.
        rows: columns of schema 1, under today's names.
        coverage: the run's coverage table: it lists modules and functions.
    """
    if table == "signals":
        return _signals(rows, coverage)
    if table == "parameters":
        return _parameters(rows)
    return rows.assign(status=_statuses(rows)) if table == "coverage" else rows


# --- signals ------------------------------------------------------------------------------------


def _signals(rows: pd.DataFrame, coverage: pd.DataFrame) -> pd.DataFrame:
    """Fill `kind` and `module` from names, ports and the blocks that names share.

    Returns:
        The rows with `kind` and `module`.
    """
    modules = _names(coverage[coverage["type"] != "function"])
    keys = ["network", "block", "name", "call"]
    blocks: dict[tuple[str, int], _Block] = {}
    targets: dict[tuple[Any, ...], str] = {}
    taps = rows[[*keys, "port"]].drop_duplicates()
    for *key, port in taps.itertuples(index=False, name=None):
        network, block, name, call = key
        known = modules.get(network, set())
        target = targets[tuple(key)] = _target(name, call, known)
        blocks.setdefault((network, block), _Block(known)).add(target, port)
    found = {key: blocks[key[:2]].kind_and_module(target) for key, target in targets.items()}
    each = [found[key] for key in rows[keys].itertuples(index=False, name=None)]
    return rows.assign(kind=[kind for kind, _ in each], module=[module for _, module in each])


def _names(coverage: pd.DataFrame) -> dict[str, set[str]]:
    return {str(network): set(rows["name"]) for network, rows in coverage.groupby("network")}


def _target(name: str, call: int, known: set[str]) -> str:
    """Return a tap's name without its call and its position in a nested output."""
    if call:
        return name[: name.rindex(f"#{call}")]
    return name[: name.index("[")] if name.endswith("]") and name not in known else name


class _Block:
    """The targets that share a block's index: one that was chosen, and what lies inside of it.

    Args:
        known: names of the network's modules.
    """

    def __init__(self, known: set[str]) -> None:
        self._known, self._ports = known, dict[str, set[str]]()

    def add(self, target: str, port: str) -> None:
        self._ports.setdefault(target, set()).add(port)

    def kind_and_module(self, target: str) -> tuple[str, str]:
        if target not in self._known and ":" in target:
            module, _, function = target.rpartition(":")
            return "attention" if function == "sdpa" else "rectifier", module
        if target != self._chosen():
            return "rectifier", target
        if self._ports[target] <= {"skip", "branch"}:
            return "addition", target
        return "block" if self._has_children(target) else "leaf", target

    def _chosen(self) -> str:
        """Return the target with an input; where none could be read, that of the shortest name."""
        modules = sorted(self._ports, key=len)
        return next((name for name in modules if "in" in self._ports[name]), modules[0])

    def _has_children(self, target: str) -> bool:
        if target == "(model)":
            return len(self._known) > 1
        return any(other.startswith(f"{target}.") for other in self._known)


# --- parameters and coverage --------------------------------------------------------------------


def _parameters(rows: pd.DataFrame) -> pd.DataFrame:
    """Fill `ndim` from the numbers: a weight of one output unit has one ratio to its gradient.

    Returns:
        The rows with `ndim`.
    """
    whole = rows["grad_norm"] / rows["weight_norm"].clip(lower=_FLOOR)
    ratio = rows["unit_grad_to_weight_max"] / whole
    several = (ratio - 1).abs() > _ONE_UNIT
    ndim = pd.Series(np.where(several, 2, np.where(ratio.notna(), 1, -1)), index=rows.index)
    most = ndim.groupby([rows["network"], rows["name"]]).transform("max")
    return rows.assign(shape="", ndim=most.astype("int64"), skipped=False)


def _statuses(coverage: pd.DataFrame) -> list[str]:
    return [
        _status(recorded, gradient, reason)
        for recorded, gradient, reason in zip(
            coverage["recorded"], coverage["gradient"], coverage["reason"], strict=True
        )
    ]


def _status(recorded: bool, gradient: str, reason: str) -> str:
    for beginning, status in _REASONS.items():
        if reason.startswith(beginning):
            return status
    if not recorded:
        return ""
    return "no_gradient" if gradient.startswith("none") else "recorded"
