"""Reentrant checkpointing: what it runs without gradients is recorded when it runs it again."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sigprop


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Adds(nn.Module):
    """A block with two residual additions, one of them through a functional rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a(self.norm(x))
        return x + F.relu(self.b(x))


class Checkpointed(nn.Module):
    """Three blocks, called in turn and twice: each under a checkpoint, or all under one, or both.

    Args:
        how: "bare" for no checkpoint, "each", "all", or "nested".
        reentrant: the kind of checkpoint.
    """

    def __init__(self, how: str, reentrant: bool = True) -> None:
        super().__init__()
        self.how, self.reentrant = how, reentrant
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.blocks = nn.ModuleList(Adds() for _ in range(3))

    def run(self, function: Callable[..., Tensor], x: Tensor, *how: str) -> Tensor:
        if self.how in how:
            return checkpoint(function, x, use_reentrant=self.reentrant)
        return function(x)

    def several(self, x: Tensor) -> Tensor:
        for block in (*self.blocks, *self.blocks):
            x = self.run(block, x, "each", "nested")
        return x

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.head(self.run(self.several, self.stem(x), "all", "nested")))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of nested ones
@pytest.mark.parametrize("blocks", ["auto", "leaves", "blocks.*"])
@pytest.mark.parametrize("how", ["each", "all", "nested"])
def test_every_gradient_is_recorded_under_reentrant_checkpoints(how: str, blocks: str) -> None:
    key = ["name", "port", "direction", "call"]

    def recorded(how: str) -> pd.DataFrame:
        torch.manual_seed(0)
        model = Checkpointed(how)
        with sigprop.attach(model, blocks=blocks, strict=True) as probe:
            for x in normal(2, 4, 8):
                model(x).square().sum().backward()
        assert torch._C._len_torch_function_stack() == 0
        gradients = probe.records.coverage.query("gradient.str.contains('checkpointing')")
        assert not len(gradients)
        return probe.records.signals.sort_values(["step", *key]).reset_index(drop=True)

    bare = recorded("bare")
    assert set(bare.query("direction == 'backward'").port) >= {"branch"} or blocks == "leaves"
    pd.testing.assert_frame_equal(recorded(how), bare, check_exact=True)


class AddsOutside(nn.Module):
    """A block whose addition is made again in no call of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(lambda x: x + self.layer(x), x, use_reentrant=True)


def test_gradients_that_a_checkpoint_hides_are_said() -> None:
    model = nn.Sequential(nn.Linear(8, 8), AddsOutside())
    with sigprop.attach(model, blocks=["1"], strict=True) as probe:
        model(normal(4, 8)).sum().backward()
    ports = probe.records.signals.query("direction == 'backward'").port
    assert set(ports) == {"in", "skip", "out"}
    row = probe.records.coverage.set_index("name").loc["1"]
    assert (row.status, row.gradient) == (
        "recorded",
        "recorded in part: reentrant checkpointing runs it again outside of any module that is "
        "watched; with use_reentrant=False it is recorded",
    )


def test_a_recomputation_that_raises_leaves_nothing_active() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.times = nn.Linear(8, 8), 0

        def forward(self, x: Tensor) -> Tensor:
            self.times += 1
            if self.times == 2:
                raise RuntimeError("out of memory")
            return x + self.layer(x)

    model = Checkpointed("each")
    model.blocks[1] = Fails()
    hooks = len(model.blocks[1]._forward_hooks)
    with sigprop.attach(model, blocks="blocks.*", strict=True):
        with pytest.raises(RuntimeError, match="out of memory"):
            model(normal(4, 8)).sum().backward()
        assert torch._C._len_torch_function_stack() == 0
    assert len(model.blocks[1]._forward_hooks) == hooks
