"""What a law is judged by: per draw and block, a quantity before and after, and what made it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from sigprop.errors import BadInput, suggestion
from sigprop.records import Records
from sigprop.records.queries import own_rows
from sigprop.verification.annihilation import BREAKING, kinds
from sigprop.verification.calls import calls_as_blocks
from sigprop.verification.chosen import chosen_blocks
from sigprop.verification.laws import Law

_KEYS = ["seed", "module"]
PORTS = ("in", "skip", "branch", "out")
#: Quantities of a sum that are those of its operands added, where the operands do not correlate.
_ADDITIVE = ("second_moment", "channel_variance", "mean_shift")


def evidence(records: Records, law: Law, entered: bool = True) -> pd.DataFrame:
    """Return one row per draw (column ``seed``) and block, sorted.

    Args:
        records: of one network; a draw is a seed.
        law: names the quantity, the direction and the two ports to compare.
        entered: the model's inputs required a gradient, so that one must reach the first block.

    Returns:
        Columns ``seed``; ``block``, counted from 0 in execution order; ``name``; ``before`` and
        ``after``, the law's quantity on the two sides of the block in the direction of the law,
        missing where it was not read; ``kind``, what the block did to the signal where that is no
        ratio (see `annihilation`), else empty; ``transition``, whether the block changes width or
        resolution; ``stage``, counted from 0, a transition opening a new one; ``skip`` and
        ``branch``, what the operands of its addition keep and add of the law's quantity, relative
        to its input (of a gradient: what the skip passes, and the rest); ``skip_moment`` and
        ``branch_moment``, the same of the second moment on the way forward; ``correlation`` of
        the operands; ``share``, see `output_shares`. All of these are missing where the block has
        no such ports.

    Raises:
        BadInput: the blocks were never called or are containers, the law's quantity or port does
            not exist, or no block has both sides of it.
    """
    records = calls_as_blocks(records)
    blocks = chosen_blocks(records)
    _check_law(law, records)
    own = own_rows(records.signals[records.signals["call"] == 0])
    sides = {port: _side(own, law, port) for port in law.ports}
    first, last = law.ports if law.direction == "forward" else law.ports[::-1]
    seeds = np.sort(own["seed"].unique())
    grid = pd.MultiIndex.from_product([seeds, blocks["module"]], names=_KEYS)
    before, after = sides[first].reindex(grid), sides[last].reindex(grid)
    called = own.groupby(_KEYS).size().reindex(grid, fill_value=0) > 0
    bypassed = blocks.set_index("module")["bypassed"]
    found = pd.DataFrame(
        {
            "before": before[law.quantity],
            "after": after[law.quantity],
            "lost_before": before["nonfinite"].fillna(0) > 0,
            "lost_after": after["nonfinite"].fillna(0) > 0,
            "called": called,
            "bypassed": bypassed.reindex(grid.get_level_values("module")).to_numpy(),
            "transition": _transitions(*(sides[port].reindex(grid) for port in law.ports)),
        }
    ).join(_operands(own, law))
    if law.direction == "backward":
        found["branch"] = found["after"] / found["before"] - found["skip"]
    found = _numbered(found, blocks)
    backward = law.direction == "backward"
    found["kind"] = np.concatenate(
        [kinds(draw, backward, entered) for _, draw in found.groupby("seed")]
    )
    _check_sides(law, found, entered)
    found = _staged(found)
    return found.assign(share=math.nan if backward else output_shares(found))


def _side(own: pd.DataFrame, law: Law, port: str) -> pd.DataFrame:
    rows = own[(own["port"] == port) & (own["direction"] == law.direction)]
    return rows.drop_duplicates(_KEYS).set_index(_KEYS)


def _check_law(law: Law, records: Records) -> None:
    numbers = records.signals.select_dtypes("number").columns
    if law.quantity not in numbers:
        raise BadInput(
            f"law {law.name!r} is about {law.quantity!r}, which is no recorded quantity; "
            f"{suggestion(law.quantity, numbers)}"
        )
    for port in law.ports:
        if port not in PORTS:
            raise BadInput(
                f"law {law.name!r} is about a port {port!r}, which no block has; "
                f"{suggestion(port, PORTS)}"
            )


def _check_sides(law: Law, found: pd.DataFrame, entered: bool) -> None:
    """Raise for a law of which nothing was read, where no block is to blame for that.

    Raises:
        BadInput: a side of the law was read in no block.
    """
    read = found[["before", "after"]].notna() | found[["lost_before", "lost_after"]].to_numpy()
    broken = found["kind"].isin(BREAKING).any()
    if read.all(axis=1).any() or (broken and (entered or read.to_numpy().any())):
        return
    ports = f"the ports {law.ports[0]!r} and {law.ports[1]!r}"
    hint = "do they take and return real tensors?"
    if law.direction == "backward":
        hint = "does anything in this model require one?"
    elif {"skip", "branch"} & set(law.ports):
        hint = "is there a residual addition in them?"
    what = "gradient" if law.direction == "backward" else law.quantity.replace("_", " ")
    raise BadInput(
        f"no block has a {what} at {ports}: {hint} Records.coverage says what was read of each"
    )


def _transitions(entry: pd.DataFrame, exit_: pd.DataFrame) -> pd.Series:
    samples = [side["count"] / side["channels"] for side in (entry, exit_)]
    both = samples[0].notna() & samples[1].notna()
    differs = (entry["channels"] != exit_["channels"]) | (samples[0] != samples[1])
    return both & differs


def _numbered(found: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    order = blocks.set_index("module")["block"]
    table = found.reset_index().rename(columns={"module": "name"})
    table["block"] = table["name"].map(order).astype("int64")
    return table.sort_values(["seed", "block"], kind="stable", ignore_index=True)


def _staged(found: pd.DataFrame) -> pd.DataFrame:
    """Number the stages; a block that is a transition in one draw is one in all.

    Returns:
        The rows with a column ``stage``.
    """
    found["transition"] = found.groupby("block")["transition"].transform("any")
    per_block = found.groupby("block")["transition"].first()
    stage = per_block.cumsum() - int(per_block.iloc[0])
    return found.assign(stage=found["block"].map(stage).astype("int64"))


def _operands(own: pd.DataFrame, law: Law) -> pd.DataFrame:
    """Return the operands of each block's addition; a block with several has no one law of them.

    A skip that scales its input by α passes α² of the gradient's second moment too.
    """
    forward = own[own["direction"] == "forward"]
    sides = {
        port: forward[forward["port"] == port].drop_duplicates(_KEYS).set_index(_KEYS)
        for port in ("in", "skip", "branch")
    }
    additive = law.direction == "forward" and law.quantity in _ADDITIVE
    quantity = law.quantity if additive else "second_moment"

    def relative(port: str, name: str) -> pd.Series:
        return sides[port][name] / sides["in"][name]

    return pd.DataFrame(
        {
            "skip": relative("skip", quantity),
            "branch": relative("branch", quantity),
            "skip_moment": relative("skip", "second_moment"),
            "branch_moment": relative("branch", "second_moment"),
            "correlation": sides["branch"]["skip_branch_correlation"],
        }
    )


def output_shares(found: pd.DataFrame) -> pd.Series:
    """Return each block's share of its stage's output second moment, per row of `evidence`.

    The share of block k is branch_k · prod_{i>k} skip_i over the output, from measured operands:
    what RescaleNet's condition (b) makes equal (Shao et al. 2020). Shares and that of the stage's
    input add up to 1 less the cross terms.

    Args:
        found: rows of `evidence`.

    Returns:
        One number per row; missing where a block has no operands.
    """
    shares = pd.Series(np.nan, index=found.index)
    for _, stage in found.groupby(["seed", "stage"]):
        kept = stage["skip"].to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):  # a signal of 0 has no shares
            growth = (stage["after"] / stage["before"]).to_numpy()
            passed_on = np.append(np.cumprod(kept[::-1])[::-1][1:], 1.0)
            input_of = np.append(1.0, np.cumprod(growth)[:-1])
            part = stage["branch"].to_numpy() * input_of * passed_on / np.prod(growth)
        shares.loc[stage.index] = np.where(np.isfinite(part), part, np.nan)
    return shares
