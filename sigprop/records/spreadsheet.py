"""Frames as CSV that is opened in a spreadsheet: no cell of it is run as a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: What begins a formula in a spreadsheet (OWASP, "CSV Injection").
_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


def csv_text(frame: pd.DataFrame, **options: object) -> str:
    """Return a frame as CSV, text that a spreadsheet would run led by an apostrophe.

    Numbers, negative ones too, stay as they are. The names of networks and modules come from a
    user's code, and a report is mailed on.

    Args:
        frame: any frame.
        options: of `pandas.DataFrame.to_csv`; rows have no index and end in a newline if not given.

    Example:
        >>> import pandas as pd
        >>> print(csv_text(pd.DataFrame({"name": ["=1+1", "plain"], "loss": [-0.5, 2.0]})), end="")
        name,loss
        '=1+1,-0.5
        plain,2.0
    """
    safe = frame.rename(columns=_harmless)
    safe.index = safe.index.map(_harmless)
    for position, dtype in enumerate(frame.dtypes):
        if dtype.kind not in "iufbc":
            safe.isetitem(position, frame.iloc[:, position].map(_harmless).to_numpy())
    return str(safe.to_csv(**{"index": False, "lineterminator": "\n", **options}))  # type: ignore[call-overload]


def _harmless(value: object) -> object:
    if not isinstance(value, str):
        return value
    mark = "'" if value.startswith(_BEGINNINGS) else ""
    return mark + value.replace("\r", " ")  # it would end the row, as pandas does not quote it
