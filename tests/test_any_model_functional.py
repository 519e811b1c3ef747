"""Functional rectifiers, residual additions and attention: what module hooks cannot see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracles
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import sigprop
from sigprop.networks.layers import Add

NUMBERS = ["second_moment", "channel_variance", "mean_shift", "kurtosis", "max_abs", "count"]


class Block(nn.Module):
    """A ResNet block whose addition and rectifiers are written in one of several ways."""

    def __init__(self, way: str, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride), nn.BatchNorm2d(out))
        self.way = way
        if way == "module":
            self.add, self.relu = Add(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "module":
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(self.add(self.shortcut(x), out))
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.after_branch(self.shortcut(x), out)

    def after_branch(self, skip: Tensor, out: Tensor) -> Tensor:
        if self.way == "operator":
            return F.relu(skip + out)
        if self.way == "swapped":
            return (out + skip).relu()
        if self.way == "inplace":
            out += skip
            return torch.relu_(out)
        if self.way == "method":
            return out.add_(skip).clamp_(min=0)
        return torch.clamp_min(torch.add(skip, other=out), 0)


def resnet(way: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Sequential(Block(way, 4, 4), Block(way, 4, 4)),
        nn.Sequential(Block(way, 4, 6, 2), Block(way, 6, 6)),
        nn.Flatten(),
        nn.Linear(96, 3),
    )


def rows(model: nn.Module, x: Tensor, **options: Any) -> pd.DataFrame:
    with sigprop.attach(model, strict=True, **options) as probe:
        out = model(x)
        if out.requires_grad:
            out.square().sum().backward()
    return probe.records.signals


def images() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("way", ["operator", "swapped", "inplace", "method", "torch.add"])
def test_a_resnet_gives_the_same_rows_however_its_addition_is_written(way: str) -> None:
    """Exactly the same, bit for bit, forward and backward, as with the addition as a module."""
    key = ["name", "port", "direction"]
    ports = "port in ('in', 'skip', 'branch') or (port == 'out' and not name.str.contains('relu'))"
    module, written = (
        rows(resnet(w), images()).query(ports).query("not name.str.contains('clamp')")
        for w in ("module", way)
    )
    module, written = (frame.sort_values(key).reset_index(drop=True) for frame in (module, written))
    assert len(module) == 4 * 4 * 2
    compared = [*key, "block", "call", "channel_dim", "skip_branch_correlation", *NUMBERS]
    pd.testing.assert_frame_equal(module[compared], written[compared], check_exact=True)
    dead = "port == 'out' and direction == 'forward'"
    assert (
        written.query(dead)["dead_fraction"].tolist()
        == module.query(dead)["dead_fraction"].tolist()
    )


def test_the_operands_of_an_in_place_addition_equal_the_oracle() -> None:
    """Read before the addition overwrites one of them; the oracle runs in float64, out of place."""
    model, x = resnet("inplace"), images()
    signals = rows(model, x)
    twin: Any = resnet("inplace").double()
    h = twin[0](x.double())
    for stage in (1, 2):
        for index, block in enumerate(twin[stage]):
            skip = block.shortcut(h).detach()
            branch = block.bn2(block.conv2(block.bn1(block.conv1(h)).relu())).detach()
            h = (skip + branch).relu()
            at = signals[
                (signals["name"] == f"{stage}.{index}") & (signals["direction"] == "forward")
            ]
            at = at.set_index("port")
            for port, truth in (("skip", skip), ("branch", branch), ("out", h)):
                assert at.loc[port, "second_moment"] == pytest.approx(
                    oracles.second_moment(truth), rel=1e-4
                )
                assert at.loc[port, "channel_variance"] == pytest.approx(
                    oracles.channel_variance(truth, 1), rel=1e-4
                )
            assert at.loc["branch", "skip_branch_correlation"] == pytest.approx(
                oracles.correlation(skip, branch), rel=1e-3, abs=1e-5
            )
            assert at.loc["out", "dead_fraction"] == oracles.dead_fraction([h], 1)


class Wrapped(nn.Module):
    """One block around a function of the block's input and a branch of two weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.p = nn.Linear(4, 4)
        self.gamma = nn.Parameter(torch.full((4,), 0.1))
        self.function = function

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return self.function(self, x)


SKIPS = {
    "scaled skip": (lambda m, x: 0.5 * x + m.f(x), lambda m, x: (0.5 * x, m.f(x))),
    "scaled branch": (lambda m, x: x + m.gamma * m.f(x), lambda m, x: (x, m.gamma * m.f(x))),
    "projected": (lambda m, x: m.f(x) + m.p(x), lambda m, x: (m.p(x), m.f(x))),
    "alpha": (lambda m, x: torch.add(x, m.f(x), alpha=0.3), lambda m, x: (x, 0.3 * m.f(x))),
    "dropped": (
        lambda m, x: x + F.dropout(m.f(x), 0.0),
        lambda m, x: (x, m.f(x)),
    ),
    "pre-norm": (
        lambda m, x: x + m.f(F.layer_norm(x, (4,))),
        lambda m, x: (x, m.f(F.layer_norm(x, (4,)))),
    ),
    "post-norm": (
        lambda m, x: F.layer_norm(x + m.f(x), (4,)),
        lambda m, x: (x, m.f(x)),
    ),
    "reshaped": (
        lambda m, x: (x.reshape(-1, 4) + m.f(x).reshape(-1, 4)).view_as(x),
        lambda m, x: (x, m.f(x)),
    ),
    "pooled": (
        lambda m, x: F.avg_pool1d(x, 1) + m.f(x),
        lambda m, x: (x, m.f(x)),
    ),
}


@pytest.mark.parametrize(("written", "truth"), SKIPS.values(), ids=SKIPS)
def test_skip_and_branch_are_told_apart(
    written: Callable[..., Tensor], truth: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    torch.manual_seed(0)
    model, x = Wrapped(written), torch.randn(6, 3, 4)
    at = rows(model, x, blocks="(model)").query("direction == 'forward'").set_index("port")
    for port, tensor in zip(("skip", "branch"), truth(model.double(), x.double()), strict=True):
        assert at.loc[port, "second_moment"] == pytest.approx(
            oracles.second_moment(tensor.detach()), rel=1e-4
        )


NO_SKIPS = {
    "two weights side by side": lambda m, x: m.p(x) + m.f[0](x),
    "a bias": lambda m, x: m.f(x) + m.gamma,
    "a constant": lambda m, x: m.f(x) + 1,
    "noise": lambda m, x: m.f(x) + torch.zeros_like(m.f(x).detach()).fill_(0.1),
    "rotation": lambda m, x: x * 0.6 + torch.cat([-x[..., 2:], x[..., :2]], -1) * 0.8,
    "another shape": lambda m, x: m.f(x) + x[:, :1],
}


@pytest.mark.parametrize("written", NO_SKIPS.values(), ids=NO_SKIPS)
def test_other_additions_are_no_residuals(written: Callable[..., Tensor]) -> None:
    signals = rows(Wrapped(written), torch.randn(6, 3, 4), blocks="(model)")
    assert set(signals["port"]) == {"in", "out"}


def test_a_second_input_is_not_the_skip() -> None:
    """A mask or another sequence comes from outside; the block's input is its first tensor."""

    class Masked(Wrapped):
        def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
            return self.f(x) + other

    model = Masked(torch.add)
    x = torch.randn(6, 3, 4)
    with sigprop.attach(model, blocks="(model)", strict=True) as probe:
        model(x, x.clone())
    assert set(probe.records.signals["port"]) == {"in", "out"}


def test_a_block_with_two_additions_numbers_them() -> None:
    class PreLN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.a(F.layer_norm(x, (4,)))
            return x + self.b(F.layer_norm(x, (4,)))

    signals = rows(nn.Sequential(PreLN(), PreLN()), torch.randn(3, 5, 4))
    named = signals.query("direction == 'forward' and port == 'branch'")["name"]
    assert named.tolist() == ["0", "0#1", "1", "1#1"]


def test_a_skip_over_distance_belongs_to_the_module_that_adds() -> None:
    """A U-Net adds in its own forward, outside of every block."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(x))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(Stage() for _ in range(2))
            self.up = nn.ModuleList(Stage() for _ in range(2))
            self.stem = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            a = self.down[0](x)
            b = self.down[1](F.max_pool2d(a, 2))
            y = F.interpolate(self.up[0](b), scale_factor=2) + a
            return self.up[1](y) + x

    signals = rows(UNet(), torch.randn(2, 2, 8, 8)).query("direction == 'forward'")
    assert signals.query("port == 'out' and not name.str.contains('act')")["name"].tolist() == [
        "down.0",
        "down.1",
        "up.0",
        "up.1",
    ]
    assert signals.query("port == 'skip'")["name"].tolist() == ["(model)"]
    assert signals.query("port == 'branch'")["skip_branch_correlation"].notna().all()


def test_dead_units_at_functional_rectifiers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            x = self.b(x).relu_()
            return F.gelu(x).clamp(min=0.5)  # neither rectifies

    torch.manual_seed(0)
    net, x = Net(), torch.randn(4, 3)
    signals = rows(net, x, blocks="leaves").query("direction == 'forward'")
    counted = signals[signals["dead_fraction"].notna()]
    assert counted["name"].tolist() == ["(model):relu", "(model):relu#1"]
    first = net.a(x).relu()
    second = net.b(first).relu()
    assert counted["dead_fraction"].tolist() == [
        oracles.dead_fraction([t.detach()], 1) for t in (first, second)
    ]
    assert counted["zero_fraction"].tolist() == [
        oracles.zero_fraction(t.detach()) for t in (first, second)
    ]


def test_attention_is_a_leaf() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return F.scaled_dot_product_attention(q, k, v)

    model, x = Attention(), torch.randn(2, 5, 4)
    assert "(model):sdpa" in set(rows(model, x, blocks="leaves")["name"])
    assert "(model):sdpa" not in set(rows(model, x, blocks="(model)")["name"])


def active_modes() -> int:
    return torch._C._len_torch_function_stack()


def test_the_mode_is_active_only_inside_recorded_forwards() -> None:
    seen: list[int] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(active_modes())
            return x

    model = nn.Sequential(nn.Linear(2, 2), Spy())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, every=2):
        for _ in range(4):
            model(torch.randn(3, 2)).sum().backward()
            assert active_modes() == 0
            optimizer.step()
    model(torch.randn(3, 2))
    assert seen == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_mode_never_leaks(error: type[BaseException]) -> None:
    """PyTorch calls no hook after a KeyboardInterrupt; leaving the probe must do."""

    class Fragile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    model = nn.Sequential(nn.Linear(2, 2), Fragile())
    with pytest.raises(error), sigprop.attach(model):
        model(torch.randn(3, 2))
    assert active_modes() == 0


def test_an_interrupted_forward_does_not_disturb_the_next() -> None:
    class Fragile(nn.Module):
        fail = True

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise KeyboardInterrupt
            return x

    fragile = Fragile()
    model = nn.Sequential(nn.Linear(2, 2), fragile)
    with sigprop.attach(model, strict=True) as probe:
        with pytest.raises(KeyboardInterrupt):
            model(torch.randn(3, 2))
        fragile.fail = False
        model(torch.randn(3, 2)).sum().backward()
        assert active_modes() == 0
    assert probe.records.signals.query("port == 'out' and name == '1'")["call"].tolist() == [0, 0]


def test_other_modes_keep_their_place() -> None:
    """A user's own mode, entered inside the forward and still open when it ends."""

    class Counting(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Counting.count += 1
            return func(*args, **(kwargs or {}))

    mine = Counting()

    class Opens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mine.__enter__()
            return x * 2

    model = nn.Sequential(nn.Linear(2, 2), Opens())
    with sigprop.attach(model, strict=True):
        model(torch.randn(3, 2))
        assert active_modes() == 1
        mine.__exit__(None, None, None)
    assert Counting.count >= 1
    assert active_modes() == 0
