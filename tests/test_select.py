"""Which rows the report reads: checked against frames small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from synthetic import LAWS, gradient, make, second_moment

from sigprop.records import queries as select
from sigprop.records import tidy

NAN, INF = float("nan"), float("inf")


def signals(*rows):
    """Rows of signals with everything that is not under test filled in."""
    base = {
        "run": "r", "network": "n", "seed": 0, "step": 0, "mode": "train", "block": 0,
        "kind": "block", "module": "blocks.0", "name": "blocks.0", "call": 0, "port": "out",
        "direction": "forward", "channels": 8, "count": 64, "nonfinite": 0,
        "second_moment": 1.0, "channel_variance": 0.75, "mean_shift": 0.25,
    }  # fmt: skip
    return tidy("signals", [{**base, **row} for row in rows])


def parameters(*rows):
    base = {"run": "r", "network": "n", "seed": 0, "step": 0, "block": 0, "count": 4096,
            "weight_norm": 8.0, "ndim": 2}  # fmt: skip
    return tidy("parameters", [{**base, **row} for row in rows])


def test_training_mode_is_preferred_and_eval_used_only_where_nothing_else_is():
    frame = signals(
        {"network": "a", "mode": "train"},
        {"network": "a", "mode": "eval"},
        {"network": "b", "mode": "eval"},
    )
    kept = select.in_training_mode(frame)
    assert list(zip(kept["network"], kept["mode"], strict=True)) == [("a", "train"), ("b", "eval")]


def test_first_and_last_step_are_those_of_each_draw():
    frame = signals(
        {"seed": 0, "step": 0},
        {"seed": 0, "step": 9},
        {"seed": 1, "step": 3},
        {"seed": 1, "step": 4},
    )
    assert select.at_first_step(frame)["step"].tolist() == [0, 3]
    assert select.at_last_step(frame)["step"].tolist() == [9, 4]


def test_the_rows_of_blocks_and_leaves_are_those_of_what_was_chosen():
    frame = signals(
        {"kind": "rectifier", "name": "blocks.0.branch.relu"},
        {"kind": "block", "name": "blocks.0"},
        {"kind": "rectifier", "name": "blocks.0:relu"},
        {"kind": "addition", "name": "encoder", "port": "skip"},
        {"kind": "attention", "name": "attention:sdpa"},
        {"kind": "block", "name": "a"},
        {"kind": "leaf", "name": "head"},
    )
    assert select.own_rows(frame)["name"].tolist() == ["blocks.0", "a", "head"]


def test_by_block_keeps_one_pass_and_port():
    frame = signals(
        {"port": "out", "second_moment": 1.0},
        {"port": "in", "second_moment": 2.0},
        {"port": "out", "direction": "backward", "second_moment": 3.0},
    )
    for direction, port, value in (
        ("forward", "out", 1.0),
        ("forward", "in", 2.0),
        ("backward", "out", 3.0),
    ):
        rows = select.by_block(frame, "second_moment", direction, port)
        assert rows["second_moment"].tolist() == [value]


def test_calls_of_one_block_are_averaged_and_a_broken_one_marks_the_block():
    frame = signals(
        {"call": 0, "second_moment": 1.0},
        {"call": 1, "second_moment": 3.0, "nonfinite": 2},
    )
    (row,) = select.by_block(frame, "second_moment").to_dict("records")
    assert row["second_moment"] == 2.0
    assert row["nonfinite"] is True or row["nonfinite"] == np.True_


def test_dead_units_are_weighted_by_channels_and_unrectified_taps_do_not_count():
    frame = signals(
        {"name": "blocks.0", "dead_fraction": NAN, "channels": 1000},
        {"kind": "rectifier", "name": "blocks.0.relu1", "dead_fraction": 0.10, "channels": 48},
        {"kind": "rectifier", "name": "blocks.0.relu2", "dead_fraction": 0.00, "channels": 16},
    )
    (value,) = select.dead_by_block(frame)["dead_fraction"]
    assert value == pytest.approx(0.10 * 48 / 64, rel=1e-15)


def test_dead_units_of_frames_without_rectified_taps_are_an_empty_frame():
    assert select.dead_by_block(signals({}, {"block": 1})).empty


def test_residual_operands_pair_skip_and_branch_of_the_same_addition():
    frame = signals(
        {"port": "skip", "second_moment": 4.0},
        {"port": "branch", "second_moment": 1.0, "skip_branch_correlation": 0.3},
        {"port": "skip", "block": 1, "name": "blocks.1", "second_moment": 0.0},
        {"port": "branch", "block": 1, "name": "blocks.1", "second_moment": 1.0},
        {"port": "skip", "block": 2, "name": "blocks.2", "second_moment": 1.0},
    )
    rows = select.residual_operands(frame)
    assert rows["block"].tolist() == [0, 1]
    assert rows.loc[0, "branch_to_skip"] == 0.25
    assert rows.loc[0, "skip_branch_correlation"] == 0.3
    assert math.isnan(rows["branch_to_skip"].loc[1]), "nothing can be divided by a skip of 0"


def test_a_mean_shift_of_rounding_size_becomes_zero_and_a_real_one_stays():
    frame = pd.DataFrame(
        {"second_moment": [1.0, 1.0, 0.0, INF], "mean_shift": [1e-15, 1e-9, 0.0, 5.0]}
    )
    assert select.without_rounding(frame)["mean_shift"].tolist() == [0.0, 1e-9, 0.0, 5.0]


class TestWeightMatrices:
    def names(self, *rows):
        return select.weight_matrices(parameters(*rows))["name"].tolist()

    def test_matrices_and_kernels_in_a_block_stay_whatever_they_are_called(self):
        assert self.names(
            {"name": "b.0.conv.weight", "ndim": 4},
            {"name": "b.0.conv.bias", "ndim": 1},
            {"name": "b.0.multiplier", "ndim": 0, "count": 1},
            {"name": "b.0.bias", "ndim": 2, "count": 4},
            {"name": "stem.weight", "ndim": 4, "block": -1},
        ) == ["b.0.conv.weight", "b.0.bias"]

    def test_what_is_not_known_is_no_matrix(self):
        assert self.names({"name": "b.0.weight", "ndim": -1}) == []

    def test_every_step_and_network_keeps_its_rows_in_their_order(self):
        weight = {"name": "b.0.weight", "ndim": 2}
        gain = {"name": "b.0.weight", "network": "other", "ndim": 1}
        rows = parameters(*({**row, "step": step} for step in (5, 0, 9) for row in (gain, weight)))
        kept = select.weight_matrices(rows)
        assert kept["step"].tolist() == [5, 0, 9]
        assert kept.index.tolist() == [1, 3, 5]

    def test_no_parameters_give_no_rows(self):
        assert select.weight_matrices(tidy("parameters", [])).empty
        assert select.weights_by_block(tidy("parameters", [])).empty


def test_weight_ratios_of_a_block_are_geometric_means():
    frame = parameters(
        {"name": "b.0.conv1.weight", "grad_to_weight": 1e-4, "update_to_weight": 1e-6},
        {"name": "b.0.conv2.weight", "grad_to_weight": 1e-2, "update_to_weight": 1e-2},
    )
    (row,) = select.weights_by_block(frame).to_dict("records")
    assert row["grad_to_weight"] == pytest.approx(1e-3, rel=1e-12)
    assert row["update_to_weight"] == pytest.approx(1e-4, rel=1e-12)
    assert not row["nonfinite"]


@pytest.mark.parametrize(
    ("ratio", "expected", "broken"), [(0.0, 0.0, False), (math.inf, math.inf, True)]
)
def test_extreme_weight_ratios_survive_the_geometric_mean(ratio, expected, broken):
    frame = parameters(
        {"name": "b.0.conv1.weight", "grad_to_weight": ratio},
        {"name": "b.0.conv2.weight", "grad_to_weight": 1e-2},
    )
    (row,) = select.weights_by_block(frame).to_dict("records")
    assert row["grad_to_weight"] == expected
    assert bool(row["nonfinite"]) is broken


@pytest.mark.parametrize("broken", [{"weight_norm": NAN}, {"weight_norm": INF}, {"grad_norm": INF}])
def test_broken_weights_and_infinite_gradients_are_not_finite(broken):
    frame = parameters({"name": "b.0.conv1.weight", "grad_to_weight": NAN, **broken})
    assert select.weights_by_block(frame)["nonfinite"].tolist() == [True]


def test_an_undefined_ratio_is_missing_and_not_zero():
    frame = parameters({"name": "b.0.conv1.weight", "grad_to_weight": NAN})
    blocks = select.weights_by_block(frame)
    assert blocks["grad_to_weight"].isna().all()
    assert blocks["nonfinite"].tolist() == [False]


def test_the_synthetic_records_say_what_they_claim():
    rows = select.by_block(make(blocks=6, seeds=2, steps=(0,)).signals, "second_moment")
    for _, row in rows.iterrows():
        expected = second_moment(row["network"], row["block"], row["seed"])
        assert row["second_moment"] == pytest.approx(expected, rel=1e-15)
    assert second_moment("plain", 29, seed=1) == LAWS["plain"]["growth"] ** 30
    assert gradient("plain", 0, 30, seed=1) == pytest.approx(1e-4 * 2**29)
