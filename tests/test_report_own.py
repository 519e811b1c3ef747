"""The report of networks that are not of the zoo, and of networks without a prediction."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
import torch
from torch import nn

import sigprop
from sigprop.records import Records, concat, tidy
from sigprop.reporting.figures import PREDICTED
from sigprop.verification.predictions import predictions

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(4)))


def test_a_network_of_ones_own_is_reported(tmp_path):
    records = sigprop.measure(mlp, X)
    assert list(predictions(records).columns) == list(PREDICTED)
    page = sigprop.report(records, tmp_path)
    assert "no prediction" not in page.read_text("utf-8")


def test_a_network_of_the_zoo_without_a_recursion_is_reported_alone(tmp_path):
    options = {"depth": 2, "width": 8, "order": "weight-norm-act"}
    shape = (4, 3, 8, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    records = sigprop.measure("rescale", x, options={**options, "inputs": shape[1:]})
    assert predictions(records).empty
    assert sigprop.report(records, tmp_path, figures=["signal_propagation"]).exists()


def test_an_empty_frame_of_predictions_without_columns_is_no_prediction(tmp_path):
    records = sigprop.measure(mlp, X)
    assert sigprop.report(records, tmp_path, predictions=pd.DataFrame()).exists()


def residual() -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
    )


@pytest.fixture(scope="module")
def whole():
    """Records of a network of one's own with something in every table but training."""
    return sigprop.measure(residual, torch.randn(2, 5, 16), seeds=2, network="mine")


class TestSparseRecords:
    """What is absent is said; nothing raises or warns (pytest turns warnings into errors)."""

    def page(self, records, tmp_path):
        return sigprop.report(records, tmp_path).read_text("utf-8")

    @pytest.mark.parametrize("table", ["signals", "parameters", "spectra", "coverage"])
    def test_without_one_table(self, whole, tmp_path, table):
        frames = {**whole.tables(), table: tidy(table, [])}
        assert "mine" in self.page(Records(**frames, manifest=whole.manifest), tmp_path)

    @pytest.mark.parametrize("table", ["signals", "parameters", "spectra", "coverage"])
    def test_with_one_table(self, whole, tmp_path, table):
        assert "mine" in self.page(Records(**{table: whole.tables()[table]}), tmp_path)

    @pytest.mark.parametrize(
        "kept",
        [
            lambda rows: rows["direction"] == "forward",
            lambda rows: rows["direction"] == "backward",
            lambda rows: rows["port"] == "in",
            lambda rows: rows["port"] == "skip",
            lambda rows: rows["block"] == 0,
            lambda rows: rows["kind"] == "rectifier",
            lambda rows: rows.index == rows.index[0],
        ],
        ids=[
            "no gradients",
            "no activations",
            "inputs",
            "operands",
            "one block",
            "inside",
            "a row",
        ],
    )
    def test_with_some_of_the_signals(self, whole, tmp_path, kept):
        rows = whole.signals
        self.page(Records(signals=rows[kept(rows)]), tmp_path)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
    def test_with_the_same_value_everywhere(self, whole, tmp_path, value):
        numbers = whole.signals.select_dtypes("float64").columns
        records = Records(signals=whole.signals.assign(**dict.fromkeys(numbers, value)))
        records.parameters = whole.parameters.assign(
            grad_to_weight=value, update_to_weight=value, grad_norm=value, weight_norm=value
        )
        records.spectra = whole.spectra.assign(singular_value=value)
        self.page(records, tmp_path)

    def test_a_model_without_parameters_in_blocks_and_a_single_block(self, tmp_path):
        single = nn.Sequential(nn.Sequential(nn.Linear(16, 16), nn.ReLU()))
        self.page(sigprop.measure(single, X, spectra=False), tmp_path)

    def test_a_batch_of_one_sample(self, tmp_path):
        options = {"depth": 2, "width": 8, "inputs": 16}
        self.page(sigprop.measure("plain", X[:1], options=options), tmp_path)

    def test_theory_for_some_networks_only(self, tmp_path):
        options = {"depth": 2, "width": 8, "inputs": 16}
        zoo = sigprop.measure("plain", X, network="plain", options=options)
        own = sigprop.measure(mlp, X, network="mine")
        words = self.page(concat([zoo, own]), tmp_path)
        assert "mine: no prediction." in words


def test_theory_that_leaves_the_float_range_is_no_prediction():
    """A second moment that doubles 1100 times is not finite: there is nothing to draw."""
    small = sigprop.measure("plain", X, options={"depth": 2, "width": 4, "inputs": 16})
    small.manifest["designs"]["model"]["depth"] = 1100
    assert predictions(small).empty


def test_predictions_that_are_not_finite_are_not_drawn_and_nothing_raises(whole, tmp_path):
    overflowing = pd.DataFrame(
        {"network": "mine", "block": [0, 1], "direction": "forward", "quantity": "second_moment",
         "value": [1.0, float("inf")]}
    )  # fmt: skip
    assert sigprop.report(whole, tmp_path, predictions=overflowing).exists()


def test_the_figures_can_be_imported_under_a_name():
    code = "import sigprop.reporting.figures as f; import sigprop; print(len(f.FIGURES))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "8"
