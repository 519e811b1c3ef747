"""Blocks that end a signal: what became of it, and which block did it first.

A quantity that is exactly zero, not finite or absent has no ratio. It is not left out of a
verdict: the block that made it so breaks every law that is about the quantity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

#: What a block did in one draw; empty where its ratio can be judged.
KILLED = "killed"
CUT = "cut from the loss"
NOT_FINITE = "not finite"
SKIPPED = "skipped"
FROM_NOTHING = "from nothing"
#: The same, where it was done in front of the first block.
BEFORE = " before the first block"
#: Another block did it, and nothing arrives here.
NO_SIGNAL = "no signal"
#: The law has nothing to compare here, by design: no real tensor, or no gradient in front.
NOT_STATED = "not stated"
#: The block's code ran without a call of the module, where nothing is read.
NOT_READ = "not read"

#: What breaks a law.
BREAKING = (
    KILLED,
    CUT,
    NOT_FINITE,
    SKIPPED,
    FROM_NOTHING,
    KILLED + BEFORE,
    CUT + BEFORE,
    NOT_FINITE + BEFORE,
)

_SENTENCES = {
    KILLED: "kills the signal{share}: the {quantity} is {before:.3g} in front of it and exactly 0 "
    "after it",
    CUT: "is cut from the loss{share}: no gradient passes it",
    NOT_FINITE: "makes the signal not finite{share}: the {quantity} in front of it is finite, "
    "after it are NaN or infinite values",
    SKIPPED: "is skipped{share}: it was never called",
    FROM_NOTHING: "makes a signal from nothing{share}: the {quantity} is exactly 0 in front of it "
    "and {after:.3g} after it",
    KILLED + BEFORE: "receives no signal{share}: the {quantity} is exactly 0 in front of it, and "
    "no block did that",
    CUT + BEFORE: "is cut from the loss{share}: no gradient arrives, and no block did that",
    NOT_FINITE + BEFORE: "receives a signal that is not finite{share}, and no block did that",
}


def sentence(kind: str, draws: pd.DataFrame, quantity: str, unit: str = "seeds") -> str:
    """Return what a block did, in words, with the share of draws in which it did so.

    Args:
        kind: one of `BREAKING`.
        draws: the rows of one block in `evidence`.
        quantity: the law's column.
        unit: what a draw is: seeds, or batches of one model.

    Returns:
        ``"kills the signal in 2 of 16 seeds (4, 9): the second moment is ..."``.
    """
    alike = draws[draws["kind"] == kind]
    seeds = [str(seed) for seed in alike["seed"]]
    which = ", ".join(seeds[:5]) + (", ..." if len(seeds) > 5 else "")
    share = f" in {len(alike)} of {len(draws)} {unit}"
    if len(alike) < len(draws):
        share += f" ({which})"
    return _SENTENCES[kind].format(
        share=share,
        quantity=quantity.replace("_", " "),
        before=alike["before"].mean(),
        after=alike["after"].mean(),
    )


def kinds(draw: pd.DataFrame, backward: bool, entered: bool) -> list[str]:
    """Return what every block did in one draw, in the order of the rows.

    Args:
        draw: one row per block in execution order: ``called``; ``bypassed``, whether its code ran
            without a call; ``before`` and ``after`` (missing where nothing was read);
            ``lost_before`` and ``lost_after`` (values that are not finite).
        backward: the law follows the gradient, from the last block to the first.
        entered: the model's inputs require a gradient, so that one must reach the first block.
    """
    rows: list[Any] = list(draw.itertuples())
    followed = rows[::-1] if backward else rows
    found = list(_follow(followed, backward, entered))
    return found[::-1] if backward else found


def _follow(rows: list[Any], backward: bool, entered: bool) -> Iterator[str]:
    ended = False  # by a block further up, or in front of the first one
    for row in rows:
        last = row is rows[-1]
        kind = _absent(row, backward, by_design=last and not entered)
        kind = kind or _changed(row)
        arrived_dead = kind in (KILLED + BEFORE, CUT + BEFORE, NOT_FINITE + BEFORE)
        if arrived_dead and ended:
            kind = NO_SIGNAL
        if row.called:
            ended = arrived_dead or kind in (KILLED, NOT_FINITE) or _cut_here(row, kind)
        yield kind


def _cut_here(row: Any, kind: str) -> bool:
    """Return whether nothing reaches the blocks in front of one that is cut from the loss."""
    return kind == CUT and math.isnan(row.after)


def _absent(row: Any, backward: bool, by_design: bool) -> str:
    """Return the kind of a block where something was not read, or an empty string."""
    if not row.called:
        return NOT_READ if row.bypassed else SKIPPED
    before, after = not math.isnan(row.before), not math.isnan(row.after)
    if (before or row.lost_before) and (after or row.lost_after):
        return ""
    if not backward:
        return NOT_STATED
    if not before and not row.lost_before:
        return CUT if after else CUT + BEFORE
    return NOT_STATED if by_design else CUT


def _changed(row: Any) -> str:
    """Return what a block did to a quantity that was read on both sides."""
    if row.lost_before or math.isinf(row.before):
        return NOT_FINITE + BEFORE
    if row.lost_after or math.isinf(row.after):
        return NOT_FINITE
    if row.before == 0:
        return KILLED + BEFORE if row.after == 0 else FROM_NOTHING
    ratio = row.after / row.before
    if ratio == 0:
        return KILLED
    return NOT_FINITE if math.isinf(ratio) else ""
