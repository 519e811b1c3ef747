"""The order in which blocks ran: one position per call, and where a stack of blocks ends. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sigprop.records.queries import DRAW, own_rows

#: Relative difference up to which a block's input counts as the output of the block before it.
SAME = 1e-5
_DIGITS = "0123456789"


def unrolled(signals: pd.DataFrame) -> pd.DataFrame:
    """Return ``signals`` with one block index per call, in execution order.

    A block that is called several times in one forward pass (a loop, a siamese network, a module
    that is shared) becomes as many blocks, so that no later question averages its calls. What is
    recorded inside of a block follows the call of that block.

    Args:
        signals: the frame of that name; rows of a step in the order in which they were recorded.

    Returns:
        The same rows with another ``block`` in networks where a block is called repeatedly, and
        the frame itself where there is none.
    """
    keys = _ends_of_blocks(signals)[["network", "block", "call"]].drop_duplicates()
    repeated = keys.loc[keys.duplicated(["network", "block"]), "network"].unique()
    if not len(repeated):
        return signals
    block = signals["block"].to_numpy(copy=True)
    for network in repeated:
        rows = (signals["network"] == network).to_numpy()
        block[rows] = _positions(signals[rows])
    return signals.assign(block=block)


def _ends_of_blocks(signals: pd.DataFrame) -> pd.DataFrame:
    """Return the inputs and outputs of blocks: a block has one of each per call.

    The operands of its additions are numbered by addition, and a block may have several.
    """
    own = own_rows(signals)
    return own[own["port"].isin(["in", "out"])]


def _positions(rows: pd.DataFrame) -> pd.Series[int]:
    """Return the position of each row of one network: the rank of its block's call."""
    chosen = _ends_of_blocks(rows)
    outside = (rows["block"] >= 0) & ~rows["block"].isin(chosen["block"])
    counted = outside | rows.index.isin(chosen.index)
    order = _execution_order(rows[counted])
    rank = pd.Series(range(len(order)), index=pd.MultiIndex.from_frame(order))
    calls = rows[counted].groupby("block")["call"].max() + 1
    of_block = rows["block"].map(calls).fillna(1).astype("int64")
    inside = rows.groupby(["block", "kind", "module", "port"])["call"].transform("max") + 1
    each = (inside // of_block).clip(lower=1)  # times it is reached in one call of its block
    call = np.minimum(rows["call"].where(counted, rows["call"] // each), of_block - 1)
    found = rank.reindex(pd.MultiIndex.from_arrays([rows["block"], call]))
    return pd.Series(found.fillna(-1).to_numpy(dtype="int64"), index=rows.index)


def _execution_order(own: pd.DataFrame) -> pd.DataFrame:
    """Return the calls (block, call) of one network in the order in which they were recorded.

    Block indices count first calls, so first calls that do not rise say that the rows were
    sorted some other way; then every call of a block comes after the same call of the one before.
    """
    forward = own[own["direction"] == "forward"]
    keys = (forward if len(forward) else own)[["block", "call"]].drop_duplicates()
    first = keys.loc[~keys.duplicated("block"), "block"]
    rising = bool((keys.groupby("block")["call"].diff().fillna(1) > 0).all())
    if not (rising and first.is_monotonic_increasing):
        keys = keys.sort_values(["call", "block"])
    return keys


def blocks_in_order(signals: pd.DataFrame) -> pd.DataFrame:
    """Return which block stands at each position, and to which stack of blocks it belongs.

    A stack ends where the module above the blocks changes (``encoder.layers`` and
    ``decoder.layers``, two towers) or where the first block of the stack is called again, unless
    the block there receives what the one before it returned: then the signal goes on.

    Args:
        signals: rows of `unrolled`.

    Returns:
        Columns ``network``, ``block``, ``module``, ``call``, ``label`` (the module, with ``#1``
        for its second call), ``stack`` (0, 1, ...), ``stack_name`` (the module above, with the
        call if it is a repeated one) and ``label_in_stack`` (the label without that name).
    """
    own = own_rows(signals)
    own = own[own["direction"] == "forward"]
    where = ["network", "block"]
    first = own.drop_duplicates([*where, "port"])
    facts = first[first["port"] == "out"].set_index(where)
    entry = first[first["port"] == "in"].set_index(where).reindex(facts.index)
    rows = facts[["kind", "module", "call", "second_moment"]].assign(
        entry=entry["second_moment"], count=entry["count"], channels=entry["channels"]
    )
    rows = rows.sort_index(level="block", sort_remaining=False, kind="stable").reset_index()
    parts = [_with_stacks(part) for _, part in rows.groupby("network", sort=False)]
    columns = [*where, "module", "call", "label", "stack", "stack_name", "label_in_stack"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _with_stacks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the positions of one network with the number and the name of their stack."""
    modules = [str(name) for name in rows["module"]]
    prefix = common_parent(modules)
    facts = [dict(row) for row in rows.to_dict("records")]
    parents = [_parent(fact["module"], fact["kind"] == "leaf", prefix) for fact in facts]
    start, stack = 0, [0] * len(facts)
    for here in range(1, len(facts)):
        ends = _ends(facts, parents, start, here)
        start = here if ends else start
        stack[here] = stack[here - 1] + ends
    first = [stack.index(number) for number in stack]
    calls = [int(call) for call in rows["call"]]
    suffix = [f"#{call}" if call else "" for call in calls]
    labels = [module + call for module, call in zip(modules, suffix, strict=True)]
    within = [
        (modules[here] if calls[here] == calls[at] else labels[here]).removeprefix(parents[at])
        for here, at in enumerate(first)
    ]
    return rows.assign(
        label=labels,
        stack=stack,
        stack_name=[parents[at] + suffix[at] for at in first],
        label_in_stack=[name.lstrip(".") for name in within],
    )


def _ends(facts: Sequence[Mapping[Any, Any]], parents: list[str], start: int, here: int) -> int:
    """Return 1 if a stack that began at ``start`` ends before ``here``, else 0."""
    before, now, first = facts[here - 1], facts[here], facts[start]
    same_module = now["module"] == before["module"]
    again = now["module"] == first["module"] and not same_module
    if parents[here] == parents[here - 1] and not again:
        return 0
    if np.isclose(now["entry"], before["second_moment"], rtol=SAME, atol=0):
        return 0
    stages = _differ_in_number(parents[here], parents[here - 1]) and not again
    return int(not (stages and now["channels"] != first["channels"]))


def _parent(module: str, leaf: bool, prefix: str) -> str:
    """Return the module above a block; of a leaf, the part of the network that it lies in."""
    parent = module.rpartition(".")[0]
    if not leaf:
        return parent
    return parent.removeprefix(prefix).lstrip(".").partition(".")[0]


def _differ_in_number(one: str, other: str) -> bool:
    """Return whether two names are alike up to numbers, as those of a network's stages are."""
    pairs = one.split("."), other.split(".")
    stripped = [[part.rstrip(_DIGITS) for part in parts] for parts in pairs]
    return stripped[0] == stripped[1]


def with_stack(rows: pd.DataFrame, order: pd.DataFrame) -> pd.DataFrame:
    """Return ``rows`` with the columns ``stack`` and ``stack_name`` of their block.

    Args:
        rows: columns ``network`` and ``block``.
        order: the frame of `blocks_in_order`; a block that it lacks is of stack 0.
    """
    known = order[["network", "block", "stack", "stack_name"]]
    joined = rows.merge(known, on=["network", "block"], how="left")
    return joined.fillna({"stack": 0, "stack_name": ""}).astype({"stack": "int64"})


def relative_gradient(rows: pd.DataFrame, order: pd.DataFrame) -> pd.DataFrame:
    """Return ``rows`` with the gradient's second moment over that of its stack's last block.

    Args:
        rows: one row per draw, step and block, with ``second_moment`` of the gradient.
        order: the frame of `blocks_in_order`.

    Returns:
        The rows with a column ``relative_gradient``, undefined (NaN) where the last block's
        gradient is not known, not finite or 0.
    """
    placed = with_stack(rows, order).sort_values("block", kind="stable")
    groups = placed.groupby([*DRAW, "step", "stack"], sort=False)
    at_end = placed["block"] == groups["block"].transform("max")
    end = placed["second_moment"].where(at_end & (placed["second_moment"] > 0))
    last = end.groupby([placed[name] for name in (*DRAW, "step", "stack")]).transform("max")
    relative = placed["second_moment"] / last.where(np.isfinite(last))
    return placed.assign(relative_gradient=relative)


def common_parent(modules: Sequence[str]) -> str:
    """Return the longest module path that all ``modules`` lie in; empty when there is none.

    Example:
        >>> common_parent(["transformer.h.0", "transformer.h.1"])
        'transformer.h'
        >>> common_parent(["layer1.0", "layer2.0"])
        ''
    """
    paths = [name.split(".")[:-1] for name in modules]
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
