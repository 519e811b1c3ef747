"""The tables: every number against the law that the synthetic records were made with."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from synthetic import LAWS, gradient, make, second_moment

from sigprop.diagnosis.growth import slope
from sigprop.records import Records, tidy
from sigprop.records.training import divergences, evaluated, final_values, train_rows
from sigprop.reporting.summary import SUMMARY, summarize
from sigprop.reporting.tables import TABLES
from sigprop.reporting.verdicts import verdict

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def records():
    return make(blocks=30, seeds=3, steps=(0, 10))


@pytest.fixture(scope="module")
def summary(records):
    return summarize(records).set_index("network")


def build(name, records, predictions=None):
    return TABLES[name].build(records, predictions)


class TestSummary:
    def test_columns_are_the_documented_ones(self, records):
        assert list(summarize(records).columns) == list(SUMMARY)

    @pytest.mark.parametrize("network", ["plain", "batchnorm", "rescale"])
    def test_growth_is_the_law(self, summary, network):
        law = LAWS[network]["growth"]
        assert summary.loc[network, "growth_per_block"] == pytest.approx(law, rel=1e-12)
        assert summary.loc[network, "growth_standard_error"] == pytest.approx(0.0, abs=1e-12)
        assert summary.loc[network, "total_ratio"] == pytest.approx(law**30, rel=1e-9)
        assert summary.loc[network, "largest_fold"] == pytest.approx(law**30, rel=1e-9)
        assert summary.loc[network, "blocks_spanned"] == 30

    @pytest.mark.parametrize("network", ["plain", "batchnorm", "rescale"])
    def test_channel_variance_and_mean_shift(self, summary, network):
        law = LAWS[network]
        # the synthetic input has the same share of mean shift as the first block's output
        first = 1 - law["shift"] / 30
        expected = law["growth"] ** 30 * (1 - law["shift"]) / first
        assert summary.loc[network, "channel_variance_ratio"] == pytest.approx(expected, rel=1e-9)
        assert summary.loc[network, "mean_shift_share"] == pytest.approx(law["shift"], rel=1e-12)

    def test_dead_units_are_the_weighted_mean(self, summary):
        assert summary.loc["plain", "dead_fraction"] == pytest.approx(0.10 * 48 / 64, rel=1e-12)

    def test_gradient_ratio_is_first_over_last(self, summary):
        assert summary.loc["plain", "gradient_ratio"] == pytest.approx(2.0**29, rel=1e-9)
        assert summary.loc["rescale", "gradient_ratio"] == pytest.approx(1.0, rel=1e-9)

    def test_grad_to_weight_is_the_median_over_blocks(self, summary):
        # geometric mean of r and 4 r is 2 r; r = 10 sqrt(gradient), and sqrt is monotone
        ratios = [20 * math.sqrt(gradient("plain", block, 30, seed=1)) for block in range(30)]
        assert summary.loc["plain", "grad_to_weight"] == pytest.approx(np.median(ratios), rel=1e-9)

    def test_divergence(self, summary):
        assert summary.loc["plain", "diverged_at"] == 3
        assert summary.loc["plain", "diverged_seeds"] == 3
        assert summary.loc["rescale", "diverged_at"] is pd.NA

    def test_final_accuracy_is_that_of_the_last_evaluation(self, summary, records):
        rows = records.training
        last = rows[
            (rows["mode"] == "eval") & (rows["step"] == 59) & (rows["network"] == "rescale")
        ]
        assert summary.loc["rescale", "final_accuracy"] == pytest.approx(last["accuracy"].mean())

    def test_standard_error_over_seeds(self):
        records = make(["plain"], blocks=4, seeds=2, steps=(0,))
        frame = records.signals
        # the second seed grows by exp(0.1) more per block than the first
        tilt = np.where(frame["seed"] == 1, np.exp(0.1 * frame["block"]), 1.0)
        records.signals = frame.assign(second_moment=frame["second_moment"] * tilt)
        row = summarize(records).iloc[0]
        growth = 2.0 * math.exp(0.05)
        assert row["growth_per_block"] == pytest.approx(growth, rel=1e-12)
        assert row["growth_standard_error"] == pytest.approx(growth * 0.05, rel=1e-9)

    def test_without_the_first_input_the_start_is_the_first_output(self):
        records = make(["plain"], blocks=5, seeds=1, steps=(0,))
        records.signals = records.signals[records.signals["port"] != "in"]
        row = summarize(records).iloc[0]
        assert row["blocks_spanned"] == 4
        assert row["total_ratio"] == pytest.approx(16.0, rel=1e-12)

    def test_without_the_first_input_another_blocks_input_is_not_the_start(self):
        records = make(["plain"], blocks=5, seeds=1, steps=(0,))
        rows = records.signals
        records.signals = rows[(rows["port"] != "in") | (rows["block"] > 0)]
        row = summarize(records).iloc[0]
        assert row["blocks_spanned"] == 4
        assert row["total_ratio"] == pytest.approx(16.0, rel=1e-12)

    def test_the_start_is_that_of_each_draw(self):
        records = make(["plain"], blocks=3, seeds=2, steps=(0,))
        rows = records.signals
        first = (rows["port"] == "in") & (rows["block"] == 0) & (rows["seed"] == 1)
        records.signals = rows.assign(second_moment=rows["second_moment"].mask(first, 0.01))
        row = summarize(records).iloc[0]
        ratios = [8.0, second_moment("plain", 2, 1) / 0.01]
        assert row["total_ratio"] == pytest.approx(math.sqrt(math.prod(ratios)), rel=1e-12)

    def test_the_largest_fold_is_the_mean_over_seeds_and_not_the_worst(self):
        records = make(["rescale"], blocks=4, seeds=3, steps=(0,))
        rows = records.signals
        hit = (rows["port"] == "out") & (rows["direction"] == "forward") & (rows["block"] == 2)
        folds = {0: 8.0, 1: 27.0, 2: 1 / 64}
        value = rows["second_moment"] * rows["seed"].map(folds)
        records.signals = rows.assign(second_moment=rows["second_moment"].mask(hit, value))
        row = summarize(records).iloc[0]
        assert row["largest_fold"] == pytest.approx((8 * 27 * 64) ** (1 / 3), rel=1e-9)
        assert row["highest_ratio"] == pytest.approx((8 * 27 * 1) ** (1 / 3), rel=1e-9)
        assert row["lowest_ratio"] == pytest.approx(64 ** (-1 / 3), rel=1e-9)

    def test_a_signal_that_leaves_by_a_million_and_returns_is_seen(self):
        records = make(["rescale"], blocks=9, seeds=2, steps=(0,), diverge_at=None)
        rows = records.signals
        hit = (rows["port"] == "out") & (rows["direction"] == "forward") & (rows["block"] == 4)
        value = rows["second_moment"].mask(hit, 1e6 * rows["second_moment"])
        records.signals = rows.assign(second_moment=value)
        row = summarize(records).iloc[0]
        assert row["total_ratio"] == pytest.approx(1.0)
        assert row["highest_ratio"] == pytest.approx(1e6)
        assert verdict({str(name): value for name, value in row.items()}) == "explodes"

    def test_theory_is_compared_at_the_block_where_it_differs_most(self):
        records = make(["plain", "rescale"], blocks=4, seeds=3, steps=(0,))
        predictions = pd.DataFrame(
            {"network": "plain", "block": range(4), "direction": "forward",
             "quantity": "second_moment", "value": [2.0, 4.0, 2.0, 16.0]}
        )  # fmt: skip
        summary = summarize(records, predictions).set_index("network")
        assert summary.loc["plain", "theory_ratio"] == pytest.approx(4.0, rel=1e-12)
        assert summary.loc["plain", "theory_block"] == 2
        error = math.log(1.02) / math.sqrt(3)  # logs are -a, 0, a: their deviation is a
        assert summary.loc["plain", "theory_standard_error"] == pytest.approx(error, rel=1e-9)
        assert pd.isna(summary["theory_ratio"]["rescale"])

    def test_theory_is_not_compared_with_the_finite_rest_of_a_broken_block(self):
        records = make(["plain"], blocks=4, seeds=1, steps=(0,))
        rows = records.signals
        hit = (rows["block"] == 2) & (rows["direction"] == "forward")
        records.signals = rows.assign(
            nonfinite=rows["nonfinite"].mask(hit, 1),
            second_moment=rows["second_moment"].mask(hit, 1e6),
        )
        predictions = pd.DataFrame(
            {"network": "plain", "block": range(4), "direction": "forward",
             "quantity": "second_moment", "value": [2.0, 4.0, 8.0, 16.0]}
        )  # fmt: skip
        assert summarize(records, predictions)["theory_ratio"].item() == pytest.approx(1 / 1.02)

    @pytest.mark.parametrize("value", [INF, -INF, NAN, 0.0, -1.0])
    def test_theory_beyond_the_float_range_is_no_theory(self, value):
        records = make(["plain"], blocks=4, seeds=1, steps=(0,))
        predictions = pd.DataFrame(
            {"network": "plain", "block": range(4), "direction": "forward",
             "quantity": "second_moment", "value": [2.0, 4.0, 8.0, value]}
        )  # fmt: skip
        assert summarize(records, predictions)["theory_ratio"].item() == pytest.approx(1 / 1.02)

    def test_the_numbers_of_the_finite_rest_are_not_shown(self):
        records = make(["plain"], blocks=6, seeds=1, steps=(0,), diverge_at=None)
        rows = records.signals
        bad = (rows["block"] >= 4) & (rows["direction"] == "forward")
        records.signals = rows.assign(nonfinite=rows["nonfinite"].mask(bad, 12))
        row = summarize(records).iloc[0]
        assert (row["nonfinite_from_block"], row["nonfinite_elements"], row["nonfinite_of"]) == (
            4, 12, 4096,
        )  # fmt: skip
        assert row["growth_per_block"] == pytest.approx(2.0, rel=1e-12), "of blocks 0 to 3"
        assert math.isnan(row["total_ratio"])
        table = build("init_by_block", records)
        assert table["second_moment"].notna().tolist() == [True] * 4 + [False] * 2
        assert table["mean_shift"].notna().tolist() == [True] * 4 + [False] * 2
        assert table["nonfinite"].tolist() == [0] * 4 + [1] * 2

    def test_non_finite_blocks_are_named_and_do_not_poison_growth(self):
        records = make(["plain"], blocks=30, seeds=1, steps=(0,), diverge_at=None)
        bad = records.signals["block"] >= 23
        records.signals.loc[bad, "second_moment"] = INF
        records.signals.loc[bad, "nonfinite"] = 1
        row = summarize(records).iloc[0]
        assert row["nonfinite_from_block"] == 23
        assert row["nonfinite_gradients"] == 7
        assert row["growth_per_block"] == pytest.approx(2.0, rel=1e-12)
        assert math.isnan(row["total_ratio"])

    @pytest.mark.parametrize("table", ["signals", "parameters", "training"])
    def test_a_missing_table_leaves_its_numbers_missing(self, table):
        records = make(blocks=3, seeds=1, steps=(0,))
        setattr(records, table, tidy(table, []))
        frame = summarize(records)
        assert frame["network"].tolist() == ["plain", "batchnorm", "rescale"]
        column = {
            "signals": "total_ratio",
            "parameters": "grad_to_weight",
            "training": "final_loss",
        }
        assert frame[column[table]].isna().all()

    def test_values_at_the_ends_of_the_float_range(self):
        records = make(["plain"], blocks=3, seeds=1, steps=(0,))
        values = {-1: 1e-30, 0: 1e-30, 1: 1.0, 2: 1e30}
        out = records.signals["port"] == "out"
        records.signals.loc[out, "second_moment"] = records.signals.loc[out, "block"].map(values)
        records.signals = records.signals[out]
        row = summarize(records).iloc[0]
        assert row["total_ratio"] == pytest.approx(1e60, rel=1e-9)
        assert row["growth_per_block"] == pytest.approx(1e30, rel=1e-9)


def test_slope_leaves_out_what_has_no_logarithm():
    blocks = pd.Series([0, 1, 2, 3, 4])
    values = pd.Series([1.0, NAN, 0.0, INF, 16.0])
    assert slope(blocks, values) == pytest.approx(math.log(16) / 4, rel=1e-12)
    assert math.isnan(slope(blocks[:1], values[:1]))


class TestByBlock:
    def test_geometric_mean_and_range_over_seeds(self, records):
        table = build("init_by_block", records).set_index(["network", "block"])
        row = table.loc[("plain", 9)]
        values = [second_moment("plain", 9, seed) for seed in range(3)]
        assert row["second_moment"] == pytest.approx(np.exp(np.mean(np.log(values))), rel=1e-12)
        assert (row["low"], row["high"], row["seeds"]) == (min(values), max(values), 3)

    def test_identity_of_the_three_moments(self, records):
        table = build("init_by_block", records)
        total = table["channel_variance"] + table["mean_shift"]
        assert total.to_numpy() == pytest.approx(table["second_moment"].to_numpy(), rel=1e-12)

    def test_blocks_are_named(self, records):
        for name in ("init_by_block", "gradient_by_block"):
            table = build(name, records)
            assert (table["name"] == "blocks." + table["block"].astype(str)).all()

    def test_one_row_per_network_and_block(self, records):
        for name in ("init_by_block", "gradient_by_block"):
            table = build(name, records)
            assert len(table) == 3 * 30
            assert not table.duplicated(["network", "block"]).any()

    def test_relative_gradient(self, records):
        table = build("gradient_by_block", records).set_index(["network", "block"])
        assert table.loc[("plain", 0), "relative_gradient"] == pytest.approx(2.0**29, rel=1e-9)
        assert table.loc[("plain", 29), "relative_gradient"] == 1.0

    def test_non_finite_draws_are_counted(self):
        records = make(["plain"], blocks=2, seeds=3, steps=(0,))
        hit = (records.signals["seed"] == 1) & (records.signals["block"] == 1)
        records.signals.loc[hit, "second_moment"] = INF
        table = build("init_by_block", records)
        assert table["nonfinite"].tolist() == [0, 1]
        assert table["seeds"].tolist() == [3, 2]


class TestDeviation:
    def predictions(self, value=2.0):
        rows = [
            {"network": "plain", "block": block,
             "direction": "forward", "quantity": "second_moment",
             "value": value ** (block + 1)}
            for block in range(4)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def test_log_ratio_of_a_true_law_is_zero(self):
        records = make(blocks=4, seeds=3, steps=(0,))
        table = build("deviation", records, self.predictions())
        assert table["log_ratio"].to_numpy() == pytest.approx(np.zeros(4), abs=1e-3)
        assert set(table["network"]) == {"plain"}

    def test_log_ratio_of_a_false_law_grows_with_the_block(self):
        records = make(blocks=4, seeds=1, steps=(0,))
        table = build("deviation", records, self.predictions(1.0))
        steps = np.diff(table["log_ratio"])
        assert steps == pytest.approx(np.full(3, math.log(2)), rel=1e-9)

    def test_a_prediction_of_zero_or_a_negative_one_has_no_log_ratio(self):
        records = make(blocks=4, seeds=1, steps=(0,))
        wrong = self.predictions().assign(value=[0.0, -1.0, NAN, INF])
        table = build("deviation", records, wrong)
        assert table["log_ratio"].iloc[:3].isna().all()

    def test_no_predictions_give_no_rows(self, records):
        assert build("deviation", records).empty

    def test_blocks_that_were_not_measured_are_left_out(self):
        records = make(blocks=2, seeds=1, steps=(0,))
        assert build("deviation", records, self.predictions())["block"].tolist() == [0, 1]


class TestTraining:
    def test_loss_is_the_mean_and_range_over_seeds(self, records):
        table = build("training", records).set_index(["network", "mode", "step"])
        rows = records.training
        chosen = rows[
            (rows["network"] == "rescale") & (rows["mode"] == "train") & (rows["step"] == 7)
        ]
        row = table.loc[("rescale", "train", 7)]
        assert row["loss"] == pytest.approx(chosen["loss"].mean(), rel=1e-12)
        assert (row["loss_low"], row["loss_high"]) == (chosen["loss"].min(), chosen["loss"].max())

    def test_a_lost_loss_is_counted(self, records):
        table = build("training", records).set_index(["network", "mode", "step"])
        assert table.loc[("plain", "train", 2), "nonfinite"] == 0
        assert table.loc[("plain", "train", 3), "nonfinite"] == 3

    def test_divergence_reads_infinite_and_missing_losses(self):
        rows = tidy(
            "training",
            [
                {"network": name, "seed": seed, "step": step, "mode": "train", "loss": loss}
                for name, seed, losses in (
                    ("a", 0, [1.0, INF, NAN]),
                    ("a", 1, [1.0, 1.0, 1.0]),
                    ("b", 0, [NAN, NAN]),
                    ("c", 0, [1.0, 1.0]),
                )
                for step, loss in enumerate(losses)
            ],
        )
        found = divergences(train_rows(rows))
        assert {name: case.sentence() for name, case in found.items()} == {
            "a": "diverged at step 1 (1 of 2 seeds)",
            "b": "diverged at step 0",
        }

    def test_accuracy_falls_back_to_training_batches(self):
        rows = [{"network": "a", "step": step, "mode": "train", "accuracy": 0.5} for step in (0, 1)]
        scored, mode = evaluated(tidy("training", rows))
        assert (len(scored), mode) == (2, "train")
        scored, mode = evaluated(tidy("training", [*rows, {**rows[0], "mode": "eval"}]))
        assert (len(scored), mode) == (1, "eval")

    def test_final_values_take_each_draws_own_last_row(self):
        rows = tidy(
            "training",
            [
                {"network": "a", "seed": 0, "step": 0, "loss": 9.0},
                {"network": "a", "seed": 0, "step": 5, "loss": 1.0},
                {"network": "a", "seed": 1, "step": 2, "loss": 3.0},
            ],
        )
        assert final_values(rows, "loss") == {"a": 2.0}

    def test_the_last_row_is_that_of_the_last_step_whatever_the_order_of_rows(self):
        rows = [
            {"network": "a", "seed": 0, "step": step, "mode": "eval", "accuracy": accuracy}
            for step, accuracy in ((5, 0.9), (0, 0.1), (3, 0.5))
        ]
        assert final_values(tidy("training", rows), "accuracy") == {"a": 0.9}


class TestSpectra:
    def frame(self, values):
        rows = [
            {"network": "a", "name": "w", "operator": "matrix", "index": index, "singular_value": v}
            for index, v in enumerate(values)
        ]
        return build("spectra_summary", Records(spectra=tidy("spectra", rows))).iloc[0]

    def test_condition_number_and_stable_rank(self):
        row = self.frame([4.0, 2.0, 1.0])
        assert (row["largest"], row["smallest"], row["condition"], row["count"]) == (
            4.0,
            1.0,
            4.0,
            3,
        )
        assert row["stable_rank"] == pytest.approx((16 + 4 + 1) / 16)

    def test_a_singular_matrix_has_no_condition_number(self):
        assert math.isnan(self.frame([1.0, 0.0])["condition"])

    def test_a_zero_matrix_has_no_stable_rank(self):
        assert math.isnan(self.frame([0.0, 0.0])["stable_rank"])

    def test_stable_rank_of_huge_values_does_not_overflow(self):
        assert self.frame([1e200, 1e200])["stable_rank"] == pytest.approx(2.0)


class TestCoverageAndProvenance:
    def test_seeds_that_agree_are_one_row_and_gaps_come_first(self):
        rows = [
            {"network": "a", "seed": seed, "name": name, "type": "T", "recorded": name == "x",
             "calls": 1, "gradient": "", "reason": "" if name == "x" else "never called"}
            for seed in (0, 1)
            for name in ("x", "y")
        ]  # fmt: skip
        table = build("coverage", Records(coverage=tidy("coverage", rows)))
        assert table["name"].tolist() == ["y", "x"]

    def test_the_manifest_is_flattened(self):
        manifest = {"command": "sigprop", "versions": {"torch": "2.5"}, "seeds": [0, 1]}
        table = build("provenance", Records(manifest=manifest))
        assert dict(zip(table["key"], table["value"], strict=True)) == {
            "command": "sigprop",
            "versions.torch": "2.5",
            "seeds": "0, 1",
        }


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_has_words_and_survives_empty_records(name):
    spec = TABLES[name]
    assert spec.title
    assert spec.caption.endswith(".")
    assert isinstance(spec.build(Records(), None), pd.DataFrame)
