"""Every call of a block as a block of its own: a loop, or the second pass of a siamese network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
    additions = own["port"].isin(_OF_ADDITIONS)
    if not (own["call"][~additions] > 0).any():
        return records
    call = _calls(own, additions)
    pairs = list(zip(own["module"].astype(str), call, strict=True))
    seeds = own["seed"].nunique()
    by_call = own[~additions].groupby(["module", "call"])["seed"].nunique()
    in_all = set(by_call.index[by_call == seeds])
    kept = np.array([pair[1] == 0 or pair in in_all for pair in pairs])
    order: dict[tuple[str, int], int] = {}
    for pair, keep in zip(pairs, kept, strict=True):
        if keep:
            order.setdefault(pair, len(order))
    pairs = [pair for pair, keep in zip(pairs, kept, strict=True) if keep]
    names, blocks = [_name(*pair) for pair in pairs], [order[pair] for pair in pairs]
    signals = own[kept].assign(module=names, block=blocks, call=0)
    return replace(records, signals=signals, coverage=_coverage(records.coverage, list(order)))


def _calls(own: pd.DataFrame, additions: pd.Series) -> list[int]:
    """Return for each row which call of its module it belongs to; -1 where that cannot be said.

    A module that adds twice in each call has the additions 2 and 3 in its second one.
    """
    made = own[~additions].groupby("module")["call"].max() + 1
    added = own[additions].groupby("module")["call"].max() + 1
    each = {str(name): divmod(int(n), int(made.get(name, 1))) for name, n in added.items()}

    def of_addition(module: str, call: int) -> int:
        several, rest = each[module]
        return call // several if several and not rest else min(call, 1) * -1

    rows = zip(own["module"].astype(str), own["call"], additions, strict=True)
    return [of_addition(name, int(n)) if adds else int(n) for name, n, adds in rows]


def _name(module: str, call: int) -> str:
    return f"{module}#{call}" if call else module


def _coverage(coverage: pd.DataFrame, calls: list[tuple[str, int]]) -> pd.DataFrame:
    """Return the coverage with a row more for each later call."""
    by_name = coverage.drop_duplicates("name").set_index("name", drop=False)
    later = [
        by_name.loc[[module]].assign(name=_name(module, call)) for module, call in calls if call
    ]
    return pd.concat([coverage, *later], ignore_index=True)
