"""The recorded tables as tidy pandas frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    columns = SCHEMA[table]
    frame = frame.copy(deep=False)
    for name, column in columns.items():
        if name not in frame.columns:
            frame[name] = BLANK[column.dtype]
    extra = [name for name in frame.columns if name not in columns]
    types = {name: column.dtype for name, column in columns.items()}
    return frame[[*columns, *extra]].astype(types)


def stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return frames one below the other, without the empty ones."""
    import pandas as pd

    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
