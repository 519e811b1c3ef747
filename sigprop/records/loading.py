"""Reads run directories: whole ones, killed ones, damaged ones, and those of older schemas."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.errors import RunError
from sigprop.records.frames import stack, tidy
from sigprop.records.manifest import MANIFEST, NotARun, read_manifest
from sigprop.records.records import Records, concat
from sigprop.records.run_writer import parts_of
from sigprop.records.schema import SCHEMA, SCHEMA_VERSION
from sigprop.records.schema_1 import upgraded_manifest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: How often a run is read that is written meanwhile.
_TRIES = 5

#: Kind of a numpy type -> the type of a column that it may be in; all else is text.
_KINDS = {"i": "int64", "f": "float64", "b": "bool", "u": "another", "c": "another", "M": "another"}


def load(*directories: str | Path) -> Records:
    """Read one or several run directories (each may hold runs in subfolders) as one.

    A run that was killed loads; what is absent is listed in `Records.missing`. Runs of older
    schemas are upgraded.

    Args:
        directories: paths of runs, or of folders that hold runs.

    Returns:
        One object with the rows of all runs.

    Raises:
        RunError: nothing there is a run, or a run was written by a newer sigprop.

    Example:
        >>> import tempfile
        >>> folder = Records(training=tidy("training", [{"loss": 2.5}])).save(tempfile.mkdtemp())
        >>> load(folder).training["loss"].tolist()
        [2.5]
    """
    return concat([run for directory in directories for run in _runs_below(Path(directory))])


def _runs_below(directory: Path) -> list[Records]:
    """Load every run in a folder, and say of a manifest that is none of a run.

    Returns:
        One object per run.

    Raises:
        RunError: nothing there is a run, or one is of a newer schema.
    """
    if not directory.exists():
        raise RunError(f"there is no directory {directory}")
    folders = [path.parent for path in sorted(directory.rglob(MANIFEST))]
    if not folders:
        raise RunError(f"{directory} holds no run: there is no {MANIFEST} in it or below it")
    runs, strays = [], []
    for folder in folders:
        try:
            runs.append(_load_one(folder))
        except NotARun as error:
            strays.append(error)
    if not runs:
        raise strays[0]
    return [*runs, Records(missing=[f"{error}; it is passed over" for error in strays])]


def _load_one(directory: Path) -> Records:
    run = read_run(directory)
    if run.manifest["status"] != "complete":
        steps = [frame["step"].max() for frame in run.tables().values() if "step" in frame]
        last = [step for step in steps if step == step]  # an empty table's is NaN
        where = f"after step {max(last)}" if last else "before any step was written"
        run.missing.append(f"{directory} was not completed: it ends {where}")
    return run


def read_run(directory: Path, tables: Collection[str] = tuple(SCHEMA)) -> Records:
    """Read one run directory, also while it is written.

    Args:
        directory: of the run.
        tables: which of its tables to read.

    Returns:
        Its rows; `Records.missing` says nothing of a run that goes on.

    Raises:
        RunError: it is no run, or of a schema that is not known yet.
    """
    for _ in range(_TRIES):
        manifest = read_manifest(directory)
        parts, missing = _parts(directory, manifest.get("parts"), tables)
        # What is written meanwhile may have taken the place of parts that were listed.
        if not missing or manifest == read_manifest(directory):
            break
    if manifest.get("lost"):
        missing.append(f"{directory} lacks {manifest['lost']} rows that could not be written")
    return Records(**_tables(parts), manifest=upgraded_manifest(manifest), missing=missing)


def _parts(
    directory: Path, listed: list[dict[str, Any]] | None, tables: Collection[str]
) -> tuple[list[tuple[str, pa.Table]], list[str]]:
    """Return (table, rows) of every part that can be read, and a sentence for each that cannot.

    Args:
        directory: of the run.
        listed: name and rows of each part, from the manifest; None where it lists none.
        tables: which to read.
    """
    there = {path: table for path, table, _ in parts_of(directory) if table in tables}
    rows = {
        directory / part["name"]: part["rows"]
        for part in listed or ()
        if part["name"].rpartition("-")[0] in tables
    }
    gone = [path for path in rows if path not in there]
    missing = [f"{path} is gone; its {rows[path]} rows are lost" for path in gone]
    found = []
    for path, table in there.items():
        if listed is not None and path not in rows:
            missing.append(f"{path} is not listed in {MANIFEST}; its rows are left out")
            continue
        part, fault = _read(path, table, rows.get(path))
        if fault:
            missing.append(f"{path} {fault}")
        if part is not None:
            found.append((table, part))
    return found, missing


def _read(path: Path, table: str, rows: int | None) -> tuple[pa.Table | None, str]:
    """Return a part, and what is wrong with it; None if its rows cannot be used."""
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            part = file.read()
    except (OSError, ValueError) as error:
        return None, f"cannot be read ({type(error).__name__}); its rows are lost"
    fault = _foreign(table, part.slice(0, 0).to_pandas())
    if fault:
        return None, f"is no part of a run ({fault}); its rows are left out"
    short = rows is not None and len(part) != rows
    return part, f"holds {len(part)} rows, not the {rows} that were written" if short else ""


def _foreign(table: str, part: pd.DataFrame) -> str:
    """Return what a part has that the table cannot have, "" for nothing."""
    from sigprop.records.upgrade import columns_of, renamed, schema_of

    if not schema_of(table, part.columns):
        absent = sorted(columns_of(table, SCHEMA_VERSION) - set(part.columns))
        return f"it lacks the columns {', '.join(absent)}"
    for name, dtype in renamed(part).dtypes.items():
        column = SCHEMA[table].get(str(name))
        if column is not None and _KINDS.get(dtype.kind, "str") != column.dtype:
            return f"its column {name!r} is of type {dtype}, not {column.dtype}"
    return ""


def _tables(parts: list[tuple[str, pa.Table]]) -> dict[str, pd.DataFrame]:
    """Return whole tables; the rows of schema 1 are upgraded, by what the run's coverage says.

    The parts are let go of as they become frames: of a long run they are gigabytes.
    """
    from sigprop.records.upgrade import renamed, schema_of, upgraded

    old = {table: [] for table in SCHEMA}  # type: dict[str, list[pa.Table]]
    new = {table: [] for table in SCHEMA}  # type: dict[str, list[pa.Table]]
    while parts:
        table, part = parts.pop(0)
        now = schema_of(table, part.column_names) == SCHEMA_VERSION
        (new if now else old)[table].append(part)
    before = {table: stack([renamed(part.to_pandas()) for part in old[table]]) for table in SCHEMA}
    after = {table: _frame(new[table]) for table in SCHEMA}
    coverage = tidy("coverage", stack([before["coverage"], after["coverage"]]))
    for table, rows in before.items():
        if len(rows):
            before[table] = upgraded(table, rows, coverage)
    return {table: tidy(table, stack([before[table], after.pop(table)])) for table in SCHEMA}


def _frame(parts: list[pa.Table]) -> pd.DataFrame:
    """Return parts one below the other as a frame, and let go of them."""
    import pandas as pd
    import pyarrow as pa

    filled = [part for part in parts if part.num_rows]
    parts.clear()
    if not filled:
        return pd.DataFrame()
    whole = pa.concat_tables(filled, promote_options="permissive")
    del filled
    return whole.to_pandas(split_blocks=True, self_destruct=True)
