"""Drops from a run's parts the steps that a resumed run has recorded again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_ORIGIN = ["run", "network", "seed"]


def first_steps(again: Iterable[pd.DataFrame]) -> pd.DataFrame | None:
    """Return the first step of each run, network and seed in frames that were recorded again.

    Args:
        again: frames of the resumed run; those without steps are passed over.

    Returns:
        Columns ``run``, ``network``, ``seed`` and ``first``; None where no frame has a step.
    """
    import pandas as pd

    steps = [frame[[*_ORIGIN, "step"]] for frame in again if "step" in frame.columns]
    if not steps:
        return None
    return pd.concat(steps).groupby(_ORIGIN)["step"].min().rename("first").reset_index()


def before(rows: pd.DataFrame, first: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows of the steps that were not recorded again.

    Of each run, network and seed everything from its first step on goes: what a run did after the
    step that it was resumed at is not what it did then.

    Args:
        rows: of any table; those of one without steps are returned as they are.
        first: of `first_steps`.
    """
    if first is None or not {*_ORIGIN, "step"} <= set(rows.columns):
        return rows
    # A left merge keeps the order; what was not recorded again has no first step.
    begins = rows[_ORIGIN].merge(first, how="left", on=_ORIGIN)["first"].to_numpy()
    repeated = rows["step"].to_numpy() >= begins
    return rows[~repeated].reset_index(drop=True) if repeated.any() else rows


def rows_left(parts: Iterable[Path], again: Iterable[pd.DataFrame]) -> dict[Path, pd.DataFrame]:
    """Return what is left of each part that holds steps which were recorded again.

    Args:
        parts: the files that are there.
        again: frames of the resumed run.
    """
    import pandas as pd

    first = first_steps(again)
    if first is None:
        return {}
    found = {}
    for path in parts:
        if _last_step(path) < first["first"].min():
            continue
        rows = pd.read_parquet(path)
        left = before(rows, first)
        if left is not rows:
            found[path] = left
    return found


def _last_step(path: Path) -> float:
    """Return the largest step in a part, as its file's statistics say; infinity if they do not."""
    from pyarrow import parquet

    found = parquet.read_metadata(path)
    if "step" not in found.schema.names:
        return math.inf
    column = found.schema.names.index("step")
    known = [found.row_group(i).column(column).statistics for i in range(found.num_row_groups)]
    if any(one is None or not one.has_min_max for one in known):
        return math.inf
    return max((one.max for one in known), default=-math.inf)
