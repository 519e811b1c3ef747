"""Evidence and judgment on numbers made by hand: every figure follows from a formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sigprop
from sigprop import BadInput
from sigprop.theory import predict
from sigprop.verification.annihilation import kinds
from sigprop.verification.causes import cause
from sigprop.verification.evidence import evidence, output_shares
from sigprop.verification.intervals import (
    MOST_DRAWS,
    UPPER,
    Interval,
    _allowed,
    judge,
    log_mean_interval,
    more_draws,
    quantile,
)
from sigprop.verification.judgment import COLUMNS, judgment, worth_more
from sigprop.verification.laws import LAWS, law_of
from sigprop.verification.looks import levels
from sigprop.verification.result import Result

EDGE = math.log(1.05)


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, 0.01, low, high, 16)


# --- the edge of the tolerance -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.999 * EDGE, 0.999 * EDGE, "holds"),
        (-0.999 * EDGE, 1.001 * EDGE, "undecided"),
        (-1.001 * EDGE, 0.999 * EDGE, "undecided"),
        (0.999 * EDGE, 2 * EDGE, "undecided"),
        (1.001 * EDGE, 2 * EDGE, "violated"),
        (-2 * EDGE, -1.001 * EDGE, "violated"),
        (-2 * EDGE, -0.999 * EDGE, "undecided"),
    ],
)
def test_the_edge_is_the_logarithm_of_one_plus_the_tolerance(
    low: float, high: float, verdict: str
) -> None:
    """Within one per mille: a tolerance that is 5 % wider or narrower changes four of these."""
    assert judge(interval(low, high), 0.0, 0.05) == verdict
    assert judge(interval(low + 0.7, high + 0.7), 0.7, 0.05) == verdict


def test_students_t_has_one_degree_of_freedom_less_than_draws() -> None:
    """Table values of the t distribution: 2.131450 at 15, 12.706205 at 1 degree of freedom."""
    assert quantile(0.95, 16) == pytest.approx(2.131450, abs=1e-6)
    assert quantile(0.95, 2) == pytest.approx(12.706205, abs=1e-6)
    r = np.array([0.9, 1.2, 1.05, 0.95])
    found = log_mean_interval(r, 0.95)
    error = math.sqrt(((r - r.mean()) ** 2).sum() / 3) / (r.mean() * 2)
    assert found.error == pytest.approx(error, rel=1e-12)
    assert found.estimate - found.low == pytest.approx(3.182446 * error, rel=1e-6)
    assert found.high - found.estimate == pytest.approx(1.4 * 3.182446 * error, rel=1e-6)


def test_more_draws_end_at_ten_thousand_and_begin_at_one() -> None:
    edge = Interval(EDGE, 0.01, EDGE - 0.02, EDGE + 0.02, 16)
    assert more_draws(edge, 0.0, 0.05, 0.95)[1] == MOST_DRAWS
    sure = Interval(0.0, 1e-9, -1e-9, 1e-9, 16)
    assert more_draws(sure, 0.0, 0.05, 0.95) == (1, 1)


def needed(deviation: float, spread: float, level: float) -> int:
    """The number of draws that decides when deviation and spread are known, counted one by one."""
    draws = 2
    while True:
        error = spread / math.sqrt(draws)
        half = quantile(level, draws) * error
        around = Interval(deviation, error, deviation - half, deviation + 1.4 * half, draws)
        if judge(around, 0.0, 0.05) != "undecided":
            return draws
        draws += 1


@pytest.mark.parametrize(("deviation", "spread"), [(0.0, 0.1), (0.02, 0.06), (0.1, 0.15)])
def test_the_true_number_of_draws_lies_in_the_interval(deviation: float, spread: float) -> None:
    """Both ends of two 80 % intervals: in 300 sets of 6 draws, at least 80 % hold the truth.

    Less four standard errors, 4 sqrt(.8 · .2 / 300) = 0.09. A single number, the rule of before,
    lies within a fifth of the truth in less than half of the sets.
    """
    rng = np.random.default_rng(0)
    truth = needed(deviation, spread, 0.95) - 6
    ratios = np.exp(deviation) * rng.normal(1, spread, (300, 6))
    held = 0
    for draws in ratios:
        low, high = more_draws(log_mean_interval(draws, 0.95), 0.0, 0.05, 0.95)
        assert 1 <= low <= high <= MOST_DRAWS
        held += low <= truth <= high
    assert held / 300 > 0.8 - 0.09


# --- looks ---------------------------------------------------------------------------------------


def test_the_error_is_spent_once_over_all_looks_blocks_and_stages() -> None:
    """6 looks of 10 blocks and 2 stages: all errors add up to 5 %, four fifths on the stages."""
    block, stage = levels(0.95, 6, 10, 2)
    assert 6 * (10 * (1 - block) + 2 * (1 - stage)) == pytest.approx(0.05, rel=1e-9)
    assert 6 * 2 * (1 - stage) == pytest.approx(0.04, rel=1e-9)
    assert levels(0.95, 1, 0, 0) == pytest.approx((0.99, 0.96))  # nothing to divide by


def table_of(*verdicts: str, low: int = 10) -> pd.DataFrame:
    return pd.DataFrame({"verdict": list(verdicts), "more_seeds_low": low})


@pytest.mark.parametrize(
    ("table", "left", "expected"),
    [
        (table_of("holds", "undecided"), 10, True),
        (table_of("holds", "undecided"), 9, False),
        (table_of("holds", "transition"), 10, False),
        (table_of("undecided", "violated"), 10, False),
        (table_of("undecided", "not read"), 10, False),
        (table_of("undecided", "not stated"), 10, True),
    ],
)
def test_more_is_drawn_only_where_it_can_decide(
    table: pd.DataFrame, left: int, expected: bool
) -> None:
    assert worth_more(table, left) is expected


# --- what a draw shows ---------------------------------------------------------------------------


def draw(*pairs: tuple[float, float], called: str = "") -> pd.DataFrame:
    """Rows of one draw: (before, after) per block; infinite values stand for lost ones."""
    return pd.DataFrame(
        {
            "before": [b for b, _ in pairs],
            "after": [a for _, a in pairs],
            "lost_before": [math.isinf(b) for b, _ in pairs],
            "lost_after": [math.isinf(a) for _, a in pairs],
            "called": [c != "n" for c in called.ljust(len(pairs), "y")],
            "bypassed": [False] * len(pairs),
        }
    )


NAN, INF = math.nan, math.inf
FORWARD = {
    "alive": (draw((1, 2), (2, 1)), ["", ""]),
    "killed, and nothing arrives": (
        draw((1, 0), (0, 0), (0, 0)),
        ["killed", "no signal", "no signal"],
    ),
    "a ratio too small for a float is 0": (draw((1e300, 1e-300)), ["killed"]),
    "a ratio too large for a float": (draw((1e-300, 1e300)), ["not finite"]),
    "overflow": (draw((1, INF), (INF, INF)), ["not finite", "no signal"]),
    "overflow in front": (
        draw((INF, INF), (INF, INF)),
        ["not finite before the first block", "no signal"],
    ),
    "dead in front": (draw((0, 0), (0, 0)), ["killed before the first block", "no signal"]),
    "killed twice": (
        draw((1, 0), (0, 3), (3, 0), (0, 0)),
        ["killed", "from nothing", "killed", "no signal"],
    ),
    "skipped": (draw((1, 1), (NAN, NAN), (1, 1), called="yny"), ["", "skipped", ""]),
    "whole numbers arrive": (draw((NAN, 1), (1, 1)), ["not stated", ""]),
}
BACKWARD = {
    # before is the gradient at the output; the last block comes first
    "alive": (draw((1, 2), (2, 1)), True, ["", ""]),
    "cut": (
        draw((NAN, NAN), (1, NAN), (1, 1)),
        True,
        ["no signal", "cut from the loss", ""],
    ),
    "no gradient at all": (
        draw((NAN, NAN), (NAN, NAN)),
        True,
        ["no signal", "cut from the loss before the first block"],
    ),
    "the first block of tokens": (draw((1, NAN), (1, 1)), False, ["not stated", ""]),
    "the first block of numbers": (draw((1, NAN), (1, 1)), True, ["cut from the loss", ""]),
    "its output is cut, its input is used elsewhere": (
        draw((1, 1), (NAN, 1)),
        True,
        ["", "cut from the loss"],
    ),
    "killed": (draw((0, 0), (1, 0), (1, 1)), True, ["no signal", "killed", ""]),
}


@pytest.mark.parametrize(("rows", "expected"), FORWARD.values(), ids=FORWARD)
def test_kinds_forward(rows: pd.DataFrame, expected: list[str]) -> None:
    assert kinds(rows, backward=False, entered=False) == expected


@pytest.mark.parametrize(("rows", "entered", "expected"), BACKWARD.values(), ids=BACKWARD)
def test_kinds_backward(rows: pd.DataFrame, entered: bool, expected: list[str]) -> None:
    assert kinds(rows, backward=True, entered=entered) == expected


# --- evidence ------------------------------------------------------------------------------------


def found(ratios: np.ndarray, transition: tuple[int, ...] = (), **columns: Any) -> pd.DataFrame:
    """Evidence of ``ratios``, shape (draws, blocks), starting from 1."""
    draws, blocks = ratios.shape
    after = np.cumprod(ratios, axis=1)
    before = np.hstack([np.ones((draws, 1)), after[:, :-1]])
    block = np.tile(np.arange(blocks), draws)
    opened = np.isin(np.arange(blocks), transition)
    stage = np.cumsum(opened) - int(opened[0])
    table = {
        "seed": np.repeat(np.arange(draws), blocks),
        "block": block,
        "name": [f"b{k}" for k in block],
        "before": before.ravel(),
        "after": after.ravel(),
        "kind": "",
        "transition": np.tile(opened, draws),
        "stage": np.tile(stage, draws),
        "skip": np.nan,
        "branch": np.nan,
        "correlation": np.nan,
        "share": np.nan,
    }
    return pd.DataFrame({**table, **columns})


def targets(blocks: int) -> dict[int, float]:
    return dict.fromkeys(range(blocks), 0.0)


RATIOS = np.array([[1.0, 1.1, 0.9, 1.0], [1.1, 0.9, 1.0, 1.0], [0.9, 1.0, 1.1, 1.05]])


def test_blocks_and_stages_share_the_error_by_bonferroni() -> None:
    """Four fifths of 5 % over two stages is 2 % each; a fifth over the three blocks is 0.333 %."""
    table = judgment(found(RATIOS, transition=(1,)), targets(4), 0.05, 0.95)
    stages = table[table["block"] == -1]
    assert stages["name"].tolist() == ["blocks 0-0 together", "blocks 2-3 together"]
    whole = log_mean_interval(RATIOS[:, 2] * RATIOS[:, 3], 1 - 0.04 / 2)
    assert stages.iloc[1]["high"] == pytest.approx(math.exp(whole.high), rel=1e-12)
    single = log_mean_interval(RATIOS[:, 2], 1 - 0.01 / 3)
    assert table.iloc[2]["low"] == pytest.approx(math.exp(single.low), rel=1e-12)
    assert table["verdict"].tolist()[1] == "transition"
    assert tuple(table.columns) == COLUMNS


def test_a_stage_of_which_no_draw_is_whole_has_no_product() -> None:
    """The product of nothing is 1, and would hold."""
    kind = np.array([["", "no signal"], ["no signal", ""]]).ravel()
    table = judgment(found(np.ones((2, 2))).assign(kind=kind), targets(2), 0.05, 0.95)
    whole = table.iloc[-1]
    assert whole["verdict"] == "no signal"
    assert math.isnan(whole["measured"])
    assert table["verdict"].tolist() == ["no signal"] * 3


def test_shares_count_what_the_trunk_has_grown_to() -> None:
    """x1 = x0 + f, x2 = 2 x1 + g with variances 1 + 1 = 2, 4·2 + 2 = 10: shares 4/10 and 2/10."""
    rows = found(np.array([[2.0, 5.0]]), skip=[1.0, 4.0], branch=[1.0, 1.0])
    shares = output_shares(rows)
    np.testing.assert_allclose(shares, [0.4, 0.2], rtol=1e-12)
    # a dead signal has no shares, and no division is warned of
    dead = rows.assign(after=0.0)
    assert output_shares(dead).isna().all()


class Halved(nn.Module):
    """Three convolutions of one width; the second halves the resolution."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1, stride=stride),
            nn.Conv2d(4, 4, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize(("stride", "expected"), [(2, [False, True, False]), (1, [False] * 3)])
def test_a_change_of_resolution_alone_is_a_transition(stride: int, expected: list[bool]) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    records = sigprop.measure(lambda: Halved(stride), x, blocks="leaves", spectra=False)
    rows = evidence(records, LAWS["preserved"])
    assert rows["transition"].tolist() == expected
    assert rows["stage"].tolist() == [0, 1, 1] if stride == 2 else [0, 0, 0]


# --- laws and causes -----------------------------------------------------------------------------


def test_a_prediction_that_is_one_block_short_is_an_error() -> None:
    prediction = predict("plain", depth=3)
    law = LAWS["predicted"]
    np.testing.assert_allclose(law.ratios(np.arange(3.0), prediction), 2.0)
    with pytest.raises(BadInput) as error:
        law.ratios(np.arange(4.0), prediction)
    assert str(error.value) == "the prediction has 3 blocks, the network 4"


def test_a_law_object_is_taken_as_it_is() -> None:
    assert law_of(LAWS["doubling"]) is LAWS["doubling"]


def result_of(measured: float) -> Result:
    """A result of one violated block with a predicted ratio of 2."""
    row = dict.fromkeys(COLUMNS, math.nan) | {
        "stage": 0,
        "block": 0,
        "name": "b0",
        "predicted": 2.0,
        "measured": measured,
        "verdict": "violated",
        "kind": "",
        "reason": "",
        "more_seeds_low": 0,
        "more_seeds_high": 0,
        "share_of_seeds": 0.0,
    }
    table = pd.DataFrame([row], columns=list(COLUMNS))
    return Result(LAWS["doubling"], table, sigprop.Records(), 0.05, 0.95, 4)


def cause_of(measured: float, cross: float) -> str:
    """The cause of a block with skip 1, branch 1.3 less the cross term, and a law of 2."""
    rows = found(np.full((4, 1), measured), skip=1.0, branch=measured - 1 - cross)
    rows = rows.assign(skip_moment=1.0, branch_moment=1.0, correlation=0.2)
    return cause(rows, {0: 2.0}, LAWS["doubling"])


@pytest.mark.parametrize(
    ("branch", "skip", "exponent"),
    [
        ([0.4, 0.2, 0.1, 0.05, 0.025], [0.5, 0.6, 0.7, 0.8, 0.9], True),
        ([0.4, 0.2, 0.1], [0.5, 0.6, 0.7], False),  # three points are no power
        ([0.4, 0.2, 0.1, 0.05, 0.025], [0.5, 0.6, 0.7, 0.8, 1.0], False),  # nothing is left
        ([0.4, 0.2, 0.1, 0.05, 0.0], [0.5, 0.6, 0.7, 0.8, 0.9], False),  # nothing is added
    ],
)
def test_an_exponent_needs_four_blocks_that_add_something(
    branch: list[float], skip: list[float], exponent: bool
) -> None:
    added, kept = np.array(branch), np.array(skip)
    draws = np.tile(added + kept, (4, 1)) * np.array([[0.999], [1.0], [1.0], [1.001]])
    rows = found(draws, skip=np.tile(kept, 4), branch=(draws - kept).ravel())
    rows = rows.assign(skip_moment=rows["skip"], branch_moment=rows["branch"], correlation=0.0)
    words = cause(rows, dict.fromkeys(range(len(branch)), 1.0), LAWS["preserved"])
    assert ("wrong exponent" in words) is exponent


@pytest.mark.parametrize(
    ("deviation", "allowed"), [(0.5, 0.4), (-0.5, 0.4 / UPPER), (0.05, 0.05 / UPPER), (-0.08, 0.02)]
)
def test_how_wide_an_interval_may_be_to_be_decided(deviation: float, allowed: float) -> None:
    """Half an interval below, `UPPER` times that above: both ends beyond one edge, or within."""
    assert _allowed(deviation, 0.1) == pytest.approx(allowed)


def test_a_cross_term_is_the_cause_only_where_it_has_the_deviations_sign_and_most_of_its_size() -> (
    None
):
    named = "skip and branch are correlated (+0.200); the cross term alone changes the ratio by"
    assert cause_of(2.4, 0.3) == f"{named} +0.3 a block"
    assert cause_of(1.6, -0.3) == f"{named} -0.3 a block"
    for measured, cross in ((1.6, 0.3), (2.4, -0.3), (3.4, 0.6)):
        assert "β is off" in cause_of(measured, cross)


def test_a_result_is_plain_json_with_none_for_what_is_undefined_or_infinite() -> None:
    result = result_of(math.inf)
    rows: Any = result.as_dict()["rows"]
    row = rows[0]
    assert row["measured"] is None
    assert row["correlation"] is None
    assert row["predicted"] == 2.0
