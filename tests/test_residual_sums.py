"""Which sums are residual additions, however they are written, and which are none."""

from __future__ import annotations

from collections.abc import Callable

import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sigprop

Written = Callable[["Parts", Tensor], Tensor]


class Parts(nn.Module):
    """One block: a function of its input, and layers to write it with."""

    def __init__(self, function: Written) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.gamma = nn.Parameter(torch.full((4,), 0.1))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def rows_of(written: Written) -> dict[str, float]:
    """Return the second moment at each port of one forward pass."""
    torch.manual_seed(0)
    model = Parts(written)
    with sigprop.attach(model, blocks="(model)", strict=True) as probe:
        for _ in range(2):  # what is learned from the first call holds for the second
            x = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(1))
            model(x.requires_grad_()).sum().backward()
        probe.step()
    signals = probe.records.signals
    first, second = (
        signals[(signals["step"] == step) & (signals["direction"] == "forward")] for step in (0, 1)
    )
    assert first["name"].tolist() == second["name"].tolist()
    assert first["port"].tolist() == second["port"].tolist()
    return dict(zip(first["port"], first["second_moment"], strict=True))


SUMS: dict[str, tuple[Written, Callable[[Parts, Tensor], tuple[Tensor, Tensor]]]] = {
    "x - f(x)": (lambda m, x: x - m.f(x), lambda m, x: (x, -m.f(x))),
    "in place": (lambda m, x: x.clone().sub_(m.f(x)), lambda m, x: (x, m.f(x))),
    "lerp": (lambda m, x: torch.lerp(x, m.f(x), 0.3), lambda m, x: (0.7 * x, 0.3 * m.f(x))),
    "lerp from the branch": (
        lambda m, x: m.f(x).lerp(x, m.gamma),
        lambda m, x: (m.gamma * x, (1 - m.gamma) * m.f(x)),
    ),
    "stack": (lambda m, x: torch.stack([x, m.f(x)]).sum(0), lambda m, x: (x, m.f(x))),
    "stack on another axis": (
        lambda m, x: torch.stack((m.f(x), x), dim=-1).sum(dim=-1),
        lambda m, x: (x, m.f(x)),
    ),
    "projected": (lambda m, x: m.first(x) + m.f(x), lambda m, x: (m.first(x), m.f(x))),
}


@pytest.mark.parametrize(("written", "truth"), SUMS.values(), ids=SUMS)
def test_a_sum_on_the_stream_has_ports_however_it_is_written(written, truth) -> None:
    found = rows_of(written)
    torch.manual_seed(0)
    model = Parts(written).double()
    x = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    for port, tensor in zip(("skip", "branch"), truth(model, x), strict=True):
        assert found[port] == pytest.approx(oracles.second_moment(tensor.detach()), rel=1e-4)


def _gru(m: Parts, x: Tensor) -> Tensor:
    gate = torch.sigmoid(m.first(x))
    return (1 - gate) * m.f(x) + gate * x


def _state_space(m: Parts, x: Tensor) -> Tensor:
    u = F.silu(m.first(x))
    y = m.second(u) + m.gamma * u  # the D-skip of a state-space model
    return x + m.third(y)


def _low_rank(m: Parts, x: Tensor) -> Tensor:
    return m.first(x) + 0.5 * m.third(m.second(x))


def _shared_expert(m: Parts, x: Tensor) -> Tensor:
    routed = torch.softmax(m.gamma * x, -1) * m.f(x)
    return routed + m.second(F.silu(m.first(x)))


def _token_shift(m: Parts, x: Tensor) -> Tensor:
    shifted = F.pad(x, (0, 0, 1, -1))
    return m.f(x * m.gamma + shifted * (1 - m.gamma))


def _expert_bias(m: Parts, x: Tensor) -> Tensor:
    expert = m.first(x).argmax(-1)
    return m.f(x) + m.second.weight[expert]


NO_SUMS: dict[str, Written] = {
    "the gates of a recurrent cell": _gru,
    "a low-rank term": _low_rank,
    "a shared expert": _shared_expert,
    "a token shift": _token_shift,
    "the bias of an expert": _expert_bias,
    "a gated lerp": lambda m, x: torch.lerp(x, m.f(x), torch.sigmoid(m.first(x))),
    "f(x) - x": lambda m, x: m.f(x) - x,
    "centering": lambda m, x: x - x.mean(-1, keepdim=True),
    "a mean of a stack": lambda m, x: torch.stack([x, m.f(x)]).mean(0),
}


@pytest.mark.parametrize("written", NO_SUMS.values(), ids=NO_SUMS)
def test_what_is_no_residual_sum_has_no_ports(written: Written) -> None:
    assert set(rows_of(written)) == {"in", "out"}


def test_a_skip_inside_the_branch_is_not_the_blocks() -> None:
    """Only x + … is; the numbers are those of the stream."""
    torch.manual_seed(0)
    model = Parts(_state_space)
    x = torch.randn(6, 3, 4)
    with sigprop.attach(model, blocks="(model)", strict=True) as probe:
        model(x)
    rows = probe.records.signals.query("port == 'skip'")
    assert rows["name"].tolist() == ["(model)"]
    assert rows["second_moment"].item() == pytest.approx(oracles.second_moment(x), rel=1e-5)


class ClassAttention(nn.Module):
    """The stream is the second argument, as in CaiT (Touvron et al. 2021, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))

    def forward(self, tokens: Tensor, token: Tensor) -> Tensor:
        return token + self.f(torch.cat([token, tokens], 1))[:, :1]


def test_the_stream_may_be_the_second_argument() -> None:
    model, tokens, token = ClassAttention(), torch.randn(3, 5, 4), torch.randn(3, 1, 4)
    with sigprop.attach(model, blocks="(model)", strict=True) as probe:
        model(tokens, token)
    row = probe.records.signals.query("port == 'skip'").iloc[0]
    assert row["second_moment"] == pytest.approx(oracles.second_moment(token), rel=1e-5)


class TwoStreams(nn.Module):
    """Both arguments are streams; what is added to a query is none (Carion et al. 2020, DETR)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.a(torch.tanh(self.b(x + position)))
        query = x + position
        return x + self.a(query), y + self.b(torch.tanh(self.a(y)))


def test_two_streams_have_their_own_additions_and_positions_none() -> None:
    model = TwoStreams()
    x, y, position = (torch.randn(3, 5, 4, requires_grad=True) for _ in range(3))
    with sigprop.attach(model, blocks="(model)", strict=True) as probe:
        sum(out.sum() for out in model(x, y, position)).backward()
    for direction in ("forward", "backward"):
        rows = probe.records.signals.query("port == 'skip' and direction == @direction")
        names = ["(model)", "(model)#1", "(model)#2"]
        assert rows["name"].tolist() == names if direction == "forward" else set(names)
    forward = probe.records.signals.query("direction == 'forward'").set_index(["name", "port"])
    last = forward["second_moment"].loc[("(model)#2", "skip")]
    assert last == pytest.approx(oracles.second_moment(y.detach()), rel=1e-5)
