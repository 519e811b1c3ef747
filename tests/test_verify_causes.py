"""Causes on networks that are not of the zoo: each fault is told apart from all others."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import sigprop

WIDTH, DEPTH = 64, 12
Padding = Literal["zeros", "circular"]
X = torch.randn(24, WIDTH, generator=torch.Generator().manual_seed(0))


def matrix(inputs: int, gain: float) -> nn.Linear:
    """A linear layer that multiplies the second moment by gain²."""
    layer = nn.Linear(inputs, inputs, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs))
    return layer


class Foreign(nn.Module):
    """x_k = α_k x_{k-1} + β_k W₂ relu(W₁ x_{k-1}), α² + β² = 1, with one fault or none."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(index, fault) for index in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    def __init__(self, index: int, fault: str) -> None:
        super().__init__()
        self.fault = fault
        k, c = index + 1, 2 if fault == "exponent" else DEPTH
        self.alpha = 1.0 if fault == "alpha forgotten" else math.sqrt((k - 1 + c) / (k + c))
        self.beta = 1 / math.sqrt(k + c)
        if fault == "exponent":  # 1/6 for each of two weights, where 1/4 is right
            self.beta = math.sqrt(1 / c) * ((k + c) / c) ** (-2 / 6)
        if fault == "beta":
            self.beta *= 1.25
        self.first = matrix(WIDTH, 1.0 if fault == "gain" else math.sqrt(2))
        self.second = matrix(WIDTH, 1.0)
        self.dead = fault == "dead" and index == 3

    def forward(self, x: Tensor) -> Tensor:
        inner = x.detach() if self.fault == "detached" else x
        hidden = (self.first(inner) - 1e6 * self.dead).relu()
        branch = self.beta * self.second(hidden)
        if self.fault == "correlated":
            branch = branch + 0.02 * x
        return self.alpha * x + branch


class Chain(nn.Module):
    """Linear layers and ReLUs in a row, without a skip."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(matrix(WIDTH, gain), nn.ReLU()) for _ in range(4))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Images(nn.Module):
    """The residual network of convolutions; zeros around 6x6 maps take a ninth of every kernel."""

    def __init__(self, padding_mode: Padding) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ImageLayer(index, padding_mode) for index in range(DEPTH // 2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ImageLayer(nn.Module):
    def __init__(self, index: int, padding_mode: Padding) -> None:
        super().__init__()
        k, c = index + 1, 6
        self.alpha, self.beta = math.sqrt((k - 1 + c) / (k + c)), 1 / math.sqrt(k + c)
        self.first, self.second = (
            nn.Conv2d(16, 16, 3, padding=1, bias=False, padding_mode=padding_mode) for _ in range(2)
        )
        for layer, gain in ((self.first, math.sqrt(2)), (self.second, 1.0)):
            nn.init.normal_(layer.weight, std=gain / math.sqrt(9 * 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x + self.beta * self.second(self.first(x).relu())


IMAGES = torch.randn(4, 16, 6, 6, generator=torch.Generator().manual_seed(0))

#: What is built, its inputs, the law, and how the cause begins or what it says.
CAUSES: dict[str, tuple[Callable[[], nn.Module], Tensor, str, str]] = {
    "alpha forgotten": (
        partial(Foreign, "alpha forgotten"),
        X,
        "preserved",
        "is the factor α of the skip forgotten?",
    ),
    "alpha forgotten, by gradients": (
        partial(Foreign, "alpha forgotten"),
        X,
        "gradient-preserved",
        "is the factor α of the skip forgotten?",
    ),
    "beta off": (partial(Foreign, "beta"), X, "preserved", "β is off, the branch adds x1.5"),
    "wrong exponent": (partial(Foreign, "exponent"), X, "preserved", "wrong exponent"),
    "a missing gain": (
        partial(Foreign, "gain"),
        X,
        "preserved",
        "what a missing gain of √2 in front of a ReLU does, in one layer",
    ),
    "skip and branch correlated": (
        partial(Foreign, "correlated"),
        X,
        "preserved",
        "skip and branch are correlated",
    ),
    "a dead layer": (
        partial(Foreign, "dead"),
        X,
        "preserved",
        "the branch of layers.3 adds exactly 0 in 8 of 8 draws: a layer in it is dead",
    ),
    "a detached branch": (
        partial(Foreign, "detached"),
        X,
        "gradient-preserved",
        "no gradient passes the branch of layers.0, layers.1, layers.2, ...: what arrives in "
        "front is exactly what the skip passes",
    ),
    "mean shift": (
        Foreign,
        X,
        "preserved:channel_variance",
        "the rest of it is mean shift: the branch's weights or inputs are not centered",
    ),
    "a border of zeros": (
        partial(Images, "zeros"),
        IMAGES,
        "preserved",
        "a border effect of zero padding: with circular padding in its place",
    ),
    "a missing gain without a skip": (
        partial(Chain, 1.0),
        X,
        "preserved",
        "what a missing gain of √2 in front of a ReLU does; no residual addition was seen in it",
    ),
    "PyTorch's default": (
        partial(Chain, math.sqrt(1 / 3)),
        X,
        "preserved",
        "PyTorch's default initialization of a linear layer, variance 1/(3 fan_in), and a ReLU",
    ),
}


@pytest.mark.parametrize(("build", "x", "law", "words"), CAUSES.values(), ids=CAUSES)
def test_the_cause_is_named_and_no_other(
    build: Callable[[], nn.Module], x: Tensor, law: str, words: str
) -> None:
    result = sigprop.verify(build, x, law, seeds=8)
    assert result.verdict == "violated", str(result)
    assert words in result.cause()
    others = {other for *_, other in CAUSES.values() if other not in words and words not in other}
    assert not [other for other in others if other in result.cause()]


def test_only_violated_rows_have_a_reason() -> None:
    def one_large_layer() -> nn.Module:
        gains = [2**0.5 * (3 if index == 5 else 1) for index in range(8)]
        return nn.Sequential(*(nn.Sequential(matrix(WIDTH, gain), nn.ReLU()) for gain in gains))

    table = sigprop.verify(one_large_layer, X, seeds=6, tolerance=0.5).table
    violated = table["verdict"] == "violated"
    assert violated[5]
    assert not violated[:5].any()
    assert (table.loc[violated, "reason"] != "").all()
    assert (table.loc[~violated, "reason"] == "").all()
