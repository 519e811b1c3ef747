"""A flat Sequential is judged per affine layer with what follows it, and not layer by layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import sigprop
from sigprop.verification.units import layers_as_units

WIDTH = 256
X = torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(0))


def linear(gain: float = 2**0.5, inputs: int = WIDTH, outputs: int = WIDTH) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=gain * inputs**-0.5)
    return layer


def flat(gain: float = 2**0.5, depth: int = 4, between: Callable[[], nn.Module] | None = None):
    def build() -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [linear(gain), *([between()] if between else []), nn.ReLU()]
        return nn.Sequential(*layers)

    return build


def names(result: sigprop.Result) -> list[str]:
    return result.table.loc[result.table["block"] >= 0, "name"].tolist()


def test_he_weights_hold_and_units_have_the_names_of_their_ends() -> None:
    result = sigprop.verify(flat(), X, seeds=24, tolerance=0.2)
    assert result.holds
    assert names(result) == ["0 to 1", "2 to 3", "4 to 5", "6 to 7"]


def test_weights_off_by_a_tenth_are_found_in_a_unit() -> None:
    """A gain of 1.1 times He's multiplies by 1.21 in each of four units."""
    result = sigprop.verify(flat(1.1 * 2**0.5), X, seeds=24, tolerance=0.2)
    assert result.verdict == "violated"
    whole = result.table[result.table["block"] == -1].iloc[0]
    # the spread of 24 seeds at width 256 is about sqrt(5 * 4 / 256 / 24), 6 %
    assert whole["measured"] == pytest.approx(1.21**4, rel=0.25)


def test_the_same_numbers_as_of_nested_units() -> None:
    def nested() -> nn.Sequential:
        return nn.Sequential(*(nn.Sequential(linear(), nn.ReLU()) for _ in range(4)))

    for law in ("preserved", "gradient-preserved", "equal-parameter-gradients"):
        one = sigprop.verify(flat(), X, law, seeds=2).table
        other = sigprop.verify(nested, X, law, seeds=2).table
        np.testing.assert_allclose(one["measured"], other["measured"], rtol=1e-9)
        assert one["verdict"].tolist() == other["verdict"].tolist()


def test_a_normalization_is_part_of_its_unit() -> None:
    """BatchNorm sets 1, ReLU halves it: unit after unit a ratio of 1, but for the first."""
    build = flat(between=lambda: nn.BatchNorm1d(WIDTH))
    result = sigprop.verify(build, X, seeds=4)
    assert names(result) == ["0 to 2", "3 to 5", "6 to 8", "9 to 11"]
    measured = result.table["measured"].to_numpy()
    assert measured[1:4] == pytest.approx(1, abs=0.02)
    assert measured[0] == pytest.approx(0.5 / float(X.square().mean()), abs=0.02)


def test_what_stands_in_front_and_the_head_are_no_units() -> None:
    def build() -> nn.Sequential:
        body = [linear(), nn.ReLU(), linear(), nn.ReLU()]
        return nn.Sequential(nn.Dropout(0.1), *body, linear(outputs=10))

    assert names(sigprop.verify(build, X, seeds=2)) == ["1 to 2", "3 to 4"]


def test_a_network_of_two_containers() -> None:
    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            )  # fmt: skip
            self.classifier = nn.Sequential(
                nn.Dropout(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.features(x).flatten(1))

    result = sigprop.verify(Convolutional, torch.randn(8, 3, 8, 8), seeds=2)
    expected = ["features.0 to features.2", "features.3 to features.5"]
    assert names(result) == [*expected, "classifier.1 to classifier.2"]


def test_layers_that_are_asked_for_are_judged_by_themselves() -> None:
    result = sigprop.verify(flat(), X, blocks="leaves", seeds=2)
    assert names(result) == [str(n) for n in range(8)]
    assert result.table["measured"].to_numpy()[:2] == pytest.approx([2, 0.5], rel=0.1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(*(linear() for _ in range(3))),
        lambda: nn.Sequential(*(nn.Sequential(linear(), nn.ReLU()) for _ in range(3))),
    ],
    ids=["no activations", "blocks of several layers"],
)
def test_other_networks_are_as_they_were(build: Callable[[], nn.Module]) -> None:
    records = sigprop.measure(build, X, seeds=2)
    assert layers_as_units(records) is records
