"""Which rows a question is about: pure selections of the frames. No seeds averaged, no drawing.

Every function returns one row per network, run, seed and block (and step where that varies).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.records.schema import SCHEMA

#: Which of the recorded steps: the last or first of each draw, one by its number, or None for all.
Step = int | str | None

#: Whole numbers of a row that can be asked for by block.
COUNTS = ("count", "channels")
#: What makes one independent draw: the same seed in two runs counts twice.
DRAW = ["network", "run", "seed"]
#: Kinds of the modules that were chosen: blocks, or leaves where those were asked for.
CHOSEN = ("block", "leaf")
STEP_AND_BLOCK = [*DRAW, "step", "block"]


def in_training_mode(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of training mode; for a network that has none, all its rows."""
    train = frame["mode"] == "train"
    has_train = train.groupby(frame["network"]).transform("any")
    return frame[train | ~has_train.astype(bool)]


def at_first_step(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each draw's first recorded step."""
    return frame[frame["step"] == frame.groupby(DRAW)["step"].transform("min")]


def at_last_step(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each draw's last recorded step."""
    return frame[frame["step"] == frame.groupby(DRAW)["step"].transform("max")]


def own_rows(signals: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the chosen modules themselves, without taps inside or outside them."""
    return signals[signals["kind"].isin(CHOSEN)]


def at_step(rows: pd.DataFrame, step: Step) -> pd.DataFrame:
    """Return the rows of one step.

    Args:
        rows: a frame with the columns of a draw and ``step``.
        step: ``"last"`` or ``"first"`` of each draw, a step's number, or None for all.

    Raises:
        BadInput: no row has that number, or ``step`` is none of the above.
    """
    if step is None or not len(rows):
        return rows
    if step in ("first", "last"):
        return at_first_step(rows) if step == "first" else at_last_step(rows)
    found = rows[rows["step"] == step]
    if isinstance(step, str) or not len(found):
        steps = sorted(rows["step"].unique())
        shown = map(str, steps if len(steps) <= 8 else [*steps[:4], "...", *steps[-3:]])
        raise BadInput(f"step is 'first', 'last', None or one of {', '.join(shown)}, not {step!r}")
    return found


def by_block(
    signals: pd.DataFrame,
    quantity: str | Sequence[str],
    direction: str = "forward",
    port: str = "out",
    step: Step = None,
) -> pd.DataFrame:
    """Return a number of every block: how it travels through the depth.

    Rows of training mode are taken; of a network that has none, those of evaluation mode. Several
    calls of a block in one step are averaged. ``nonfinite`` is true where any element was NaN or
    infinite, even though the moments are taken over the finite ones.

    Args:
        signals: the frame of that name.
        quantity: a column of it, or several.
        direction: ``"forward"`` or ``"backward"``.
        port: ``"out"``, ``"in"``, ``"skip"`` or ``"branch"``.
        step: see `at_step`.

    Returns:
        Columns ``network, run, seed, step, block, module, *quantity, nonfinite``, sorted.

    Raises:
        UnknownName: a quantity, direction or port has no such name.
        BadInput: there is no such step.
    """
    wanted = [quantity] if isinstance(quantity, str) else list(quantity)
    numbers = [str(name) for name in signals.columns[signals.dtypes == "float64"]]
    for what, asked, known in (
        *(("number", name, [*numbers, *COUNTS]) for name in wanted),
        ("direction", direction, SCHEMA["signals"]["direction"].codes),
        ("port", port, SCHEMA["signals"]["port"].codes),
    ):
        if asked not in known:
            raise UnknownName(
                f"no {what} of signals is called {asked!r}; {suggestion(asked, known)}"
            )
    rows = in_training_mode(signals[signals["direction"] == direction])
    rows = own_rows(rows[rows["port"] == port])
    return at_step(_collapse(rows, wanted, module="first"), step)


def _collapse(rows: pd.DataFrame, columns: Sequence[str], **others: str) -> pd.DataFrame:
    marked = rows.assign(nonfinite=rows["nonfinite"] > 0)
    how = {**others, **dict.fromkeys(columns, "mean"), "nonfinite": "any"}
    return marked.groupby(STEP_AND_BLOCK, sort=True).agg(how).reset_index()


def without_rounding(rows: pd.DataFrame, smallest: float = 1e-12) -> pd.DataFrame:
    """Return ``rows`` with a mean shift of 0 where it is rounding: below 1e-12 of the whole.

    A tensor centered in float32 keeps a mean shift of about 1e-15 of its second moment, which
    would stretch a logarithmic axis over a dozen empty decades.

    Args:
        rows: rows of `signals`.
        smallest: value below which a number is rounding.
    """
    whole = rows["second_moment"].where(np.isfinite(rows["second_moment"]))
    tiny = rows["mean_shift"] < smallest * whole
    return rows.assign(mean_shift=rows["mean_shift"].mask(tiny, 0.0))


def dead_by_block(signals: pd.DataFrame) -> pd.DataFrame:
    """Return ``dead_fraction`` per block: its rectified taps' mean, weighted by channels."""
    rows = in_training_mode(signals[signals["direction"] == "forward"])
    rows = rows[(rows["block"] >= 0) & (rows["port"] == "out") & rows["dead_fraction"].notna()]
    weight = rows["channels"].clip(lower=1).astype("float64")
    weighed = rows.assign(
        _dead=rows["dead_fraction"] * weight, _weight=weight, nonfinite=rows["nonfinite"] > 0
    )
    how = {"_dead": "sum", "_weight": "sum", "nonfinite": "any"}
    sums = weighed.groupby(STEP_AND_BLOCK, sort=True).agg(how).reset_index()
    sums["dead_fraction"] = sums["_dead"] / sums["_weight"]
    return sums[[*STEP_AND_BLOCK, "dead_fraction", "nonfinite"]]


def residual_operands(signals: pd.DataFrame) -> pd.DataFrame:
    """Return ``branch_to_skip`` and ``skip_branch_correlation`` per block.

    A skip of exactly 0 leaves the ratio undefined (NaN).
    """
    rows = in_training_mode(signals[(signals["direction"] == "forward") & (signals["block"] >= 0)])
    where = [*STEP_AND_BLOCK, "name", "call"]
    columns = [*where, "second_moment", "nonfinite"]
    skip = rows.loc[rows["port"] == "skip", columns]
    branch = rows.loc[rows["port"] == "branch", [*columns, "skip_branch_correlation"]]
    pairs = branch.merge(skip, on=where, suffixes=("", "_skip"))
    below = pairs["second_moment_skip"].where(pairs["second_moment_skip"] != 0)
    pairs["branch_to_skip"] = pairs["second_moment"] / below
    pairs["nonfinite"] = pairs["nonfinite"] + pairs["nonfinite_skip"]
    return _collapse(pairs, ["branch_to_skip", "skip_branch_correlation"])


def weight_matrices(parameters: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of parameters with two axes or more (matrices, kernels) in a block."""
    return parameters[(parameters["block"] >= 0) & (parameters["ndim"] >= 2)]


def weights_by_block(parameters: pd.DataFrame) -> pd.DataFrame:
    """Return the geometric means over a block's matrices of both ratios to the weight."""
    ratios = ["grad_to_weight", "update_to_weight"]
    rows = weight_matrices(parameters)
    with np.errstate(divide="ignore"):  # a gradient of exactly 0 makes the geometric mean 0
        logs = rows.assign(**{name: np.log(rows[name]) for name in ratios})
    infinite = rows[[*ratios, "grad_norm", "weight_norm"]].abs().max(axis=1) == np.inf
    # a norm of NaN means a NaN in the weight itself; a gradient's may only be absent
    marked = logs.assign(nonfinite=infinite | rows["weight_norm"].isna())
    how = {**dict.fromkeys(ratios, "mean"), "nonfinite": "any"}
    blocks = marked.groupby(STEP_AND_BLOCK, sort=True).agg(how).reset_index()
    return blocks.assign(**{name: np.exp(blocks[name]) for name in ratios})
