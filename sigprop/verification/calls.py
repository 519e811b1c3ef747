"""Every call of a block as a block of its own: a loop, or the second pass of a siamese network."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from sigprop.records import Records
from sigprop.records.queries import own_rows

_OF_ADDITIONS = ("skip", "branch")


def calls_as_blocks(records: Records) -> Records:
    """Return records in which a later call of a block is a module named ``layer#1``.

    Blocks are numbered in the order of their calls. A call that not every draw makes is left out,
    as are calls of which the additions cannot be told apart.

    Args:
        records: of one network; a draw is a seed.
    """
    own = own_rows(records.signals)
    entries = own[~own["port"].isin(_OF_ADDITIONS)]
    if not (entries["call"] > 0).any():
        return records
    draws = own["seed"].nunique()
    made = entries.groupby(["module", "call"])["seed"].nunique().eq(draws)
    counts = entries.groupby("module")["call"].max() + 1
    additions = own[own["port"].isin(_OF_ADDITIONS)].groupby("module")["call"].max() + 1
    per_call = (additions / counts.reindex(additions.index)).reindex(counts.index)
    signals = own.copy()
    of_additions = signals["port"].isin(_OF_ADDITIONS)
    several = signals["module"].map(per_call)
    whole = several.eq(several.round()) & several.ge(1)
    call = signals["call"].where(~of_additions, signals["call"] // several.where(whole, 1))
    key = pd.MultiIndex.from_arrays([signals["module"], call])
    kept = call.eq(0) | (key.map(made).fillna(False).astype(bool) & (~of_additions | whole))
    signals = signals.assign(_call=call.astype("int64"))[kept]
    order = _order(signals)
    names = pd.MultiIndex.from_frame(signals[["module", "_call"]])
    signals = signals.assign(
        module=[_name(*pair) for pair in names], block=names.map(order).to_numpy(), call=0
    ).drop(columns="_call")
    return replace(records, signals=signals, coverage=_coverage(records.coverage, list(order)))


def _name(module: str, call: int) -> str:
    return f"{module}#{call}" if call else module


def _order(signals: pd.DataFrame) -> dict[tuple[str, int], int]:
    """Return the place of each call in the order in which the first draw has its rows."""
    rows = signals[signals["direction"] == "forward"]
    pairs = rows[["module", "_call"]].drop_duplicates().itertuples(index=False, name=None)
    return {(str(module), int(call)): place for place, (module, call) in enumerate(pairs)}


def _coverage(coverage: pd.DataFrame, calls: list[tuple[str, int]]) -> pd.DataFrame:
    """Return the coverage with a row more for each later call."""
    by_name = coverage.drop_duplicates("name").set_index("name", drop=False)
    later = [
        by_name.loc[[module]].assign(name=_name(module, call)) for module, call in calls if call
    ]
    return pd.concat([coverage, *later], ignore_index=True)
