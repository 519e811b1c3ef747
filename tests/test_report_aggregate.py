"""Averages over seeds, the rule for logarithmic axes, and ranges of blocks in words."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop.reporting.aggregate import over_seeds, wants_log
from sigprop.words import ranges

NAN, INF = float("nan"), float("inf")


def averaged(values, kind="scale", nonfinite=None):
    frame = pd.DataFrame({"network": "n", "block": 0, "value": values})
    if nonfinite is not None:
        frame["nonfinite"] = nonfinite
    (row,) = over_seeds(frame, "value", ["network", "block"], kind).to_dict("records")
    return row


class TestWantsLog:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([1.0, 9.9], False),
            ([1.0, 10.0], True),
            ([1e-30, 1e30], True),
            ([0.0, 1.0, 100.0], True),  # zeros are marked at the foot
            ([0.0, 5.0], False),
            ([-1.0, 100.0, 1.0], False),
            ([1.0, INF, 2.0], False),
            ([1.0, INF, 200.0], True),
            ([NAN, NAN], False),
            ([], False),
            ([0.0, 0.0], False),
        ],
    )
    def test_rule(self, values, expected):
        assert wants_log(values) is expected

    def test_the_whole_float_range_does_not_overflow(self):
        assert wants_log([5e-324, 1.7e308])

    @given(st.lists(st.floats(1e-30, 1e30), min_size=1), st.floats(1e-20, 1e20))
    def test_it_does_not_depend_on_the_unit(self, values, unit):
        span = math.log10(max(values)) - math.log10(min(values))
        if abs(span - 1) > 1e-9:
            assert wants_log(np.array(values) * unit) == wants_log(values)


class TestOverSeeds:
    def test_scale_takes_the_geometric_mean(self):
        row = averaged([1.0, 100.0])
        assert row["center"] == pytest.approx(10.0, rel=1e-15)
        assert (row["low"], row["high"], row["seeds"]) == (1.0, 100.0, 2)

    @pytest.mark.parametrize("kind", ["share", "signed", "cost"])
    def test_the_rest_takes_the_arithmetic_mean(self, kind):
        assert averaged([0.0, 1.0], kind)["center"] == 0.5

    def test_huge_and_tiny_values_neither_overflow_nor_vanish(self):
        assert averaged([1e300, 1e300])["center"] == pytest.approx(1e300, rel=1e-9)
        assert averaged([1e-300, 1e-300])["center"] == pytest.approx(1e-300, rel=1e-9)

    def test_a_seed_at_zero_makes_the_geometric_mean_zero(self):
        row = averaged([0.0, 4.0])
        assert (row["center"], row["low"], row["high"]) == (0.0, 0.0, 4.0)

    def test_an_infinite_seed_is_counted_and_left_out_of_the_mean(self):
        row = averaged([2.0, INF, 8.0])
        assert row["center"] == pytest.approx(4.0)
        assert (row["seeds"], row["nonfinite"], row["undefined"]) == (2, 1, 0)

    def test_nan_is_undefined_unless_elements_were_not_finite(self):
        assert averaged([NAN, 1.0])["undefined"] == 1
        row = averaged([NAN, 1.0], nonfinite=[True, False])
        assert (row["nonfinite"], row["undefined"]) == (1, 0)

    def test_a_finite_moment_over_broken_elements_is_drawn_and_marked(self):
        row = averaged([3.0], nonfinite=[True])
        assert (row["center"], row["seeds"], row["nonfinite"]) == (pytest.approx(3.0), 1, 1)

    def test_nothing_finite_gives_a_missing_center(self):
        row = averaged([NAN, INF])
        assert math.isnan(row["center"])
        assert row["seeds"] == 0

    def test_an_empty_frame_gives_an_empty_table_with_all_columns(self):
        empty = pd.DataFrame({"network": [], "block": [], "value": []})
        table = over_seeds(empty, "value", ["network", "block"], "scale")
        assert table.empty
        assert {"center", "low", "high", "seeds", "nonfinite", "undefined"} <= set(table.columns)

    @given(
        st.lists(st.floats(1e-20, 1e20), min_size=1, max_size=6), st.sampled_from(["scale", "cost"])
    )
    def test_the_center_lies_in_the_band(self, values, kind):
        row = averaged(values, kind)
        assert row["low"] * (1 - 1e-12) <= row["center"] <= row["high"] * (1 + 1e-12)

    @given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=6), st.floats(1e-9, 1e9))
    def test_the_geometric_mean_scales_with_its_unit(self, values, unit):
        scaled = averaged([value * unit for value in values])["center"]
        assert scaled == pytest.approx(averaged(values)["center"] * unit, rel=1e-9)


class TestRanges:
    @pytest.mark.parametrize(
        ("marked", "everywhere", "words"),
        [
            (range(23, 30), range(30), "from block 23"),
            (range(3), range(30), "up to block 2"),
            (range(30), range(30), "at every block"),
            ([4], range(30), "at block 4"),
            ([0], [0], "at block 0"),
            ([1, 3, 4, 5], range(9), "at blocks 1, 3–5"),
            ([0, 29], range(30), "at blocks 0, 29"),
            (range(0, 30, 2), range(30), "at blocks 0, 2, 4, 6, 8, 10 and more"),
        ],
    )
    def test_blocks(self, marked, everywhere, words):
        assert ranges(marked, everywhere) == words

    def test_steps_are_neighbors_when_nothing_was_recorded_between_them(self):
        assert ranges([10, 20], [0, 10, 20], "step") == "from step 10"
        assert ranges([0, 10], [0, 10, 20], "step") == "up to step 10"
