"""Evidence judged: one verdict per block and one per stage, with simultaneous intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sigprop.verification.annihilation import (
    BREAKING,
    NO_SIGNAL,
    NOT_READ,
    NOT_STATED,
    sentence,
)
from sigprop.verification.intervals import (
    HOLDS,
    UNDECIDED,
    VIOLATED,
    judge,
    log_mean_interval,
    more_draws,
)
from sigprop.verification.looks import levels

#: Verdict of a block that changes width or resolution: a law is not stated across it.
TRANSITION = "transition"

#: Columns of a result's table, all of them always there.
COLUMNS = (
    "stage",
    "block",
    "name",
    "predicted",
    "measured",
    "low",
    "high",
    "spread",
    "correlation",
    "skip",
    "branch",
    "share",
    "verdict",
    "kind",
    "share_of_seeds",
    "more_seeds_low",
    "more_seeds_high",
    "reason",
)

_BLANK: dict[str, object] = {
    **dict.fromkeys(COLUMNS, math.nan),
    "more_seeds_low": 0,
    "more_seeds_high": 0,
    "kind": "",
    "reason": "",
}
_BLANK["share_of_seeds"] = 0.0


def judgment(
    found: pd.DataFrame,
    targets: Mapping[int, float],
    tolerance: float,
    level: float,
    quantity: str = "second_moment",
    unit: str = "seeds",
    looks: int = 1,
) -> pd.DataFrame:
    """Return the table of a result: a row per block, then one per stage as a whole.

    A small error in every block may hide inside the tolerance and still explode with depth: the
    stage's own row shows it. Looks, stages and blocks share the error probability (see `looks`),
    so that all intervals hold together at ``level``.

    A block that ends the signal, in any draw, breaks the law whatever its ratios are elsewhere.

    Args:
        found: rows of `evidence`.
        targets: block -> log of the ratio that the law predicts.
        tolerance: relative deviation that still holds.
        level: confidence of all intervals together.
        quantity: the law's column, for sentences.
        unit: what a draw is, for sentences: seeds, or batches of one model.
        looks: how many times the draws are judged as more of them are made, this time included.

    Returns:
        A frame with the columns `COLUMNS`.
    """
    inside = found[~found["transition"]]
    counted = inside["block"].nunique(), inside["stage"].nunique()
    block_level, stage_level = levels(level, looks, *counted)
    rows = [
        *_blocks(found, targets, tolerance, block_level, (quantity, unit)),
        *_stages(inside, targets, tolerance, stage_level, unit),
    ]
    return pd.DataFrame([{**_BLANK, **row} for row in rows], columns=list(COLUMNS))


def worth_more(table: pd.DataFrame, left: int) -> bool:
    """Return whether further draws can be expected to decide.

    Args:
        table: what `judgment` returned.
        left: how many draws can still be made.
    """
    open_rows = table[table["verdict"] == UNDECIDED]
    settled = {HOLDS, UNDECIDED, TRANSITION, NOT_STATED}
    decidable = len(open_rows) > 0 and set(table["verdict"]) <= settled
    return decidable and int(open_rows["more_seeds_low"].max()) <= left


def _blocks(
    found: pd.DataFrame,
    targets: Mapping[int, float],
    tolerance: float,
    level: float,
    words: tuple[str, str],
) -> Iterator[dict[str, Any]]:
    for _, draws in found.groupby(["stage", "block"]):
        first = draws.iloc[0]
        row = {"stage": int(first["stage"]), "block": int(first["block"]), "name": first["name"]}
        row |= {key: draws[key].mean() for key in ("correlation", "skip", "branch", "share")}
        ended = _ended(draws, *words)
        row["predicted"] = float(np.exp(targets[row["block"]]))
        if ended:
            yield row | ended
        elif draws["transition"].any():
            reason = "width or resolution changes"
            yield {**row, "predicted": np.nan, "verdict": TRANSITION, "reason": reason}
        else:
            ratios = (draws["after"] / draws["before"])[draws["kind"] == ""].to_numpy()
            silent = _silent(draws, words[1])
            if len(ratios) < 2:
                yield row | silent
            else:
                yield row | silent | _verdict(ratios, targets[row["block"]], tolerance, level)


def _ended(draws: pd.DataFrame, quantity: str, unit: str) -> dict[str, Any]:
    """Return the verdict on a block that ends the signal in any draw; empty on any other."""
    broken = draws[draws["kind"].isin(BREAKING)]
    if broken.empty:
        return {}
    kind = str(broken["kind"].mode().iloc[0])
    return {
        "verdict": VIOLATED,
        "kind": kind,
        "share_of_seeds": float((draws["kind"] == kind).mean()),
        "reason": sentence(kind, draws, quantity, unit),
    }


#: What a block says of draws that it cannot be judged by.
_SILENCE = {
    NO_SIGNAL: "no signal arrives in {n} of {of}: another block ended it",
    NOT_READ: "not read in {n} of {of}: its forward was called directly, not the module",
    NOT_STATED: "nothing to compare in {n} of {of}: no real tensor or gradient on one side",
}


def _silent(draws: pd.DataFrame, unit: str) -> dict[str, Any]:
    """Return what is said of a block's draws that have no ratio."""
    left_out = draws.loc[draws["kind"] != "", "kind"]
    if left_out.empty:
        return {}
    kind = str(left_out.mode().iloc[0])
    reason = _SILENCE[kind].format(n=int((draws["kind"] == kind).sum()), of=f"{len(draws)} {unit}")
    return {
        "verdict": kind,
        "kind": kind,
        "share_of_seeds": float((draws["kind"] == kind).mean()),
        "reason": reason,
    }


def _stages(
    inside: pd.DataFrame,
    targets: Mapping[int, float],
    tolerance: float,
    level: float,
    unit: str,
) -> Iterator[dict[str, Any]]:
    stated = inside[~inside["kind"].isin([NOT_STATED, NOT_READ])]
    for number, draws in stated.groupby("stage"):
        blocks = sorted(draws["block"].unique())
        row = {"stage": number, "block": -1, "name": f"blocks {blocks[0]}-{blocks[-1]} together"}
        ended = draws[draws["kind"].isin(BREAKING)]
        whole = draws.groupby("seed")["kind"].transform(lambda kinds: (kinds == "").all())
        kept = draws[whole]
        growth = (kept["after"] / kept["before"]).groupby(kept["seed"]).prod().to_numpy()
        target = float(sum(targets[int(block)] for block in blocks))
        if not ended.empty:
            yield row | _ended_stage(draws, ended, unit)
        elif len(growth) < 2:
            yield {**row, "verdict": NO_SIGNAL, "reason": "no signal passes through all blocks"}
        else:
            yield row | _verdict(growth, target, tolerance, level)


def _ended_stage(draws: pd.DataFrame, ended: pd.DataFrame, unit: str) -> dict[str, Any]:
    names = ", ".join(ended["name"].unique()[:3])
    seeds, of = ended["seed"].nunique(), draws["seed"].nunique()
    return {
        "verdict": VIOLATED,
        "kind": str(ended["kind"].mode().iloc[0]),
        "share_of_seeds": seeds / of,
        "reason": f"the signal does not pass {names} in {seeds} of {of} {unit}",
    }


def _verdict(ratios: np.ndarray, target: float, tolerance: float, level: float) -> dict[str, Any]:
    """Return the verdict on ratios of draws, shape (draws,), all of them positive and finite."""
    row: dict[str, Any] = {"predicted": float(np.exp(target))}
    interval = log_mean_interval(ratios, level)
    verdict = judge(interval, target, tolerance)
    if verdict == UNDECIDED:
        fewest, most = more_draws(interval, target, tolerance, level)
        row |= {"more_seeds_low": fewest, "more_seeds_high": most}
    return {
        **row,
        "measured": float(np.exp(interval.estimate)),
        "low": float(np.exp(interval.low)),
        "high": float(np.exp(interval.high)),
        "spread": float(np.log(ratios).std(ddof=1)),
        "verdict": verdict,
    }
