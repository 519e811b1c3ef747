"""One row per network: what happened to signal, gradients and training, in numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sigprop.records import Records
from sigprop.records.queries import (
    DRAW,
    at_first_step,
    by_block,
    dead_by_block,
    relative_gradient,
    weights_by_block,
)
from sigprop.reporting.aggregate import over_seeds
from sigprop.reporting.training import divergences, evaluated, final_values, train_rows

MOMENTS = ["second_moment", "channel_variance", "mean_shift"]

#: Column of the summary -> what it says.
SUMMARY: Mapping[str, str] = {
    "network": "name of the network",
    "seeds": "independent draws (run and seed) of the forward pass",
    "blocks": "blocks recorded",
    "growth_per_block": "exp of the slope of log second moment over block index, mean over seeds",
    "growth_standard_error": "standard error of that over seeds",
    "total_ratio": "second moment at the last block's output over that at the start",
    "blocks_spanned": "blocks from the start (the first block's input, else its output) to the end",
    "largest_fold": "largest factor between any block's output and the start, up or down",
    "channel_variance_ratio": "channel variance at the last block's output over that at the start",
    "mean_shift_share": "largest mean_shift / second_moment over blocks",
    "dead_fraction": "largest share of dead units over blocks",
    "dead_block": "the block where that is",
    "nonfinite_from_block": "first block with a non-finite activation at initialization",
    "gradient_ratio": "gradient second moment at the first block over that at the last",
    "nonfinite_gradients": "blocks with a non-finite gradient at initialization",
    "grad_to_weight": "median over blocks of gradient-to-weight at the first recorded step",
    "final_loss": "training loss at the last step, mean over seeds",
    "final_accuracy": "accuracy at the last evaluation, mean over seeds",
    "diverged_at": "first step with a non-finite training loss in any seed",
    "diverged_seeds": "how many seeds diverged",
}
_COUNTS = (
    "seeds",
    "blocks",
    "blocks_spanned",
    "dead_block",
    "nonfinite_from_block",
    "nonfinite_gradients",
    "diverged_at",
    "diverged_seeds",
)


def summarize(records: Records) -> pd.DataFrame:
    """Return one row per network with the columns of `SUMMARY`; what is unknown is missing."""
    signals = at_first_step(records.signals)
    forward = by_block(signals, MOMENTS)
    start = by_block(signals, MOMENTS, port="in")
    facts = pd.DataFrame(index=pd.Index(records.networks(), name="network"))
    for part in (
        _travel(forward, start),
        _worst(forward, dead_by_block(signals)),
        _gradients(signals),
        _weights(records.parameters),
        _outcome(records.training),
    ):
        facts = facts.join(part)
    facts = facts.reset_index().reindex(columns=list(SUMMARY))
    return facts.astype(dict.fromkeys(_COUNTS, "Int64"))


def slope(blocks: pd.Series[int], values: pd.Series[float]) -> float:
    """Return the least-squares slope of log ``values`` over ``blocks``; NaN for fewer than two.

    Values that are not finite and positive have no logarithm and are left out.

    Example:
        >>> round(slope(pd.Series([0, 1, 2]), pd.Series([1.0, 2.0, 4.0])), 6)
        0.693147
    """
    kept = np.isfinite(values) & (values > 0)
    x = blocks[kept].to_numpy(dtype=float)
    if len(x) < 2:
        return float("nan")
    y = np.log(values[kept].to_numpy(dtype=float))
    centered = x - x.mean()
    return float((centered * (y - y.mean())).sum() / (centered**2).sum())


def _travel(forward: pd.DataFrame, start: pd.DataFrame) -> pd.DataFrame:
    """How far the second moment goes from the first block's input to the last block's output."""
    rows = []
    for draw, blocks in forward.groupby(DRAW, sort=False):
        ordered = blocks.sort_values("block")
        entry, spanned = _entry(start, draw, ordered)
        end = ordered.iloc[-1]
        folds = [abs(_log_ratio(v, entry["second_moment"])) for v in ordered["second_moment"]]
        rows.append(
            {
                "network": draw[0],
                "slope": slope(ordered["block"], ordered["second_moment"]),
                "log_total": _log_ratio(end["second_moment"], entry["second_moment"]),
                "log_channel": _log_ratio(end["channel_variance"], entry["channel_variance"]),
                "log_fold": pd.Series(folds).max(),
                "blocks": len(ordered),
                "blocks_spanned": spanned,
            }
        )
    if not rows:
        return pd.DataFrame()
    draws = pd.DataFrame(rows).groupby("network")
    mean = draws[["slope", "log_total", "log_channel", "log_fold"]].mean()
    growth = np.exp(mean["slope"])
    return pd.DataFrame(
        {
            "seeds": draws.size(),
            "blocks": draws["blocks"].max(),
            "growth_per_block": growth,
            "growth_standard_error": growth * draws["slope"].sem(),
            "total_ratio": np.exp(mean["log_total"]),
            "blocks_spanned": draws["blocks_spanned"].max(),
            "largest_fold": np.exp(mean["log_fold"]),
            "channel_variance_ratio": np.exp(mean["log_channel"]),
        }
    )


def _entry(
    start: pd.DataFrame, draw: tuple[object, ...], ordered: pd.DataFrame
) -> tuple[pd.Series[float], int]:
    """Return the row that is the start, and how many blocks lie between it and the end."""
    same = (start[DRAW] == list(draw)).all(axis=1) & (start["block"] == ordered["block"].iloc[0])
    if same.any():
        return start.loc[same].iloc[0], len(ordered)
    return ordered.iloc[0], len(ordered) - 1


def _log_ratio(value: float, base: float) -> float:
    both = np.isfinite(value) and np.isfinite(base) and value > 0 and base > 0
    return float(np.log(value) - np.log(base)) if both else float("nan")


def _worst(forward: pd.DataFrame, dead: pd.DataFrame) -> pd.DataFrame:
    """The blocks where mean shift, dead units and non-finite values are worst."""
    positive = forward["second_moment"].where(forward["second_moment"] > 0)
    share = over_seeds(
        forward.assign(share=forward["mean_shift"] / positive),
        "share",
        ["network", "block"],
        "share",
    )
    units = over_seeds(dead, "dead_fraction", ["network", "block"], "share")
    at_worst = units.dropna(subset="center").sort_values("center", kind="stable", ascending=False)
    worst = at_worst.groupby("network")[["center", "block"]].first()
    broken = over_seeds(forward, "second_moment", ["network", "block"], "scale")
    broken = broken[broken["nonfinite"] > 0]
    return pd.DataFrame(
        {
            "mean_shift_share": share.groupby("network")["center"].max(),
            "dead_fraction": worst["center"],
            "dead_block": worst["block"],
            "nonfinite_from_block": broken.groupby("network")["block"].min(),
        }
    )


def _gradients(signals: pd.DataFrame) -> pd.DataFrame:
    rows = relative_gradient(signals)
    table = over_seeds(rows, "relative_gradient", ["network", "block"], "scale")
    raw = over_seeds(rows, "second_moment", ["network", "block"], "scale")
    broken = (raw["nonfinite"] > 0).groupby(raw["network"]).sum()
    first = table.groupby("network").head(1).set_index("network")["center"]
    return pd.DataFrame({"gradient_ratio": first, "nonfinite_gradients": broken})


def _weights(parameters: pd.DataFrame) -> pd.DataFrame:
    blocks = at_first_step(weights_by_block(parameters))
    table = over_seeds(blocks, "grad_to_weight", ["network", "block"], "scale")
    return table.groupby("network")["center"].median().rename("grad_to_weight").to_frame()


def _outcome(training: pd.DataFrame) -> pd.DataFrame:
    loss = train_rows(training)
    broken = divergences(loss)
    return pd.DataFrame(
        {
            "final_loss": pd.Series(final_values(loss, "loss"), dtype="float64"),
            "final_accuracy": pd.Series(
                final_values(evaluated(training)[0], "accuracy"), dtype="float64"
            ),
            "diverged_at": pd.Series({n: c.step for n, c in broken.items()}, dtype="Int64"),
            "diverged_seeds": pd.Series({n: c.diverged for n, c in broken.items()}, dtype="Int64"),
        }
    )
