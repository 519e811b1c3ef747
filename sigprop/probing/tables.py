"""What a probe has recorded: rows by table, each with the run, network and seed it is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sigprop.records import SCHEMA, Records
from sigprop.records.column_buffer import ColumnBuffer

Columns = Mapping[str, Any]
CoverageRows = Sequence[Mapping[str, Any]]


class Tables:
    """The rows of every table, by column.

    Args:
        origin: the columns that say where every row is from: run, network, seed.
    """

    def __init__(self, origin: Columns) -> None:
        self._origin = origin
        self._tables = {table: ColumnBuffer(table) for table in SCHEMA}

    def append(self, table: str, columns: Columns, rows: int, **more: Any) -> None:
        """Add rows to a table; a column may hold one value for all.

        Args:
            table: its name.
            columns: by name, a value for each row.
            rows: how many.
            more: columns with one value for all rows.
        """
        self._tables[table].append({**self._origin, **more, **columns}, rows)

    def copy(self) -> Tables:
        """Return the same rows, to which others can be added."""
        other = Tables(self._origin)
        other._tables = {table: rows.copy() for table, rows in self._tables.items()}
        return other

    def drain(self) -> Records:
        """Return every row, and let go of them."""
        records = self.in_memory()
        self._tables = {table: ColumnBuffer(table) for table in SCHEMA}
        return records

    def in_memory(self) -> Records:
        """Return the rows that are in memory as frames."""
        records = Records()
        for table, rows in self._tables.items():
            setattr(records, table, rows.frame())
        return records

    def step_recorded(self, step: int, coverage: Callable[[], CoverageRows]) -> None:
        """A recorded step has ended, and its rows are here.

        Args:
            step: its number.
            coverage: returns the rows of the coverage table.
        """

    def close(self, step: int, coverage: CoverageRows, complete: bool) -> None:
        """No row will be added any more.

        Args:
            step: the number of the step that never began.
            coverage: the rows of the coverage table.
            complete: whether recording ended as it was meant to.
        """

    def abandon(self) -> None:
        """The probe is gone, and was not detached."""

    def records(self) -> Records:
        """Return every row as frames."""
        return self.in_memory()
