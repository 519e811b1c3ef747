"""One row per network: what happened to signal, gradients and training, in numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sigprop.diagnosis.growth import CRITERION
from sigprop.records import Records
from sigprop.records.queries import (
    at_first_step,
    by_block,
    dead_by_block,
    in_training_mode,
    own_rows,
    weights_by_block,
)
from sigprop.records.sequence import blocks_in_order, relative_gradient, unrolled, with_stack
from sigprop.records.training import divergences, evaluated, final_values, train_rows
from sigprop.reporting.aggregate import over_seeds
from sigprop.reporting.travel import MOMENTS, travel

#: Column of the summary -> what it says.
SUMMARY: Mapping[str, str] = {
    "network": "name of the network",
    "seeds": "independent draws (run and seed) of the forward pass",
    "blocks": "blocks recorded; a block that is called several times counts once per call",
    "stack": "of several stacks of blocks (towers, encoder and decoder), the one that the numbers "
    "below describe: where the second moment goes furthest from its start",
    "growth": "geometric, linear or uneven; " + CRITERION,
    "growth_per_block": "geometric or uneven: exp of the slope of log second moment over blocks; "
    "linear: what the second moment gains per block; mean over seeds",
    "growth_standard_error": "standard error of that over seeds",
    "total_ratio": "second moment at the last block's output over that at the start",
    "blocks_spanned": "blocks from the start (the first block's input, else its output) to the end",
    "highest_ratio": "largest second moment of a block's output over the start, mean over seeds",
    "lowest_ratio": "smallest second moment of a block's output over the start, mean over seeds",
    "largest_fold": "largest factor between any block's output and the start, up or down, "
    "mean over seeds",
    "channel_variance_ratio": "channel variance at the last block's output over that at the start",
    "theory_ratio": "measured over predicted second moment, at the block where they differ most",
    "theory_block": "the block where that is",
    "theory_standard_error": "standard error over seeds of the logarithm of that ratio",
    "mean_shift_share": "largest mean_shift / second_moment over blocks",
    "dead_fraction": "largest share of dead units over blocks",
    "dead_block": "the block where that is",
    "nonfinite_from_block": "first block with a non-finite activation at initialization",
    "nonfinite_elements": "non-finite elements of that block's output, over all seeds",
    "nonfinite_of": "elements of that block's output, over all seeds",
    "gradient_ratio": "gradient second moment at the first block that has one over that at the "
    "last, in the stack where it changes most",
    "gradient_from_block": "the first block of that stack with a gradient",
    "gradient_blocks": "blocks of that stack with a gradient",
    "gradient_missing": "blocks of all stacks whose output has no gradient",
    "nonfinite_gradients": "blocks with a non-finite gradient at initialization",
    "grad_to_weight": "median over blocks of gradient-to-weight at the first recorded step",
    "final_loss": "training loss at the last step, mean over seeds",
    "final_accuracy": "accuracy at the last evaluation, mean over seeds",
    "diverged_at": "first step with a non-finite training loss in any seed",
    "diverged_seeds": "how many seeds diverged",
}
_GRADIENTS = ["gradient_ratio", "gradient_from_block", "gradient_blocks"]
_COUNTS = (
    "seeds",
    "blocks",
    "blocks_spanned",
    "theory_block",
    "dead_block",
    "nonfinite_from_block",
    "nonfinite_elements",
    "nonfinite_of",
    "gradient_from_block",
    "gradient_blocks",
    "gradient_missing",
    "nonfinite_gradients",
    "diverged_at",
    "diverged_seeds",
)


def summarize(records: Records, predictions: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row per network with the columns of `SUMMARY`; what is unknown is missing.

    Args:
        records: what was seen.
        predictions: theory, with the columns ``network``, ``block``, ``direction``, ``quantity``
            and ``value``.
    """
    signals = at_first_step(unrolled(records.signals))
    order = blocks_in_order(signals)
    facts = pd.DataFrame(index=pd.Index(records.networks(), name="network"))
    for part in (
        travel(signals, order),
        _against_theory(signals, predictions),
        _worst(by_block(signals, MOMENTS), dead_by_block(signals)),
        _nonfinite(signals),
        _gradients(signals, order),
        _weights(records.parameters),
        _outcome(records.training),
    ):
        facts = facts.join(part)
    facts = facts.reset_index().reindex(columns=list(SUMMARY))
    return facts.astype(dict.fromkeys(_COUNTS, "Int64"))


def _against_theory(signals: pd.DataFrame, predictions: pd.DataFrame | None) -> pd.DataFrame:
    """Return where the measured second moment differs most from the predicted one."""
    if predictions is None or predictions.empty:
        return pd.DataFrame()
    chosen = (predictions["direction"] == "forward") & (predictions["quantity"] == "second_moment")
    known = predictions.loc[chosen, ["network", "block", "value"]]
    known = known[np.isfinite(known["value"].astype("float64")) & (known["value"] > 0)]
    rows = by_block(signals, "second_moment").merge(known, on=["network", "block"])
    rows = rows[~rows["nonfinite"] & (rows["second_moment"] > 0)]
    if rows.empty:
        return pd.DataFrame()
    logs = np.log(rows["second_moment"]) - np.log(rows["value"].astype("float64"))
    table = logs.groupby([rows["network"], rows["block"]]).agg(["mean", "sem"]).reset_index()
    furthest = table.loc[table["mean"].abs().groupby(table["network"]).idxmax()]
    furthest = furthest.set_index("network")
    return pd.DataFrame(
        {
            "theory_ratio": np.exp(furthest["mean"]),
            "theory_block": furthest["block"],
            "theory_standard_error": furthest["sem"],
        }
    )


def _nonfinite(signals: pd.DataFrame) -> pd.DataFrame:
    """Return the first block with non-finite activations, and how many they are."""
    rows = own_rows(in_training_mode(signals[signals["direction"] == "forward"]))
    rows = rows[rows["port"] == "out"]
    broken = (rows["nonfinite"] > 0) | np.isinf(rows["second_moment"])
    first = rows["block"].where(broken).groupby(rows["network"]).transform("min")
    there = rows[rows["block"] == first].groupby("network")
    return pd.DataFrame(
        {
            "nonfinite_from_block": there["block"].first(),
            "nonfinite_elements": there["nonfinite"].sum(),
            "nonfinite_of": there["count"].sum(),
        }
    )


def _worst(forward: pd.DataFrame, dead: pd.DataFrame) -> pd.DataFrame:
    """Return the largest share of mean shift and of dead units, over blocks that are finite."""
    positive = forward["second_moment"].where(forward["second_moment"] > 0)
    forward, positive = forward[~forward["nonfinite"]], positive[~forward["nonfinite"]]
    share = over_seeds(
        forward.assign(share=forward["mean_shift"] / positive),
        "share",
        ["network", "block"],
        "share",
    )
    units = over_seeds(dead, "dead_fraction", ["network", "block"], "share")
    at_worst = units.dropna(subset="center").sort_values("center", kind="stable", ascending=False)
    worst = at_worst.groupby("network")[["center", "block"]].first()
    return pd.DataFrame(
        {
            "mean_shift_share": share.groupby("network")["center"].max(),
            "dead_fraction": worst["center"],
            "dead_block": worst["block"],
        }
    )


def _gradients(signals: pd.DataFrame, order: pd.DataFrame) -> pd.DataFrame:
    """Return how the gradient travels back through the stack in which it changes most."""
    raw = by_block(signals, "second_moment", "backward")
    where = ["network", "block"]
    marked = over_seeds(raw, "second_moment", where, "scale")
    broken = (marked["nonfinite"] > 0).groupby(marked["network"]).sum()
    relative = relative_gradient(raw[~raw["nonfinite"]], order)
    table = over_seeds(relative, "relative_gradient", where, "scale")
    table = with_stack(table[table["seeds"] > 0], order)
    rows = []
    for (network, _), blocks in table.groupby(["network", "stack"], sort=True):
        first = blocks.iloc[0]
        rows.append(
            {
                "network": network,
                "gradient_ratio": first["center"] if len(blocks) > 1 else np.nan,
                "gradient_from_block": first["block"],
                "gradient_blocks": len(blocks),
            }
        )
    found = pd.DataFrame(rows, columns=["network", *_GRADIENTS])
    with np.errstate(divide="ignore"):
        change = found["gradient_ratio"].astype("float64").map(np.log).abs().fillna(-1.0)
    worst = found.loc[change.groupby(found["network"]).idxmax()].set_index("network")
    seen = marked[(marked["seeds"] > 0) | (marked["nonfinite"] > 0)].groupby("network").size()
    blocks_of = order.groupby("network").size()
    missing = (blocks_of - seen).clip(lower=0)
    return worst.assign(nonfinite_gradients=broken, gradient_missing=missing)


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
