"""Runs one cell of a sweep, in this process or in another one, and keeps what became of it."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sigprop.errors import BadInput, RunError
from sigprop.experiments.cells import Cell, plain
from sigprop.experiments.training import Plan
from sigprop.inputs.devices import seeded
from sigprop.records import Records, RunWriter, atomic_write, new_manifest
from sigprop.records.lock import RunLock

CELL, LOCKED = "cell.json", "cell.lock"

#: What a cell returns: records, numbers by name, both, or nothing where it writes a run by itself.
CellFunction = Callable[..., Records | Mapping[str, Any] | tuple[Records, Mapping[str, Any]] | None]


@dataclass
class Outcome:
    """What became of a cell.

    Attributes:
        labels: axis -> the value, as a table shows it.
        seed: of the cell.
        function: what was called, with the arguments that all cells share.
        status: ``"complete"``, ``"failed"``, or ``"running"`` where another process has the cell.
        error: of a failed cell, the exception in a line.
        trace: of a failed cell, where it was raised.
        numbers: what the function returned by name.
        records: what it recorded; kept in the cell's folder where there is one.
    """

    labels: dict[str, Any]
    seed: int
    function: str
    status: str = "complete"
    error: str = ""
    trace: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    records: Records | None = None


def run_cell(cell: Cell, function: CellFunction, folder: Path | None, threads: int) -> Outcome:
    """Run a cell, unless its folder says that it is complete.

    Args:
        cell: which.
        function: called with the cell's values; with ``seed`` and ``directory`` too where it takes
            them and the grid does not have them.
        folder: of the cell, or None to keep everything in memory.
        threads: of torch; the last digits of sums depend on them.

    Returns:
        What became of it; an exception of the function's is in there.

    Raises:
        RunError: the folder cannot be written, or is of another function.
    """
    if folder is None:
        return _run(cell, function, None, threads)
    known, own = outcome_in(folder), described(function)
    if known is not None and (known.function, known.seed) != (own, cell.seed):
        raise RunError(
            f"{folder} is of {known.function} and seed {known.seed}, not of {own} and seed "
            f"{cell.seed}; choose another directory"
        )
    if known is not None and known.status == "complete":
        return known
    try:
        lock = RunLock(folder, LOCKED)
    except RunError as error:
        return Outcome(dict(cell.labels), cell.seed, own, "running", str(error))
    try:
        found = _run(cell, function, folder, threads)
        if found.records is not None:
            _save(found.records, folder)
            found.records = None
        text = json.dumps({key: value for key, value in asdict(found).items() if key != "records"})
        atomic_write(folder / CELL, lambda path: path.write_text(text, "utf-8"))
    finally:
        lock.release()
    return found


def outcome_in(folder: Path) -> Outcome | None:
    """Return what a folder says of its cell; None if nothing, or nothing that can be read."""
    try:
        return Outcome(**json.loads((folder / CELL).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def described(function: CellFunction) -> str:
    """Return a function's name, and the arguments that a `functools.partial` gives it.

    Example:
        >>> from functools import partial
        >>> described(partial(Cell, seed=3, labels=partial))
        'sigprop.experiments.cells.Cell(seed=3, labels=<type>)'
    """
    if not isinstance(function, partial):
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return f"{getattr(function, '__module__', '')}.{name}".lstrip(".")
    given = [_shown(value) for value in function.args]
    given += [f"{key}={_shown(value)}" for key, value in function.keywords.items()]
    return f"{described(function.func)}({', '.join(given)})"


def _shown(value: object) -> str:
    readable = plain(value) or isinstance(value, dict | list | tuple | Plan)
    return repr(value) if readable else f"<{type(value).__name__}>"


def _run(cell: Cell, function: CellFunction, folder: Path | None, threads: int) -> Outcome:
    found = Outcome(dict(cell.labels), cell.seed, described(function))
    try:
        with _threads(threads), seeded(cell.seed):
            made = function(**cell.values, **_more(cell, function, folder))
        for part in made if isinstance(made, tuple) else (made,):
            if isinstance(part, Records):
                found.records = _named(part, cell.name)
            elif part is not None:
                found.numbers = _numbers(part, cell)
    except Exception as error:
        text = str(error).strip().splitlines()
        found.status = "failed"
        found.error = ": ".join([type(error).__name__, *text[:1]])
        found.trace = traceback.format_exc()
    return found


def _more(cell: Cell, function: CellFunction, folder: Path | None) -> dict[str, Any]:
    """Return the arguments that a function is given beside its cell's, where it takes them."""
    takes = inspect.signature(function).parameters
    offered = {"seed": cell.seed, "directory": folder}
    return {k: v for k, v in offered.items() if k in takes and k not in cell.values}


def _named(records: Records, name: str) -> Records:
    """Return records whose rows say which cell they are of, as their run."""
    for table, frame in records.tables().items():
        setattr(records, table, frame.assign(run=name).astype({"run": "str"}))
    return records


def _numbers(made: Any, cell: Cell) -> dict[str, Any]:
    if not isinstance(made, Mapping):
        raise BadInput(
            "the function of a sweep returns Records, numbers by name, both, or None, not "
            f"{type(made).__name__}"
        )
    found = {}
    for key, value in made.items():
        number = value.item() if hasattr(value, "item") else value
        if not plain(number):
            raise BadInput(f"{key!r} of a sweep's result is a number or text, not {value!r}")
        if key in cell.labels or key in ("status", "error", "folder"):
            raise BadInput(f"{key!r} of a sweep's result is a column already; give it another name")
        found[str(key)] = number
    return found


def _save(records: Records, folder: Path) -> None:
    """Write the records of a cell in place of what a killed process left."""
    facts = {**new_manifest(), **records.manifest, "status": "running", "parts": []}
    writer = RunWriter(folder, facts, resume=True)
    writer.rewind(0)
    writer.manifest = facts
    writer.extend(records)
    writer.complete()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
