"""Drops from a run's parts the steps that a resumed run has recorded again."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sigprop.records.atomic import atomic_write

if TYPE_CHECKING:
    import pandas as pd

_ORIGIN = ["run", "network", "seed"]


def drop_repeated(parts: Iterable[Path], again: Iterable[pd.DataFrame]) -> dict[str, int]:
    """Rewrite the parts that hold steps which were recorded again.

    Of each run, network and seed everything from the first step in ``again`` on goes: what a run
    did after the step that it was resumed at is not what it did then.

    Args:
        parts: the files that are there.
        again: frames of the resumed run; those without steps are passed over.

    Returns:
        The number of rows left in each part that was rewritten, by the name of its file.

    Raises:
        RunError: the directory cannot be written.
    """
    import pandas as pd

    steps = [frame[[*_ORIGIN, "step"]] for frame in again if "step" in frame.columns]
    if not steps:
        return {}
    first = pd.concat(steps).groupby(_ORIGIN)["step"].min().rename("first").reset_index()
    rewritten = {}
    for path in parts:
        rows = pd.read_parquet(path)
        if not {*_ORIGIN, "step"} <= set(rows.columns):
            continue
        # A left merge keeps the order; what was not recorded again has no first step.
        begins = rows[_ORIGIN].merge(first, how="left", on=_ORIGIN)["first"].to_numpy()
        repeated = rows["step"].to_numpy() >= begins
        if repeated.any():
            kept = rows[~repeated].reset_index(drop=True)
            atomic_write(path, partial(kept.to_parquet, index=False))
            rewritten[path.name] = len(kept)
    return rewritten
