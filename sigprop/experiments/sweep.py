"""A function over a grid: cells that resume, that fail alone, and that run anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sigprop.errors import BadInput, RunError
from sigprop.experiments.cells import Cell, Grid, cells
from sigprop.experiments.run_cell import CellFunction, Outcome, run_cell
from sigprop.records import Records, concat, load
from sigprop.records.manifest import MANIFEST

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class SweepResult:
    """What a sweep found.

    Attributes:
        cells: one row per cell, in the order of the grid: its values, ``status`` (``complete``,
            ``failed``, or ``running`` where another process has it), ``error``, ``folder``, and the
            numbers that the function returned.
        records: what the cells recorded; ``run`` is the cell's name.
        traces: of each failed cell, by name, where its exception was raised.
    """

    cells: pd.DataFrame
    records: Records
    traces: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of the cells that failed."""
        return self.cells[self.cells["status"] == "failed"]

    def __repr__(self) -> str:
        counts = self.cells["status"].value_counts()
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"SweepResult({len(self.cells)} cells: {said})"


def sweep(
    grid: Grid,
    function: CellFunction,
    directory: str | Path | None = None,
    *,
    jobs: int | None = None,
    seed: int = 0,
    threads: int = 1,
    on_cell: Callable[[Outcome], None] | None = None,
) -> SweepResult:
    """Call a function with every combination of a grid's values.

    Cells run through joblib: on this machine's processes with ``jobs``, or on what you choose with
    ``with joblib.parallel_config(backend="dask"):``. Whichever it is, the results are those of a
    serial run, bit for bit: before a cell, torch's global generators are seeded from its values,
    and torch gets the same number of threads everywhere.

    A cell that raises is listed with its exception, and the others go on. With a directory, a sweep
    that is started again runs the cells that are not complete, and several processes or machines
    can share its cells.

    Args:
        grid: axis -> values; ``{"network": {"mine": make}}`` gives values labels. Each axis is an
            argument of the function.
        function: returns `Records`, numbers by name, a tuple of both, or None. If it takes ``seed``
            and the grid has no such axis, it gets a number of its own for each cell; if it takes
            ``directory``, the cell's folder, for ``attach(..., directory=directory,
            resume="allow")``.
        directory: a folder for the runs, one below it for each cell; in memory when not given.
        jobs: processes; -1 for as many as there are cores. Those of `joblib.parallel_config` when
            not given, else one.
        seed: that of each cell is made from this one and the cell's values.
        threads: of torch in each cell; the last digits of sums depend on it.
        on_cell: called here with each outcome; as soon as there is one where the backend allows it.

    Returns:
        One row per cell, and the records.

    Raises:
        BadInput: an axis is empty, or a value has no name; no function.
        RunError: the directory cannot be written, or a process of the sweep was killed.

    Example:
        >>> result = sweep({"a": [1, 2], "b": [10]}, lambda a, b: {"sum": a + b})
        >>> result.cells[["a", "b", "sum", "status"]].values.tolist()
        [[1, 10, 11, 'complete'], [2, 10, 12, 'complete']]
    """
    if not callable(function):
        raise BadInput(f"function is called with each cell's values; {function!r} cannot be called")
    chosen = cells(grid, seed)
    root = None if directory is None else Path(directory)
    folders = {cell.name: None if root is None else root / cell.name for cell in chosen}
    outcomes = {}
    try:
        for outcome in _outcomes(chosen, function, folders, jobs, threads):
            outcomes[tuple(outcome.labels.values())] = outcome
            if on_cell is not None:
                on_cell(outcome)
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the sweep was killed, perhaps for want of memory; "
            + ("complete cells are kept: " if root else "with directory= complete cells are kept, ")
            + "start it again with fewer jobs"
        ) from error
    ordered = [(cell, outcomes[tuple(cell.labels.values())]) for cell in chosen]
    return SweepResult(
        _frame(ordered, folders),
        concat(_records(ordered, folders)),
        {cell.name: outcome.trace for cell, outcome in ordered if outcome.trace},
    )


def _outcomes(
    chosen: list[Cell],
    function: CellFunction,
    folders: dict[str, Path | None],
    jobs: int | None,
    threads: int,
) -> Iterator[Outcome]:
    import joblib

    calls = [
        joblib.delayed(run_cell)(cell, function, folders[cell.name], threads) for cell in chosen
    ]
    try:
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    except ValueError:  # this backend returns everything at the end
        parallel = joblib.Parallel(n_jobs=jobs)
    yield from parallel(calls)


def _frame(outcomes: list[tuple[Cell, Outcome]], folders: dict[str, Path | None]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            **cell.labels,
            "status": outcome.status,
            "error": outcome.error,
            "folder": str(folders[cell.name] or ""),
            **outcome.numbers,
        }
        for cell, outcome in outcomes
    ]
    return pd.DataFrame(rows)


def _records(
    outcomes: list[tuple[Cell, Outcome]], folders: dict[str, Path | None]
) -> list[Records]:
    found = []
    for cell, outcome in outcomes:
        folder = folders[cell.name]
        if outcome.records is not None:
            found.append(outcome.records)
        elif folder is not None and outcome.status == "complete" and any(folder.rglob(MANIFEST)):
            found.append(load(folder))
    return found
