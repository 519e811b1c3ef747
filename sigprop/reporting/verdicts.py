"""One word on each network, with the thresholds behind it. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from sigprop.words import known

Level = Literal["bad", "warn", "good", "none"]
Row = Mapping[str, Any]

#: Factors from the start: within the first the signal is steady, beyond the second it drifts
#: (where no theory predicts that), from the third on it explodes or vanishes.
STEADY, WIDE, EXTREME = 1.1, 10.0, 1e3
#: Change per block up to which a drift is slow enough for any depth in use.
SLOW = 1.1
#: Factor between measurement and theory that counts as a difference.
OFF = 2.0
#: Standard errors by which a difference from theory has to exceed chance.
CERTAIN = 3.0

#: Verdict -> how bad it is and what it means; printed on the page below the headline.
VERDICTS: Mapping[str, tuple[Level, str]] = {
    "diverged": ("bad", "the training loss stopped being finite"),
    "not finite": ("bad", "activations or gradients are not finite at initialization"),
    "explodes": (
        "bad",
        "at some block the second moment is 1000 times its start or more, and it does not grow "
        "along a straight line",
    ),
    "vanishes": ("bad", "at some block the second moment is 1/1000 of its start or less"),
    "off theory": (
        "warn",
        "theory predicts this network, and at some block the measured second moment differs from "
        "it by more than a factor of 2 and, with several seeds, by more than 3 standard errors",
    ),
    "drifts": (
        "warn",
        "no theory predicts this network, and the second moment leaves its start by more than a "
        "factor of 10, by more than 10 % per block, and not along a straight line",
    ),
    "gradient drifts": (
        "warn",
        "activations are in order, and the gradient's second moment changes by a factor of 1000 "
        "or more between the last block and the first",
    ),
    "steady": ("good", "the second moment stays within 10 % of its start at every block"),
    "as predicted": (
        "good",
        "the second moment leaves its start by more than 10 %, as theory predicts",
    ),
    "in range": (
        "good",
        "no theory predicts this network, and the second moment stays within a factor of 10 of "
        "its start, or changes by less than 10 % per block or along a straight line",
    ),
    "not measured": ("none", "no block outputs of a forward pass were recorded"),
}


def verdict(row: Row) -> str:
    """Return the first of the `VERDICTS` that the numbers of a network support.

    A network is judged against its own theory where there is one, and by the factors and rates
    in `VERDICTS` where there is none. Whatever theory predicts, 1000 times is too much.

    Args:
        row: the columns of `SUMMARY`, missing where unknown.
    """
    if known(row["diverged_at"]):
        return "diverged"
    if known(row["nonfinite_from_block"]) or (
        known(row["nonfinite_gradients"]) and row["nonfinite_gradients"] > 0
    ):
        return "not finite"
    if not known(row["total_ratio"]):
        return "not measured"
    straight = known(row["growth"]) and row["growth"] == "linear"
    high, low = _extremes(row)
    if high >= EXTREME and not straight:
        return "explodes"
    if low <= 1 / EXTREME:
        return "vanishes"
    forward = _judged(row, straight)
    if forward in ("off theory", "drifts"):
        return forward
    return "gradient drifts" if _gradient_drifts(row) and not straight else forward


def _judged(row: Row, straight: bool) -> str:
    """Return the verdict on a second moment that neither explodes nor vanishes."""
    fold, predicted = row["largest_fold"], known(row["theory_ratio"])
    if predicted and _differs(row):
        return "off theory"
    if fold <= STEADY:
        return "steady"
    if predicted:
        return "as predicted"
    slow = fold <= SLOW ** int(row["blocks_spanned"]) if known(row["blocks_spanned"]) else False
    return "in range" if fold <= WIDE or slow or straight else "drifts"


def _extremes(row: Row) -> tuple[float, float]:
    """Return the largest and smallest ratio to the start over all blocks."""
    high = row["highest_ratio"] if known(row["highest_ratio"]) else row["total_ratio"]
    low = row["lowest_ratio"] if known(row["lowest_ratio"]) else row["total_ratio"]
    return float(high), float(low)


def _differs(row: Row) -> bool:
    """Return whether the measurement differs from theory by more than chance and a factor of 2."""
    log = abs(math.log(row["theory_ratio"]))
    error = row["theory_standard_error"] if known(row["theory_standard_error"]) else 0.0
    return log > math.log(OFF) and log > CERTAIN * float(error)


def _gradient_drifts(row: Row) -> bool:
    ratio = row["gradient_ratio"]
    return known(ratio) and not 1 / EXTREME < ratio < EXTREME
