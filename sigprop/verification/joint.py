"""A law of several quantities at once: the evidence of each, side by side in one table.

Each quantity has blocks and a stage of its own, so that the error probability is shared by all of
them as it is by blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from sigprop.records import Records
from sigprop.theory import Prediction
from sigprop.verification.annihilation import NOT_STATED, kinds
from sigprop.verification.causes import explained
from sigprop.verification.evidence import evidence, output_shares
from sigprop.verification.intervals import VIOLATED
from sigprop.verification.laws import Law


def joint_evidence(
    records: Records, law: Law, prediction: Prediction | None, entered: bool = True
) -> tuple[pd.DataFrame, dict[int, float]]:
    """Return the rows of `evidence` for every part of a law, and what each should be.

    Args:
        records: of one network; a draw is a seed.
        law: of one quantity, or of several parts.
        prediction: what theory predicts of the network, if anything.
        entered: the model's inputs required a gradient.

    Returns:
        Rows of `evidence`, a part's blocks and stages numbered behind those of the part before it,
        and block -> log of the ratio that the law predicts. A part is left out where theory has no
        number for any of its blocks.

    Raises:
        BadInput: a part is of a quantity or port that does not exist, or has no prediction.
    """
    frames: list[pd.DataFrame] = []
    targets: dict[int, float] = {}
    blocks = stages = 0
    for part in law.parts or (law,):
        found = _evidence(records, part, entered)
        indices = np.sort(found["block"].unique())
        ratios = part.ratios(indices.astype(np.float64), prediction)
        if law.parts and not np.isfinite(ratios).all():
            continue
        targets |= dict(zip((indices + blocks).tolist(), np.log(ratios).tolist(), strict=True))
        named = found.assign(
            block=found["block"] + blocks, stage=found["stage"] + stages, part=part.name
        )
        frames.append(named)
        blocks, stages = int(named["block"].max()) + 1, int(named["stage"].max()) + 1
    return pd.concat(frames, ignore_index=True), targets


def joint_causes(
    table: pd.DataFrame,
    found: pd.DataFrame,
    law: Law,
    without_zeros: Callable[[], pd.DataFrame | None],
) -> pd.DataFrame:
    """Return the table with a reason in every violated row, each part explained by itself.

    A share, and what compares a block with its neighbor, has no operands to be explained by.

    Args:
        table: what `judgment` made of `joint_evidence`.
        found: that evidence.
        law: the law of both.
        without_zeros: as for `causes.explained`, of a law of one quantity.
    """
    if law.neighbors:
        return _unexplained(table, "differs from the block before it")
    if not law.parts:
        return explained(table, found, law, without_zeros)
    pieces = []
    for part in law.parts:
        rows = found[found["part"] == part.name]
        piece = table[table["stage"].isin(rows["stage"].unique())]
        other = "its share of the second moment is another"
        pieces.append(_unexplained(piece, other) if part.share else explained(piece, rows, part))
    return pd.concat(pieces).sort_index()


def _unexplained(table: pd.DataFrame, reason: str) -> pd.DataFrame:
    open_rows = (table["verdict"] == VIOLATED) & (table["reason"] == "")
    return table.assign(reason=table["reason"].mask(open_rows, reason))


def renumbered(table: pd.DataFrame, found: pd.DataFrame, law: Law) -> pd.DataFrame:
    """Return a verdict's table with the blocks of each part counted from 0 again.

    Args:
        table: what `judgment` made of `joint_evidence`.
        found: that evidence.
        law: the law of both.

    Returns:
        The table, names saying which part a row speaks of.
    """
    if not law.parts:
        return table
    table = table.copy()
    per_stage = found.groupby("stage")["part"].first()
    first = found.groupby("stage")["block"].min()
    part, start = table["stage"].map(per_stage), table["stage"].map(first)
    inside = table["block"] >= 0
    table["name"] = [
        f"{name}: {what}" if own else f"{what}: all blocks together"
        for name, what, own in zip(table["name"], part, inside, strict=True)
    ]
    table["block"] = table["block"].where(~inside, table["block"] - start)
    table["stage"] = 0
    return table


def _evidence(records: Records, part: Law, entered: bool) -> pd.DataFrame:
    found = evidence(records, part, entered)
    if part.share:
        # of the second moment: a share near 0 has no stable ratio, 1 + share has
        whole = evidence(records, replace(part, quantity="second_moment"), entered)
        for side in ("before", "after"):
            whole[side] = 1 + found[side] / whole[side]
        found = whole
    if part.neighbors == "shares":
        found = _compared(found, output_shares(found))
    elif part.neighbors == "parameters":
        found = _compared(found, _weight_gradients(records, found))
    if part.across_stages:
        found = found.assign(transition=False, stage=0)
    return found


def _compared(found: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """Return the rows with a number of each block, and that of the block before it in its stage."""
    made = found.assign(after=values, called=True, bypassed=False)
    made["before"] = made.groupby(["seed", "stage"])["after"].shift()
    made["lost_before"] = made["lost_after"] = False
    first = made["before"].isna()
    # the two sides of the first block are its own number, so that one of 0 is seen there too
    filled = made.assign(before=made["before"].fillna(made["after"]))
    told = np.concatenate([kinds(draw, False, True) for _, draw in filled.groupby("seed")])
    ended = found["kind"] != ""
    made["kind"] = np.where(ended, found["kind"], told)
    made.loc[first & (made["kind"] == ""), "kind"] = NOT_STATED
    return made


def _weight_gradients(records: Records, found: pd.DataFrame) -> pd.Series:
    """Return the mean squared gradient of the weights (not of gains and biases) of each block."""
    weights = records.parameters[records.parameters["ndim"] >= 2]
    keys = [weights["seed"], weights["block"]]
    square = (weights["grad_norm"] ** 2).groupby(keys).sum(min_count=1)
    per_weight = square / weights["count"].groupby(keys).sum()
    rows = pd.MultiIndex.from_frame(found[["seed", "block"]])
    return pd.Series(per_weight.reindex(rows).to_numpy(), index=found.index)
