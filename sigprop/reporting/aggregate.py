"""From draws to a line with a band: averages over seeds, and what could not be averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sigprop.reporting.glossary import Kind


def wants_log(values: ArrayLike, decades: float = 1.0) -> bool:
    """Return whether an axis for ``values`` should be logarithmic.

    It should when nothing finite is negative and the positive values span ``decades``. Zeros do
    not forbid it: they cannot be drawn on such an axis and are marked at its foot instead.

    Args:
        values: what is drawn.
        decades: powers of ten from which on a linear axis would hide the small values.

    Example:
        >>> wants_log([1.0, 2.0, 1024.0])
        True
        >>> wants_log([0.9, 1.1]), wants_log([-1.0, 1000.0]), wants_log([float("nan")])
        (False, False, False)
    """
    array = np.asarray(values, dtype=float)
    finite = array[np.isfinite(array)]
    positive = finite[finite > 0]
    if len(positive) == 0 or (finite < 0).any():
        return False
    span = np.log10(positive.max()) - np.log10(positive.min())
    return bool(span >= decades)


def over_seeds(frame: pd.DataFrame, quantity: str, by: Sequence[str], kind: Kind) -> pd.DataFrame:
    """Return mean and range over draws of one quantity.

    Args:
        frame: one row per draw, with a column ``quantity`` and perhaps a boolean ``nonfinite``.
        quantity: the column to average.
        by: the columns that stay, such as network and block.
        kind: ``"scale"`` takes the geometric mean (0 if any draw is 0), the rest the arithmetic.

    Returns:
        The columns ``by``, then ``center``, ``low`` and ``high`` (smallest and largest draw) over
        the draws with a finite value, ``seeds`` (how many), ``nonfinite`` (draws with an infinite
        value or non-finite elements) and ``undefined`` (draws whose value is NaN otherwise).
    """
    value = frame[quantity].astype("float64")
    flagged = (
        frame["nonfinite"].astype(bool) if "nonfinite" in frame else pd.Series(False, frame.index)
    )
    finite = pd.Series(np.isfinite(value), frame.index)
    bad = flagged | pd.Series(np.isinf(value), frame.index)
    kept = value.where(finite)
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0 is -inf on purpose: the mean is 0
        averaged = np.log(kept) if kind == "scale" else kept
    work = frame[list(by)].assign(
        center=averaged,
        low=kept,
        high=kept,
        seeds=finite.astype("int64"),
        nonfinite=bad.astype("int64"),
        undefined=(value.isna() & ~bad).astype("int64"),
    )
    how = {
        "center": "mean",
        "low": "min",
        "high": "max",
        "seeds": "sum",
        "nonfinite": "sum",
        "undefined": "sum",
    }
    table = work.groupby(list(by), sort=True).agg(how).reset_index()
    if kind == "scale":
        table["center"] = np.exp(table["center"])
    return table
