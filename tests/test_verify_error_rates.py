"""The shortcut with which error rates are measured, against `verify` itself."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.verify_error_rates import WEIGHTS, Foreign, compare_with_verify, share


def test_the_shortcut_judges_as_verify_does_and_draws_the_same_network() -> None:
    same, errors = compare_with_verify(Foreign("gaussian", 64, 3), seeds=16)
    assert same
    assert abs(errors) < 4


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_drawn_networks_keep_the_second_moment(weights: str) -> None:
    """The mean ratio of 400 draws is 1 within four standard errors; with β x 1.1 it is not."""

    def mean(beta: float) -> tuple[float, float]:
        drawn = Foreign(weights, 64, 4, beta).draw(400, torch.Generator().manual_seed(0)).prod(1)
        return float(drawn.mean()), float(drawn.std(ddof=1) / math.sqrt(400))

    kept, error = mean(1.0)
    assert abs(kept - 1) < 4 * error
    broken, error = mean(1.1)
    assert broken - 1 > 4 * error


def test_shares_have_exact_intervals() -> None:
    """0 of 300: the upper end is 1 - 0.025^(1/300) = 1.222 %."""
    assert share(0, 300) == "0.0 (0.0-1.2)"
    assert share(15, 300) == "5.0 (2.8-8.1)"
