"""Writes a run directory as the run goes on: numbered parts of each table, and a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sigprop.errors import RunError
from sigprop.records.atomic import atomic_write, remove_leftovers
from sigprop.records.frames import stack, tidy
from sigprop.records.manifest import MANIFEST, new_manifest, read_manifest, write_manifest
from sigprop.records.repeated import rows_left
from sigprop.records.schema import SCHEMA, SCHEMA_VERSION
from sigprop.records.schema_1 import upgraded_manifest

if TYPE_CHECKING:
    import pandas as pd


class Tables(Protocol):
    """What holds a frame for each table."""

    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Return the frames by table name."""


class RunWriter:
    """Appends rows to a run directory so that a kill at any moment loses only unflushed rows.

    Every file is written under another name, synced to disk and renamed. Rows wait in memory until
    `flush`; each flush makes one numbered Parquet part per table. The manifest lists the parts.

    A run that is resumed at an earlier step than the last one written records steps again: what was
    written of them before goes at its first flush.

    Args:
        directory: where to write; made if absent.
        manifest: facts from `new_manifest`; taken from there when not given.
        resume: continue the run that is already there.

    Attributes:
        directory: where the run is written.
        manifest: its facts; of a resumed run, those that were there.
        parts: the number that the next parts will have.
        resumed: whether the run was there already, and nothing has been flushed since.

    Raises:
        RunError: the directory cannot be written, or holds a run and ``resume`` is false.

    Example:
        >>> import tempfile
        >>> writer = RunWriter(tempfile.mkdtemp())
        >>> writer.append("training", tidy("training", [{"step": 0, "loss": 2.5}]))
        >>> writer.complete()
        >>> writer.manifest["parts"]
        [{'name': 'training-00000.parquet', 'rows': 1}]
    """

    def __init__(
        self,
        directory: str | Path,
        manifest: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.directory = Path(directory)
        self._waiting: dict[str, list[pd.DataFrame]] = {table: [] for table in SCHEMA}
        self._replaced: set[str] = set()
        there = (self.directory / MANIFEST).exists()
        if there and not resume:
            raise RunError(
                f"{self.directory} holds a run already; choose another directory or delete it"
            )
        if there:
            self.manifest = upgraded_manifest(read_manifest(self.directory))
            self._clean()
        else:
            begun = {"schema": SCHEMA_VERSION, "status": "running", "parts": []}
            self.manifest = {**new_manifest(), **(manifest or {}), **begun}
        self.parts = 1 + max((n for _, _, n in parts_of(self.directory)), default=-1)
        self.resumed = there
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot make the run directory {self.directory}: {error.strerror}"
            ) from None
        if not there or self.manifest != read_manifest(self.directory):
            write_manifest(self.directory, self.manifest)

    def _clean(self) -> None:
        """Delete what a killed flush left: temporary files, and parts that were not listed yet."""
        remove_leftovers(self.directory)
        listed = {part["name"] for part in self.manifest.get("parts", [])}
        for path, _, _ in parts_of(self.directory):
            if "parts" in self.manifest and path.name not in listed:
                path.unlink()

    def append(self, table: str, rows: pd.DataFrame) -> None:
        """Keep rows for the next flush.

        Args:
            table: a key of `SCHEMA`.
            rows: a frame with columns of that table.
        """
        if len(rows):
            self._waiting[table].append(rows)

    def extend(self, records: Tables) -> None:
        """Keep every row of ``records`` for the next flush."""
        for table, frame in records.tables().items():
            self.append(table, frame)

    @property
    def waiting(self) -> dict[str, pd.DataFrame]:
        """The rows that wait for the next flush, by table."""
        return {table: stack(frames) for table, frames in self._waiting.items() if frames}

    def replace(self, table: str, rows: pd.DataFrame) -> None:
        """Keep rows for the next flush, in place of those that the table has.

        Args:
            table: a key of `SCHEMA`.
            rows: a frame with columns of that table.
        """
        self._waiting[table] = [rows]
        self._replaced.add(table)

    def drop_oldest(self, most: int) -> int:
        """Let go of the oldest waiting rows.

        Args:
            most: how many rows may wait.

        Returns:
            How many rows went, in whole frames as they came.
        """
        sizes = {table: sum(map(len, frames)) for table, frames in self._waiting.items()}
        before = sum(sizes.values())
        while sum(sizes.values()) > most:
            largest = max(sizes, key=lambda table: sizes[table])
            sizes[largest] -= len(self._waiting[largest].pop(0))
        return before - sum(sizes.values())

    def flush(self) -> None:
        """Write the waiting rows as one part per table, and list the parts in the manifest.

        Raises:
            RunError: the directory cannot be written, or the disk is full; the rows wait on.
        """
        if not any(self._waiting.values()):
            return
        number, written, gone = self.parts, list[dict[str, Any]](), set[str]()
        if self.resumed:
            left, gone = self._without_repeated()
            written = [self._write(table, rows, number) for table, rows in left.items()]
            number += bool(written)
        for table, frames in self._waiting.items():
            if frames:
                written.append(self._write(table, tidy(table, stack(frames)), number))
        gone |= {path.name for path, table, _ in self._parts() if table in self._replaced}
        gone -= {part["name"] for part in written}
        manifest = {**self.manifest, "status": "running"}
        if "parts" in manifest:  # a run that schema 1 began keeps no list
            kept = [part for part in manifest["parts"] if part["name"] not in gone]
            manifest["parts"] = [*kept, *written]
        write_manifest(self.directory, manifest)
        self.manifest, self.parts, self.resumed = manifest, number + 1, False
        for frames in self._waiting.values():
            frames.clear()
        self._replaced.clear()
        for name in gone:
            (self.directory / name).unlink(missing_ok=True)

    def _write(self, table: str, rows: pd.DataFrame, number: int) -> dict[str, Any]:
        name = f"{table}-{number:05d}.parquet"
        atomic_write(self.directory / name, partial(rows.to_parquet, index=False))
        return {"name": name, "rows": len(rows)}

    def _parts(self) -> list[tuple[Path, str, int]]:
        """Return the parts that were there before this flush."""
        return [part for part in parts_of(self.directory) if part[2] < self.parts]

    def _without_repeated(self) -> tuple[dict[str, pd.DataFrame], set[str]]:
        """Return the rows that parts keep beside those that wait, and the names of those parts."""
        waiting = (frame for frames in self._waiting.values() for frame in frames)
        tables = {path: table for path, table, _ in self._parts()}
        left = rows_left(tables, waiting)
        kept: dict[str, list[pd.DataFrame]] = {}
        for path, rows in left.items():
            if len(rows):
                kept.setdefault(tables[path], []).append(rows)
        return {table: stack(frames) for table, frames in kept.items()}, {p.name for p in left}

    def rewind(self, parts: int) -> None:
        """Delete the parts numbered ``parts`` and above: rows after the checkpoint resumed from.

        Args:
            parts: the number of the first part to go, as `parts` was when the checkpoint was made.

        Raises:
            RunError: the directory cannot be written.
        """
        gone = {path.name for path, _, number in parts_of(self.directory) if number >= parts}
        if "parts" in self.manifest:  # the list first: what it lacks is no loss
            kept = [part for part in self.manifest["parts"] if part["name"] not in gone]
            self.manifest["parts"] = kept
            write_manifest(self.directory, self.manifest)
        for name in gone:
            (self.directory / name).unlink()
        self.parts = parts

    def complete(self) -> None:
        """Flush, and mark the run complete.

        Raises:
            RunError: the directory cannot be written, or the disk is full.
        """
        self.flush()
        self.manifest["status"] = "complete"
        write_manifest(self.directory, self.manifest)


def parts_of(directory: Path) -> Iterator[tuple[Path, str, int]]:
    """Yield (path, table, number) of every part in a run directory, by name.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("signals-00002.parquet", "other.parquet"):
        ...     (folder / name).touch()
        >>> [(path.name, table, number) for path, table, number in parts_of(folder)]
        [('signals-00002.parquet', 'signals', 2)]
    """
    for path in sorted(directory.glob("*.parquet")):
        table, _, number = path.stem.rpartition("-")
        if table in SCHEMA and number.isdigit():
            yield path, table, int(number)
