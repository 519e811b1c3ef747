"""`sigprop.plots`: one public function for each figure of the report, and the same picture."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from synthetic import make, second_moment

import sigprop
from sigprop.errors import SigpropError
from sigprop.records import Records
from sigprop.reporting.figures import FIGURES


@pytest.fixture(scope="module")
def records() -> Records:
    return make(["rescale"], blocks=3, seeds=1, steps=(0, 2), loss_steps=8)


def test_there_is_a_function_for_each_figure():
    assert sigprop.plots.__all__ == sorted(FIGURES)
    assert all(inspect.isfunction(getattr(sigprop.plots, name)) for name in FIGURES)


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_a_figure_has_panels_and_can_be_changed(records, name):
    figure = getattr(sigprop.plots, name)(records)
    assert figure.axes
    figure.axes[0].set_title("mine")
    assert getattr(sigprop.plots, name)(records).axes[0].get_title() != "mine"


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_without_data_the_message_says_what_is_absent(name):
    with pytest.raises(SigpropError, match=r"recorded"):
        getattr(sigprop.plots, name)(Records())


def test_numbers_are_those_of_the_records(records):
    (line,) = [
        line
        for line in sigprop.plots.signal_propagation(records).axes[0].lines
        if line.get_label() == "rescale"
    ]
    expected = [second_moment("rescale", block) for block in range(3)]
    assert np.asarray(line.get_ydata(), dtype=float) == pytest.approx(expected)
