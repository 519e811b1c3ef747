"""The recorded tables as tidy pandas frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from sigprop.records.schema import SCHEMA
from sigprop.records.schema.column import BLANK

if TYPE_CHECKING:  # 0.3 s to import: paid when rows become a frame, not when a probe is attached
    import pandas as pd


def tidy(table: str, rows: pd.DataFrame | Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Return ``rows`` as a frame with the columns, order and types of ``table``.

    Columns beyond the schema (a user's own metrics) are kept, after the known ones.
    A known column that is absent is filled: numbers with NaN, counts with 0, text with "".

    Args:
        table: a key of `SCHEMA`.
        rows: a frame, or one mapping per row.

    Raises:
        ValueError: a value is not of its column's type.

    Example:
        >>> tidy("training", [{"step": 3, "loss": 0.5, "network": "plain"}]).loc[0, "loss"]
        np.float64(0.5)
    """
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if not (len(frame) or len(frame.columns)):
        return _empty(table).copy()
    columns = SCHEMA[table]
    extra = [name for name in frame.columns if name not in columns]
    # Made at once: a column added to a frame costs a hundred times as much.
    whole = pd.DataFrame(
        {
            name: frame[name] if name in frame.columns else BLANK[columns[name].dtype]
            for name in (*columns, *extra)
        },
        index=frame.index,
        copy=False,  # of a long run a copy is gigabytes
    )
    found = whole.dtypes
    types = {n: column.dtype for n, column in columns.items() if found[n] != column.dtype}
    return whole.astype(types) if types else whole


@cache
def _empty(table: str) -> pd.DataFrame:
    """Return the frame of a table without rows."""
    import pandas as pd

    return pd.DataFrame({n: pd.Series([], dtype=c.dtype) for n, c in SCHEMA[table].items()})


def stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return frames one below the other, without the empty ones."""
    import pandas as pd

    filled = [frame for frame in frames if len(frame)]
    if len(filled) == 1:
        return filled[0].reset_index(drop=True)
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
