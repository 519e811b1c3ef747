"""Sentences of the report: expected word for word."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop.reporting.story import story_of
from sigprop.reporting.summary import SUMMARY
from sigprop.reporting.verdicts import VERDICTS, verdict
from sigprop.words import cell, counted, factor, known, number, share

NAN = float("nan")


def row(**facts):
    """A row of the summary in which everything not given is unknown."""
    return {**dict.fromkeys(SUMMARY, pd.NA), "network": "net", **facts}


PLAIN = row(
    network="plain", seeds=3, blocks=30, growth="geometric", growth_per_block=2.01,
    growth_standard_error=0.0312, total_ratio=1.1e9, blocks_spanned=30, largest_fold=1.1e9,
    highest_ratio=1.1e9, lowest_ratio=2.0, channel_variance_ratio=3.2e7,
    mean_shift_share=0.853, dead_fraction=0.12, dead_block=29, gradient_ratio=5.4e8,
    gradient_from_block=0, gradient_blocks=30, gradient_missing=0,
    nonfinite_gradients=0, grad_to_weight=2.24, diverged_at=3, diverged_seeds=3,
)  # fmt: skip
RESCALE = row(
    network="rescale", seeds=3, blocks=30, growth="geometric", growth_per_block=0.998,
    growth_standard_error=0.0004, total_ratio=0.97, blocks_spanned=30, largest_fold=1.04,
    highest_ratio=1.0, lowest_ratio=0.97, channel_variance_ratio=0.971,
    mean_shift_share=0.0, dead_fraction=0.0, dead_block=0, gradient_ratio=1.98,
    gradient_from_block=0, gradient_blocks=30, gradient_missing=0,
    nonfinite_gradients=0, grad_to_weight=0.0121, final_loss=0.1234, final_accuracy=0.964,
)  # fmt: skip


def second_moment(**facts):
    """The headline on a second moment with these numbers."""
    given = {"growth_per_block": 1.0, "growth": "geometric", "blocks_spanned": 12, **facts}
    return story_of(row(**given)).headline


def test_a_network_that_explodes_and_diverges():
    story = story_of(PLAIN)
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
    story = story_of(RESCALE)
    assert (story.verdict, story.level) == ("steady", "good")
    assert story.headline == (
        "the second moment stays within 4 % of its start over 30 blocks "
        "and training ends at loss 0.123 and accuracy 96 %."
    )
    assert story.why[1:3] == (
        "Mean shift makes up at most 0 % of the second moment; the channel variance alone "
        "changes ×0.971 from start to end.",
        "No unit is dead at initialization.",
    )


def test_a_network_that_vanishes():
    story = story_of(
        row(
            growth="geometric", growth_per_block=0.5, total_ratio=2**-20, largest_fold=2**20,
            highest_ratio=0.5, lowest_ratio=2**-20, blocks_spanned=20,
        )
    )  # fmt: skip
    assert story.verdict == "vanishes"
    assert story.headline == "the second moment shrinks ×0.500 per block (×9.5e-7 over 20 blocks)."


class TestRates:
    def test_a_factor_that_would_be_printed_as_one_is_given_in_per_cent(self):
        assert second_moment(
            growth_per_block=1.0028, total_ratio=2.84, largest_fold=2.84, blocks_spanned=370
        ) == ("the second moment grows by 0.28 % per block (×2.84 over 370 blocks).")
        assert second_moment(
            growth_per_block=0.9953, total_ratio=0.729, largest_fold=1.372, blocks_spanned=40
        ) == ("the second moment shrinks by 0.47 % per block (×0.729 over 40 blocks).")

    def test_a_rate_that_goes_the_other_way_is_not_printed(self):
        assert second_moment(growth_per_block=1.001, total_ratio=0.729, largest_fold=1.372) == (
            "the second moment shrinks unevenly (×0.729 over 12 blocks)."
        )

    def test_an_uneven_way_has_no_rate(self):
        assert second_moment(
            growth="uneven", growth_per_block=1.3, total_ratio=2.84, largest_fold=16.0,
            highest_ratio=16.0, lowest_ratio=1.2,
        ) == (
            "the second moment grows unevenly (×2.84 over 12 blocks, as far as ×16.0 on the way)."
        )  # fmt: skip

    def test_linear_growth_is_a_gain_per_block(self):
        story = story_of(
            row(
                growth="linear", growth_per_block=1.02, growth_standard_error=0.031, seeds=3,
                total_ratio=13.2, largest_fold=13.2, blocks_spanned=12,
            )
        )  # fmt: skip
        assert story.headline == (
            "the second moment grows linearly, by 1.02 per block (×13.2 over 12 blocks)."
        )
        assert story.why[0] == "The gain per block is 1.02 ± 0.03 (standard error over 3 seeds)."

    def test_a_line_that_falls(self):
        assert second_moment(
            growth="linear", growth_per_block=-0.05, total_ratio=0.4, largest_fold=2.5
        ) == ("the second moment shrinks linearly, by 0.0500 per block (×0.400 over 12 blocks).")

    @given(
        st.floats(-0.05, 0.05), st.floats(-3, 3), st.sampled_from(["geometric", "linear", "uneven"])
    )
    def test_no_sentence_ever_says_that_something_grows_or_shrinks_by_one(self, rate, total, kind):
        words = second_moment(
            growth=kind, growth_per_block=math.exp(rate), total_ratio=math.exp(total),
            largest_fold=math.exp(abs(total)),
        )  # fmt: skip
        assert not re.search(r"(grows|shrinks) ×1\.00 per block", words)
        if "grows" in words:
            assert total > 0
        if "shrinks" in words:
            assert total < 0


def test_near_the_start_no_rate_is_given():
    assert second_moment(growth_per_block=1.0, total_ratio=0.829, largest_fold=1.206) == (
        "the second moment stays within 21 % of its start over 12 blocks."
    )


def test_a_signal_that_leaves_and_comes_back_is_not_called_steady():
    facts = {
        "growth_per_block": 1.0, "total_ratio": 1.02, "largest_fold": 50.0,
        "highest_ratio": 1.1, "lowest_ratio": 0.02, "blocks_spanned": 8,
    }  # fmt: skip
    story = story_of(row(**facts))
    assert story.verdict == "drifts"
    assert story.headline == (
        "the second moment wanders by up to ×0.0200 and comes back (×1.02 over 8 blocks)."
    )


def test_a_second_moment_that_leaves_by_a_million_and_returns_explodes():
    facts = {"total_ratio": 1.02, "largest_fold": 1e6, "blocks_spanned": 8}
    story = story_of(row(**facts, highest_ratio=1e6, lowest_ratio=1.0, growth="uneven"))
    assert (story.verdict, story.level) == ("explodes", "bad")
    back = story_of(row(**facts, highest_ratio=1.0, lowest_ratio=1e-6, growth="uneven"))
    assert (back.verdict, back.level) == ("vanishes", "bad")


def test_a_single_block_has_no_growth_per_block():
    story = story_of(row(growth_per_block=NAN, total_ratio=2.0, largest_fold=2.0, blocks_spanned=1))
    assert story.headline == "the second moment changes ×2.00 over its single block."


def test_non_finite_activations_come_before_any_growth():
    story = story_of(
        row(growth_per_block=1.9, nonfinite_from_block=23, nonfinite_elements=12, nonfinite_of=4096)
    )
    assert (story.verdict, story.level) == ("not finite", "bad")
    assert story.headline == (
        "activations are not finite from block 23 on (12 of 4096 elements there)."
    )


def test_one_of_several_stacks_is_named():
    assert second_moment(stack="decoder.layers", total_ratio=1.02, largest_fold=1.03) == (
        "in decoder.layers, the second moment stays within 3 % of its start over 12 blocks."
    )


def test_non_finite_gradients_alone_are_bad_too():
    story = story_of({**RESCALE, "nonfinite_gradients": 7})
    assert story.verdict == "not finite"
    assert "Gradients are not finite in 7 blocks." in story.why


def test_an_empty_row_says_what_was_not_recorded():
    story = story_of(row())
    assert (story.verdict, story.level) == ("not measured", "none")
    assert story.headline == "no second moments of block outputs were recorded."
    assert story.why == ("No gradients at block outputs were recorded.",)


def test_divergence_of_some_seeds_is_counted():
    story = story_of({**PLAIN, "diverged_seeds": 1})
    assert story.headline.endswith("training diverged at step 3 (1 of 3 seeds).")


class TestGradient:
    def why(self, **facts):
        return [words for words in story_of({**RESCALE, **facts}).why if "radient's" in words
                or "no gradient" in words]  # fmt: skip

    def test_exactly_zero(self):
        assert self.why(gradient_ratio=0.0) == [
            "The gradient's second moment is exactly 0 at the first block."
        ]

    def test_blocks_without_a_gradient_are_counted_and_not_called_the_first(self):
        assert self.why(gradient_missing=3, gradient_from_block=3, gradient_blocks=27) == [
            "3 blocks have no gradient.",
            "From the last block back to block 3, the first with a gradient, the gradient's second "
            "moment changes ×1.98.",
        ]

    def test_a_single_block_with_a_gradient_has_no_change(self):
        facts = {"gradient_missing": 1, "gradient_blocks": 1, "gradient_ratio": NAN}
        assert self.why(**facts) == ["1 block has no gradient."]


def test_a_standard_error_of_rounding_size_is_zero():
    assert story_of({**RESCALE, "growth_standard_error": 9e-17}).why[0] == (
        "Growth per block is 0.998 ± 0 (standard error over 3 seeds)."
    )


def test_one_seed_has_no_standard_error():
    why = story_of({**RESCALE, "seeds": 1, "growth_standard_error": NAN}).why
    assert not why[0].startswith("Growth")


@pytest.mark.parametrize(
    ("facts", "word", "level"),
    [
        # no theory: by factors and rates
        ({"largest_fold": 1.1}, "steady", "good"),
        ({"largest_fold": 1.11}, "in range", "good"),
        ({"largest_fold": 10.0}, "in range", "good"),
        ({"largest_fold": 10.1}, "drifts", "warn"),
        ({"largest_fold": 17.0, "blocks_spanned": 30}, "in range", "good"),  # 1.1 ** 30 = 17.4
        ({"largest_fold": 18.0, "blocks_spanned": 30}, "drifts", "warn"),
        ({"largest_fold": 999.0, "highest_ratio": 999.0}, "drifts", "warn"),
        ({"largest_fold": 1e3, "highest_ratio": 1e3}, "explodes", "bad"),
        ({"largest_fold": 1e3, "lowest_ratio": 1e-3}, "vanishes", "bad"),
        # BatchNorm's growth along a line
        ({"largest_fold": 2e3, "highest_ratio": 2e3, "growth": "linear"}, "in range", "good"),
        # theory: by the difference from it, and by what no theory excuses
        ({"largest_fold": 64.0, "theory_ratio": 1.9}, "as predicted", "good"),
        ({"largest_fold": 64.0, "theory_ratio": 2.1}, "off theory", "warn"),
        ({"largest_fold": 64.0, "theory_ratio": 1 / 2.1}, "off theory", "warn"),
        ({"largest_fold": 1.0, "theory_ratio": 0.4}, "off theory", "warn"),
        (
            {"largest_fold": 64.0, "theory_ratio": 2.1, "theory_standard_error": 0.3},
            "as predicted",
            "good",
        ),
        ({"largest_fold": 1.05, "theory_ratio": 1.0}, "steady", "good"),
        (
            {"largest_fold": 2e3, "highest_ratio": 2e3, "theory_ratio": 1.0},
            "explodes",
            "bad",
        ),
        # a gradient that is lost while the activations are in order
        ({"largest_fold": 1.05, "gradient_ratio": 1e3}, "gradient drifts", "warn"),
        ({"largest_fold": 1.05, "gradient_ratio": 0.0}, "gradient drifts", "warn"),
        ({"largest_fold": 1.05, "gradient_ratio": 999.0}, "steady", "good"),
    ],
)
def test_verdict_thresholds(facts, word, level):
    base = {"growth_per_block": 1.0, "growth": "geometric", "total_ratio": 1.0}
    assert verdict(row(**{**base, "blocks_spanned": 12, **facts})) == word
    assert VERDICTS[word][0] == level


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
