"""Which modules are the blocks of a network, in order: those that were called, and those not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sigprop.errors import BadInput
from sigprop.records import Records
from sigprop.records.queries import own_rows


def chosen_blocks(records: Records) -> pd.DataFrame:
    """Return the blocks of one network in execution order.

    A module that was never called counts as a block when it stands beside one of the same class:
    what a forward pass leaves out of a row of blocks is skipped, and not something else.

    Args:
        records: of one network; draws may differ in the blocks that they call.

    Returns:
        Columns ``module``; ``block``, counted from 0; ``bypassed``, whether its code ran although
        it was never called as a module.

    Raises:
        BadInput: none of the blocks was called, or they are containers.
    """
    own = own_rows(records.signals)
    coverage = records.coverage.drop_duplicates("name").reset_index(drop=True)
    if own.empty:
        _nothing_called(records.coverage)
    depth = own.groupby(["seed", "module"])["block"].first().groupby("module").mean()
    skipped = _skipped_siblings(records.coverage, own)
    position = pd.Series(coverage.index, index=coverage["name"])
    order = {str(name): (float(at), 0.0) for name, at in depth.items()}
    for name in skipped:
        order[name] = _behind(name, depth, position)
    names = sorted(order, key=lambda name: order[name])
    return pd.DataFrame(
        {
            "module": names,
            "block": np.arange(len(names)),
            "bypassed": [_bypassed(name, records.coverage) for name in names],
        }
    )


def _behind(name: str, depth: pd.Series, position: pd.Series) -> tuple[float, float]:
    """Return where a module that was never called belongs: after the block registered before."""
    earlier = [n for n in depth.index if position[n] < position[name]]
    nearest = max(earlier, key=lambda n: position[n], default=None)
    return (-1.0 if nearest is None else float(depth[nearest]), float(position[name]))


def _skipped_siblings(coverage: pd.DataFrame, own: pd.DataFrame) -> list[str]:
    types = coverage.drop_duplicates("name").set_index("name")["type"]
    blocks = own.loc[own["kind"] == "block", "module"].unique()
    families = {(parent(name), types.get(name)) for name in blocks}
    calls = coverage.groupby("name")["calls"].sum()
    return [
        str(name)
        for name in types.index
        if calls[name] == 0 and (parent(str(name)), types[name]) in families
    ]


def _bypassed(name: str, coverage: pd.DataFrame) -> bool:
    """Return whether a module's ``forward`` was called, and not the module itself."""
    inside = coverage["name"].str.startswith(f"{name}.") & (coverage["calls"] > 0)
    own = coverage[coverage["name"] == name]
    return bool(
        (own["calls"] == 0).all() and (inside.any() or (own["status"] == "called_directly").any())
    )


def parent(name: str) -> str:
    """Return the name of the module that holds another; "" for the root."""
    return name.rpartition(".")[0]


def _nothing_called(coverage: pd.DataFrame) -> None:
    """Raise for a network of which no block was read.

    Raises:
        BadInput: always; the message says why nothing was read.
    """
    containers = coverage[coverage["status"] == "container"]["name"].unique()
    if len(containers):
        raise BadInput(
            f"the blocks chosen are containers, which are never called ({_some(containers)}); "
            f"choose what is in them: blocks={containers[0] + '.*'!r}"
        )
    uncalled = set(coverage[coverage["status"].isin(["never_called", "called_directly"])]["name"])
    silent = np.array([n for n in coverage["name"].unique() if _outermost(str(n), uncalled)])
    if len(silent):
        raise BadInput(
            f"none of the blocks was called in the forward pass ({_some(silent)} were not); choose "
            "blocks that are, with blocks="
        )
    raise BadInput(
        "no block was read: none returned a real floating-point tensor; "
        "Records.coverage says what was read of each module"
    )


def _outermost(name: str, among: set[str]) -> bool:
    parents = {name[:at] for at, letter in enumerate(name) if letter == "."}
    return name in among and not parents & among


def _some(names: np.ndarray) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
