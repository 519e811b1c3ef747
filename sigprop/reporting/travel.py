"""How far the second moment goes over the blocks of a network, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sigprop.diagnosis.growth import line, shape, slope
from sigprop.records.queries import DRAW, by_block
from sigprop.records.sequence import with_stack

MOMENTS = ["second_moment", "channel_variance", "mean_shift"]
_LOGS = ["log_total", "log_channel", "log_high", "log_low", "log_fold"]


def travel(signals: pd.DataFrame, order: pd.DataFrame) -> pd.DataFrame:
    """Return, by network, how the second moment changes from the first block's input on.

    Values at blocks with non-finite elements are left out: they would be those of the finite rest.

    Args:
        signals: rows of `unrolled`, of one step per draw.
        order: the frame of `blocks_in_order`.

    Returns:
        Columns of the summary, from ``seeds`` to ``channel_variance_ratio``; of several stacks of
        blocks, those of the stack where the second moment goes furthest from its start.
    """
    forward = with_stack(_finite(by_block(signals, MOMENTS)), order)
    start = _finite(by_block(signals, MOMENTS, port="in"))
    start = start.set_index([*DRAW, "block"])
    draws = pd.DataFrame(
        [
            {"network": keys[0], "stack": keys[-1], **_of_draw(blocks, start)}
            for keys, blocks in forward.groupby([*DRAW, "stack"], sort=False)
        ]
    )
    if draws.empty:
        return pd.DataFrame()
    rows = [
        {"network": network, **_of_stack(forward, some)}
        for (network, _), some in draws.groupby(["network", "stack"], sort=False)
    ]
    stacks = pd.DataFrame(rows)
    furthest = np.log(stacks["largest_fold"]).fillna(-1.0).groupby(stacks["network"]).idxmax()
    table = stacks.loc[furthest].set_index("network")
    several = stacks.groupby("network").size() > 1
    table["stack"] = table["stack"].where(several)
    return table.assign(blocks=stacks.groupby("network")["blocks"].sum())


def _finite(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``rows`` without the moments of blocks that hold non-finite elements."""
    return rows.assign(**{name: rows[name].mask(rows["nonfinite"]) for name in MOMENTS})


def _of_draw(blocks: pd.DataFrame, start: pd.DataFrame) -> dict[str, Any]:
    """Return what one draw does over the blocks of one stack."""
    ordered = blocks.sort_values("block", kind="stable").reset_index(drop=True)
    first, end = ordered.iloc[0], ordered.iloc[-1]
    key = (*(first[name] for name in DRAW), first["block"])
    known = key in start.index
    entry = start.loc[key] if known else first
    logs = pd.Series(
        [_log_ratio(value, entry["second_moment"]) for value in ordered["second_moment"]]
    )
    position = pd.Series(ordered.index)
    return {
        "slope": slope(position, ordered["second_moment"]),
        "step": line(position, ordered["second_moment"]).step,
        "log_total": logs.iloc[-1],
        "log_channel": _log_ratio(end["channel_variance"], entry["channel_variance"]),
        "log_high": logs.max(),
        "log_low": logs.min(),
        "log_fold": logs.abs().max(),
        "blocks": len(ordered),
        "blocks_spanned": len(ordered) if known else len(ordered) - 1,
    }


def _of_stack(forward: pd.DataFrame, draws: pd.DataFrame) -> dict[str, Any]:
    """Return the mean over the draws of one stack."""
    rows = forward.merge(draws[["network", "stack"]].drop_duplicates())
    with np.errstate(divide="ignore"):
        logs = np.log(rows["second_moment"].where(rows["second_moment"] > 0))
    mean = np.exp(logs.groupby(rows["block"]).mean()).reset_index(drop=True)
    form = shape(pd.Series(mean.index), mean)
    ratios = np.exp(draws[_LOGS].mean())
    if form == "linear":
        growth, error = draws["step"].mean(), draws["step"].sem()
    else:
        growth = np.exp(draws["slope"].mean())
        error = growth * draws["slope"].sem()
    return {
        "stack": rows["stack_name"].iloc[0],
        "seeds": len(draws),
        "blocks": draws["blocks"].max(),
        "growth": form,
        "growth_per_block": growth,
        "growth_standard_error": error,
        "total_ratio": ratios["log_total"],
        "blocks_spanned": draws["blocks_spanned"].max(),
        "highest_ratio": ratios["log_high"],
        "lowest_ratio": ratios["log_low"],
        "largest_fold": ratios["log_fold"],
        "channel_variance_ratio": ratios["log_channel"],
    }


def _log_ratio(value: float, base: float) -> float:
    both = np.isfinite(value) and np.isfinite(base) and value > 0 and base > 0
    return float(np.log(value) - np.log(base)) if both else float("nan")
