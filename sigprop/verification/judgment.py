"""Evidence judged: one verdict per block and one per stage, with simultaneous intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sigprop.verification.evidence import output_shares
from sigprop.verification.intervals import (
    UNDECIDED,
    VIOLATED,
    judge,
    log_mean_interval,
    more_draws,
)

#: Verdicts of rows on which a law is silent.
TRANSITION, SILENT = "transition", "no signal"


def judgment(
    found: pd.DataFrame, targets: Mapping[int, float], tolerance: float, level: float
) -> pd.DataFrame:
    """Return the table of a result: a row per block, then one per stage as a whole.

    A small error in every block may hide inside the tolerance and still explode with depth: the
    stage's own row shows it. Half of the error probability goes to the stages' rows, half is
    shared by the blocks' (Bonferroni), so that all intervals hold together at ``level``.

    Args:
        found: rows of `evidence`.
        targets: block -> log of the ratio that the law predicts.
        tolerance: relative deviation that still holds.
        level: confidence of all intervals together.
    """
    inside = found[~found["transition"]]
    half = (1 - level) / 2
    block_level = 1 - half / max(1, inside["block"].nunique())
    stage_level = 1 - half / max(1, inside["stage"].nunique())
    return pd.DataFrame(
        [
            *_blocks(found.assign(share=output_shares(found)), targets, tolerance, block_level),
            *_stages(inside, targets, tolerance, stage_level),
        ]
    )


def _blocks(
    found: pd.DataFrame, targets: Mapping[int, float], tolerance: float, level: float
) -> Iterator[dict[str, Any]]:
    for _, draws in found.groupby(["stage", "block"]):
        first = draws.iloc[0]
        row = {"stage": int(first["stage"]), "block": int(first["block"]), "name": first["name"]}
        row |= {key: draws[key].mean() for key in ("correlation", "skip", "branch", "share")}
        if draws["transition"].any():
            yield {**row, "verdict": TRANSITION, "reason": "width or resolution changes"}
        else:
            ratios = (draws["after"] / draws["before"]).to_numpy()
            yield row | _verdict(ratios, draws, targets[row["block"]], tolerance, level)


def _stages(
    inside: pd.DataFrame, targets: Mapping[int, float], tolerance: float, level: float
) -> Iterator[dict[str, Any]]:
    ratios = inside["after"] / inside["before"]
    for number, draws in inside.assign(ratio=ratios).groupby("stage"):
        blocks = sorted(draws["block"].unique())
        name = f"blocks {blocks[0]}-{blocks[-1]} together"
        growth = draws.groupby("seed")["ratio"].prod(min_count=1).to_numpy()
        target = float(sum(targets[int(block)] for block in blocks))
        row = {"stage": number, "block": -1, "name": name}
        yield row | _verdict(growth, draws, target, tolerance, level)


def _verdict(
    ratios: np.ndarray, draws: pd.DataFrame, target: float, tolerance: float, level: float
) -> dict[str, Any]:
    row: dict[str, Any] = {"predicted": float(np.exp(target)), "more_seeds": 0, "reason": ""}
    broken: Sequence[int] = draws.loc[draws["nonfinite"], "seed"].tolist()
    if broken:
        return {**row, "verdict": VIOLATED, "reason": f"non-finite values with seed {broken[0]}"}
    if not (np.isfinite(ratios) & (ratios > 0)).all():
        return {**row, "verdict": SILENT, "reason": "the quantity is 0 on one side"}
    interval = log_mean_interval(ratios, level)
    verdict = judge(interval, target, tolerance)
    if verdict == UNDECIDED:
        row["more_seeds"] = more_draws(interval, target, tolerance, level)
    return {
        **row,
        "measured": float(np.exp(interval.estimate)),
        "low": float(np.exp(interval.low)),
        "high": float(np.exp(interval.high)),
        "spread": float(np.log(ratios).std(ddof=1)),
        "verdict": verdict,
    }
