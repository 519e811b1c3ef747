"""Sentences of the report: expected word for word."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sigprop.reporting.story import VERDICTS, tell, verdict
from sigprop.reporting.summary import SUMMARY
from sigprop.reporting.words import cell, counted, factor, known, number, share

NAN = float("nan")


def row(**facts):
    """A row of the summary in which everything not given is unknown."""
    return {**dict.fromkeys(SUMMARY, pd.NA), "network": "net", **facts}


PLAIN = row(
    network="plain", seeds=3, blocks=30, growth_per_block=2.01, growth_standard_error=0.0312,
    total_ratio=1.1e9, blocks_spanned=30, largest_fold=1.1e9, channel_variance_ratio=3.2e7,
    mean_shift_share=0.853, dead_fraction=0.12, dead_block=29, gradient_ratio=5.4e8,
    nonfinite_gradients=0, grad_to_weight=2.24, diverged_at=3, diverged_seeds=3,
)  # fmt: skip
RESCALE = row(
    network="rescale", seeds=3, blocks=30, growth_per_block=0.998, growth_standard_error=0.0004,
    total_ratio=0.97, blocks_spanned=30, largest_fold=1.04, channel_variance_ratio=0.971,
    mean_shift_share=0.0, dead_fraction=0.0, dead_block=0, gradient_ratio=1.98,
    nonfinite_gradients=0, grad_to_weight=0.0121, final_loss=0.1234, final_accuracy=0.964,
)  # fmt: skip


def test_a_network_that_explodes_and_diverges():
    story = tell(PLAIN)
    assert (story.verdict, story.level) == ("diverged", "bad")
    assert story.headline == (
        "the second moment grows ×2.01 per block (×1.1e9 over 30 blocks) "
        "and training diverged at step 3."
    )
    assert story.why == (
        "Growth per block is 2.01 ± 0.03 (standard error over 3 seeds).",
        "Mean shift makes up at most 85 % of the second moment; the channel variance alone "
        "changes ×3.2e7 from start to end.",
        "Up to 12 % of units are dead (block 29).",
        "From the last block back to the first, the gradient's second moment changes ×5.4e8.",
        "The median gradient-to-weight ratio is 2.24.",
    )


def test_a_network_that_holds_its_signal_and_trains():
    story = tell(RESCALE)
    assert (story.verdict, story.level) == ("steady", "good")
    assert story.headline == (
        "the second moment changes ×0.998 per block and stays within 4 % of its start over "
        "30 blocks and training ends at loss 0.123 and accuracy 96 %."
    )
    assert story.why[1:3] == (
        "Mean shift makes up at most 0 % of the second moment; the channel variance alone "
        "changes ×0.971 from start to end.",
        "No unit is dead at initialization.",
    )


def test_a_network_that_vanishes():
    story = tell(
        row(growth_per_block=0.5, total_ratio=2**-20, largest_fold=2**20, blocks_spanned=20)
    )
    assert story.verdict == "vanishes"
    assert story.headline == "the second moment shrinks ×0.500 per block (×9.5e-7 over 20 blocks)."


def test_a_signal_that_leaves_and_comes_back_is_not_called_steady():
    story = tell(row(growth_per_block=1.0, total_ratio=1.02, largest_fold=5.0, blocks_spanned=8))
    assert story.verdict == "drifts"
    assert story.headline == (
        "the second moment wanders by up to ×5.00 and comes back (×1.02 over 8 blocks)."
    )


def test_a_single_block_has_no_growth_per_block():
    story = tell(row(growth_per_block=NAN, total_ratio=2.0, largest_fold=2.0, blocks_spanned=1))
    assert story.headline == "the second moment changes ×2.00 over its single block."


def test_non_finite_activations_come_before_any_growth():
    story = tell(row(growth_per_block=1.9, nonfinite_from_block=23))
    assert (story.verdict, story.level) == ("not finite", "bad")
    assert story.headline == "activations are not finite from block 23 on."


def test_non_finite_gradients_alone_are_bad_too():
    story = tell({**RESCALE, "nonfinite_gradients": 7})
    assert story.verdict == "not finite"
    assert "Gradients are not finite in 7 blocks." in story.why


def test_an_empty_row_says_what_was_not_recorded():
    story = tell(row())
    assert (story.verdict, story.level) == ("not measured", "none")
    assert story.headline == "no second moments of block outputs were recorded."
    assert story.why == ("No gradients at block outputs were recorded.",)


def test_divergence_of_some_seeds_is_counted():
    story = tell({**PLAIN, "diverged_seeds": 1})
    assert story.headline.endswith("training diverged at step 3 (1 of 3 seeds).")


def test_a_gradient_of_exactly_zero_is_said_so():
    story = tell({**RESCALE, "gradient_ratio": 0.0})
    assert "The gradient's second moment is exactly 0 at the first block." in story.why


def test_a_standard_error_of_rounding_size_is_zero():
    assert tell({**RESCALE, "growth_standard_error": 9e-17}).why[0] == (
        "Growth per block is 0.998 ± 0 (standard error over 3 seeds)."
    )


def test_one_seed_has_no_standard_error():
    assert (
        not tell({**RESCALE, "seeds": 1, "growth_standard_error": NAN}).why[0].startswith("Growth")
    )


@pytest.mark.parametrize(
    ("total", "fold", "word"),
    [
        (1.0, 1.1, "steady"),
        (1.0, 1.11, "drifts"),
        (999.0, 999.0, "drifts"),
        (1000.0, 1000.0, "explodes"),
        (0.0011, 900.0, "drifts"),
        (0.001, 1000.0, "vanishes"),
    ],
)
def test_verdict_thresholds(total, fold, word):
    assert verdict(row(growth_per_block=1.0, total_ratio=total, largest_fold=fold)) == word


def test_every_verdict_is_explained_and_has_a_level():
    assert {level for level, _ in VERDICTS.values()} == {"bad", "warn", "good", "none"}
    assert all(meaning for _, meaning in VERDICTS.values())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"), (1.0, "1.00"), (0.99812, "0.998"), (12.345, "12.3"), (99.96, "100"),
        (250.0, "250"), (999.4, "999"), (999.6, "1000"), (9999.0, "9999"), (10000.0, "1e4"),
        (1.1e9, "1.1e9"), (0.001, "0.00100"), (0.00042, "4.2e-4"), (1e-30, "1e-30"),
        (-2.5, "-2.50"), (float("inf"), "inf"), (float("-inf"), "-inf"), (NAN, "undefined"),
    ],
)  # fmt: skip
def test_numbers(value, words):
    assert number(value) == words


def test_factors_shares_and_counts():
    assert factor(1.08) == "×1.08"
    assert [share(value) for value in (0.0, 1e-9, 0.0042, 0.04, 0.964, 1.0)] == [
        "0 %", "0.01 %", "0.4 %", "4 %", "96 %", "100 %",
    ]  # fmt: skip
    assert (counted(1, "block"), counted(0, "block")) == ("1 block", "0 blocks")


@pytest.mark.parametrize("value", [None, NAN, pd.NA, np.float64("nan")])
def test_missing_cells_are_a_dash(value):
    assert not known(value)
    assert cell(value) == "–"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.int64(7), "7"), (7, "7"), (np.float64(1 / 3), "0.3333"), (1e-30, "1e-30"),
        (np.True_, "yes"), (False, "no"), ("a<b", "a<b"), (float("inf"), "inf"), (2.0, "2"),
    ],
)  # fmt: skip
def test_cells(value, words):
    assert known(value)
    assert cell(value) == words
