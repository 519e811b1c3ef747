"""A table that grows by a few rows at a time and becomes a frame when asked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.records.frames import tidy
from sigprop.records.schema import SCHEMA

if TYPE_CHECKING:
    import pandas as pd

#: A column of new rows: a value for each, or one value for all.
Column = Sequence[Any] | np.ndarray[Any, Any] | str | float


class ColumnBuffer:
    """Rows of one table of `SCHEMA`, kept by column: a row costs bytes, not a dictionary.

    Example:
        >>> table = ColumnBuffer("training")
        >>> table.append({"step": [0, 1], "loss": [2.5, 2.25], "network": "plain"}, 2)
        >>> table.frame()[["network", "step", "loss"]].values.tolist()
        [['plain', 0, 2.5], ['plain', 1, 2.25]]
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._parts: list[tuple[Mapping[str, Column], int]] = []

    def append(self, columns: Mapping[str, Column], rows: int) -> None:
        """Add rows; a column that is left out is missing in them.

        Args:
            columns: values by column, one per row.
            rows: how many rows.
        """
        if rows:
            self._parts.append((columns, rows))

    def copy(self) -> ColumnBuffer:
        """Return a table of the same rows that grows by itself."""
        other = ColumnBuffer(self._table)
        other._parts = list(self._parts)
        return other

    def frame(self) -> pd.DataFrame:
        """Return all rows as a tidy frame."""
        import pandas as pd  # only now: training with a probe need not wait for it

        names = dict.fromkeys(itertools.chain.from_iterable(part for part, _ in self._parts))
        return tidy(self._table, pd.DataFrame({name: self._column(name) for name in names}))

    def _column(self, name: str) -> list[Any] | np.ndarray[Any, Any]:
        column = SCHEMA[self._table].get(name)
        dtype = "float64" if column is None else column.dtype
        pieces = [_expanded(part.get(name, np.nan), rows) for part, rows in self._parts]
        if dtype == "str":
            return list(itertools.chain.from_iterable(pieces))
        return np.concatenate([np.asarray(piece, dtype=dtype) for piece in pieces])


def _expanded(column: Column, rows: int) -> Sequence[Any] | np.ndarray[Any, Any]:
    return [column] * rows if isinstance(column, str | float | int) else column
