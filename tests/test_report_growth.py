"""Which curve describes a growth: analytic trajectories of each kind."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make

from sigprop.diagnosis.growth import line, shape, slope
from sigprop.reporting.story import story_of
from sigprop.reporting.summary import summarize

BLOCKS = pd.Series(range(12))
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (2.0**BLOCKS, "geometric"),
        (0.5**BLOCKS, "geometric"),
        (1.0 + BLOCKS, "linear"),
        (30.0 - 2.0 * BLOCKS, "linear"),
        (1e-30 * (1.0 + BLOCKS), "linear"),
        (1e290 * (1.0 + BLOCKS), "linear"),
        (0 * BLOCKS + 1.0, "geometric"),  # constant: a rate of exactly 1
        (np.exp(3 * np.sin(BLOCKS)), "uneven"),
        (pd.Series([1.0, 2.0, *[NAN] * 10]), "uneven"),
        (pd.Series([NAN] * 12), "uneven"),
    ],
)
def test_shape(values, expected):
    assert shape(BLOCKS, values) == expected


@given(st.floats(1e-20, 1e20), st.floats(0.05, 3.0))
def test_the_shape_does_not_depend_on_the_unit(unit, step):
    assert shape(BLOCKS, unit * (1.0 + step * BLOCKS)) == "linear"
    assert shape(BLOCKS, unit * (1.0 + step) ** BLOCKS) == "geometric"


def test_a_line_is_found_exactly_and_ignores_what_is_not_finite():
    lost = {3: NAN, 5: INF, 7: 0.0}
    values = pd.Series([lost.get(block, 2.0 + 0.25 * block) for block in BLOCKS])
    found = line(BLOCKS, values)
    assert [found.start, found.step] == pytest.approx([2.0, 0.25])
    assert math.isnan(line(BLOCKS[:1], values[:1]).step)


def test_a_range_beyond_the_float_range_has_no_line_and_does_not_raise():
    values = pd.Series([5e-324, 1.0, 1e308])
    assert math.isnan(line(BLOCKS[:3], values).step)
    assert shape(BLOCKS[:3], values) == "geometric"
    assert math.isfinite(slope(BLOCKS[:3], values))


def test_batchnorms_growth_along_a_line_is_not_given_a_geometric_rate():
    records = make(["batchnorm"], blocks=12, seeds=2, steps=(0,))
    out = (records.signals["port"] == "out") & (records.signals["direction"] == "forward")
    block = records.signals["block"]
    start = (records.signals["port"] == "in") & (block == 0)
    moments = records.signals["second_moment"].mask(out, 2.0 + block).mask(start, 1.0)
    records.signals = records.signals.assign(second_moment=moments)
    row = summarize(records).iloc[0]
    assert row["growth"] == "linear"
    assert row["growth_per_block"] == pytest.approx(1.0, rel=1e-9)
    story = story_of({str(name): value for name, value in row.items()})
    assert story.level == "good"
    assert story.headline.startswith(
        "the second moment grows linearly, by 1.00 per block (×13.0 over 12 blocks)"
    )
