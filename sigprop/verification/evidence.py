"""What a law is judged by: per draw and block, a quantity before and after, and what made it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sigprop.errors import BadInput
from sigprop.records import Records
from sigprop.records.queries import own_rows
from sigprop.verification.laws import Law

_KEYS = ["seed", "block"]


def evidence(records: Records, law: Law) -> pd.DataFrame:
    """Return one row per draw (column ``seed``) and block, sorted.

    Columns: ``name``; ``before`` and ``after``, the law's quantity on the two sides of the block
    in the direction of the law; ``nonfinite``; ``transition``, whether the block changes width or
    resolution; ``stage``, counted from 0, a transition opening a new one; ``skip`` and ``branch``,
    second moments of the operands of its addition relative to its input, and ``correlation``
    (missing where the block has no such ports).

    Raises:
        BadInput: no block has both an input and an output of the law's quantity.
    """
    rows = records.signals
    own = own_rows(rows[rows["call"] == 0])
    sides = {
        port: own[(own["port"] == port) & (own["direction"] == law.direction)]
        .groupby(_KEYS)
        .first()
        for port in ("in", "out")
    }
    table = sides["in"].merge(
        sides["out"], left_index=True, right_index=True, suffixes=("_in", "_out")
    )
    if table.empty:
        raise BadInput(
            f"no block has a {law.direction} {law.quantity} at both its input and its output; "
            "is there a gradient, and are the blocks right? See Records.coverage"
        )
    first, last = ("in", "out") if law.direction == "forward" else ("out", "in")
    found = pd.DataFrame(
        {
            "name": table["name_out"],
            "before": table[f"{law.quantity}_{first}"],
            "after": table[f"{law.quantity}_{last}"],
            "nonfinite": table["nonfinite_in"] + table["nonfinite_out"] > 0,
            "transition": _transitions(table),
        }
    )
    return found.join(_operands(own)).pipe(_staged).reset_index()


def _transitions(table: pd.DataFrame) -> pd.Series:
    samples = {side: table[f"count_{side}"] / table[f"channels_{side}"] for side in ("in", "out")}
    return (table["channels_in"] != table["channels_out"]) | (samples["in"] != samples["out"])


def _staged(found: pd.DataFrame) -> pd.DataFrame:
    opened = found["transition"].groupby(level="seed").cumsum()
    starts_inside = ~found["transition"].groupby(level="seed").transform("first").astype(bool)
    return found.assign(stage=opened - 1 + starts_inside.astype(int))


def _operands(own: pd.DataFrame) -> pd.DataFrame:
    """Return the operands of each block's addition; a block with several has no one law of them."""
    forward = own[own["direction"] == "forward"]
    ports = {
        port: forward[forward["port"] == port].groupby(_KEYS).first()
        for port in ("in", "skip", "branch")
    }
    base = ports["in"]["second_moment"]
    return pd.DataFrame(
        {
            "skip": ports["skip"]["second_moment"] / base,
            "branch": ports["branch"]["second_moment"] / base,
            "correlation": ports["branch"]["skip_branch_correlation"],
        }
    )


def output_shares(found: pd.DataFrame) -> pd.Series:
    """Return each block's share of its stage's output second moment, per row of `evidence`.

    The share of block k is branch_k · prod_{i>k} skip_i over the output, from measured operands:
    what RescaleNet's condition (b) makes equal (Shao et al. 2020). Shares and that of the stage's
    input add up to 1 less the cross terms.
    """
    shares = pd.Series(np.nan, index=found.index)
    for _, stage in found.groupby(["seed", "stage"]):
        kept = stage["skip"].to_numpy()
        growth = (stage["after"] / stage["before"]).to_numpy()
        passed_on = np.append(np.cumprod(kept[::-1])[::-1][1:], 1.0)
        input_of = np.append(1.0, np.cumprod(growth)[:-1])
        shares.loc[stage.index] = (
            stage["branch"].to_numpy() * input_of * passed_on / np.prod(growth)
        )
    return shares
