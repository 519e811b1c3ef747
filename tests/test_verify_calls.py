"""Blocks that are called several times: a law is judged in each of their calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sigprop

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


class Turn(nn.Module):
    """A rotation, which preserves every second moment; its calls may have gains.

    Args:
        gains: by which the calls multiply, the first to the last.
    """

    def __init__(self, *gains: float) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.orthogonal(nn.Linear(16, 16, bias=False))
        self.gains, self.calls = gains, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * self.gains[self.calls - 1]


class Loop(nn.Module):
    """Calls one block in turn; its input is normalized between the calls, so that no call is seen
    in what the next one receives.
    """

    def __init__(self, *gains: float) -> None:
        super().__init__()
        self.stem, self.turn = nn.Linear(16, 16), Turn(*gains)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in self.turn.gains:
            x = self.turn(x / x.square().mean().sqrt())
        return x


def judged(*gains: float) -> sigprop.Result:
    return sigprop.verify(lambda: Loop(*gains), X, seeds=3, blocks=["turn"])


def test_every_call_that_keeps_the_law_is_judged() -> None:
    result = judged(1.0, 1.0, 1.0)
    assert result.table["name"].tolist()[:3] == ["turn", "turn#1", "turn#2"]
    assert result.holds
    assert result.table["measured"].tolist()[:3] == pytest.approx([1.0] * 3, rel=1e-5)


def test_a_later_call_that_breaks_the_law_is_named() -> None:
    """The saboteur: by the first call alone the law holds."""
    result = judged(1.0, 1.3, 1.0)
    broken = result.first_violation
    assert broken is not None
    assert (result.verdict, broken["name"]) == ("violated", "turn#1")
    assert broken["measured"] == pytest.approx(1.69, rel=1e-5)


def test_a_call_that_not_every_draw_makes_is_left_out() -> None:
    def random_loop() -> Loop:
        return Loop(*[1.0] * (2 + int(torch.randint(2, ()))))

    result = sigprop.verify(random_loop, X, seeds=6, blocks=["turn"])
    calls = result.records.signals.groupby("seed")["call"].max()
    assert set(calls) == {1, 2}, "both lengths have to be drawn"
    assert result.table["name"].tolist()[:2] == ["turn", "turn#1"]
    assert len(result.table) == 3
    assert result.holds


class Adds(nn.Module):
    """Two residual additions a call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a(x)
        return x + self.b(x)


class Siamese(nn.Module):
    """Two inputs through the same two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(Adds(), Adds())

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x) - self.tower(3 * x.sin())


def test_the_operands_are_those_of_the_call() -> None:
    result = sigprop.verify(Siamese, X, seeds=2, blocks=["tower.0", "tower.1"])
    table = result.table[result.table["block"] >= 0].set_index("name")
    assert table.index.tolist() == ["tower.0", "tower.1", "tower.0#1", "tower.1#1"]
    # The first of two additions in a call: the third of the module belongs to its second call.
    rows = result.records.signals.query("port == 'branch' and direction == 'forward'")
    own = rows[rows["module"] == "tower.0"].groupby("call")["skip_branch_correlation"].mean()
    assert own.nunique() == 4
    assert table.loc["tower.0", "correlation"] == pytest.approx(own[0], abs=1e-6)
    assert table.loc["tower.0#1", "correlation"] == pytest.approx(own[2], abs=1e-6)
