"""The report of networks that are not of the zoo, and of networks without a prediction."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn

import sigprop
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


@pytest.mark.parametrize("architecture", ["resnet", "transformer"])
def test_a_network_of_the_zoo_without_a_recursion_is_reported_alone(tmp_path, architecture):
    options = {"depth": 2, "width": 8, "architecture": architecture}
    shape = (4, 3, 8, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    records = sigprop.measure("rescale", x, options={**options, "inputs": shape[1:]})
    assert predictions(records).empty
    assert sigprop.report(records, tmp_path, figures=["signal_propagation"]).exists()


def test_an_empty_frame_of_predictions_without_columns_is_no_prediction(tmp_path):
    records = sigprop.measure(mlp, X)
    assert sigprop.report(records, tmp_path, predictions=pd.DataFrame()).exists()
