"""What a recorded step costs in Python: calls and tracked objects per row, counted, not timed."""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sigprop
from sigprop.signals import native

DEPTH = 20

#: Calls of Python functions per row of `signals`, at most.
CALLS = 20

Step = Callable[[], object]

pytestmark = pytest.mark.skipif(native.LIBRARY is None, reason="plain torch takes more calls")


class Written(nn.Module):
    """A residual block that is written out, its rectifier a function."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nn.functional.relu(self.first(x)))


class Normalized(nn.Module):
    """The same of modules, after layer normalization, and with a rectifier after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.first, self.act = nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU()
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.second(self.act(self.first(self.norm(x)))))


class Stack(nn.Module):
    """Blocks between two matrices."""

    def __init__(self, block: Callable[[int], nn.Module], depth: int, width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(width, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList([block(width) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def zoo(depth: int, width: int) -> nn.Module:
    return sigprop.networks.build("batchnorm", depth=depth, width=width, inputs=width)


def written(depth: int, width: int) -> nn.Module:
    return Stack(Written, depth, width)


def normalized(depth: int, width: int) -> nn.Module:
    return Stack(Normalized, depth, width)


Build = Callable[[int, int], nn.Module]


def training(build: Build, depth: int, width: int = 16) -> tuple[nn.Module, Any, Step]:
    """Return a network, its optimizer, and a step of its training."""
    torch.manual_seed(0)
    model, x = build(depth, width), torch.randn(32, width)
    labels = torch.randint(0, 10, (32,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return model, optimizer, step


def calls_of(step: Step) -> Counter[CodeType]:
    """Return how often each Python function was called in a step, in any thread."""
    calls: Counter[CodeType] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls[frame.f_code] += 1

    collecting = gc.isenabled()
    gc.disable()  # finalizers of others' garbage are no part of the step
    threading.setprofile(note)  # threads that begin now
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        if collecting:
            gc.enable()
    return calls


def rows_of(probe: sigprop.Probe) -> int:
    signals = probe.records.signals
    return len(signals[signals["step"] == signals["step"].max()])


def calls_per_row(build: Build, blocks: str = "auto") -> float:
    """Return the calls that a probe adds to a step, over the rows that it yields."""
    model, optimizer, step = training(build, DEPTH)
    for _ in range(2):
        step()
    bare = calls_of(step)
    with sigprop.attach(model, optimizer, blocks=blocks, strict=True) as probe:
        for _ in range(3):
            step()
        probed = calls_of(step)
        return (probed.total() - bare.total()) / rows_of(probe)


@pytest.mark.parametrize("build", [zoo, written, normalized])
def test_a_row_costs_few_calls(build: Build) -> None:
    assert 1 < calls_per_row(build) <= CALLS


@pytest.mark.parametrize("build", [zoo, written, normalized])
def test_a_row_of_a_leaf_costs_few_calls(build: Build) -> None:
    assert 1 < calls_per_row(build, "leaves") <= CALLS


def test_calls_are_the_same_in_every_step() -> None:
    """So the count cannot flake: nothing depends on time, addresses or the collector."""
    model, optimizer, step = training(zoo, 3)
    with sigprop.attach(model, optimizer, strict=True):
        for _ in range(3):
            step()
        assert calls_of(step) == calls_of(step)


def test_planning_anew_at_every_tap_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The saboteur: nothing that was decided at the first recorded step is used again."""
    from sigprop.capture.recording.reader import TensorReader

    read = TensorReader.read

    def forgetful(reader: TensorReader, x: Tensor) -> object:
        reader._form = None
        return read(reader, x)

    monkeypatch.setattr(TensorReader, "read", forgetful)
    assert calls_per_row(written) > CALLS


def test_what_was_decided_is_decided_anew_for_another_shape_type_or_layout() -> None:
    """Every batch is another: each number equals that of a probe that sees it first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    images = torch.randn(6, 3, 8, 8)
    batches = [
        images,
        images.to(memory_format=torch.channels_last),
        images[:2],
        images[:, :, 1:],
        images[..., :6],
        images.double(),
        images,
    ]

    def recorded(probe: sigprop.Probe, x: Tensor) -> Any:
        model.to(x.dtype)
        model(x).square().sum().backward()
        probe.step()
        signals = probe.records.signals
        last = signals[signals["step"] == signals["step"].max()]
        return last.drop(columns=["step", "dead_fraction"]).reset_index(drop=True)

    import pandas as pd

    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        seen = [recorded(probe, x) for x in batches]
    for x, frame in zip(batches, seen, strict=True):
        with sigprop.attach(model, blocks="leaves", strict=True) as fresh:
            pd.testing.assert_frame_equal(frame, recorded(fresh, x))


# --- the garbage collector ------------------------------------------------------------------------

#: Objects that the collector tracks and that live until the step's end, per row, at most. Three of
#: a gradient's are PyTorch's own: a dictionary of hooks, the handle, and its reference to it.
OBJECTS = 1.5


def tracked_per_row(build: Build) -> float:
    """Return the most tracked objects that a recorded step has more than a bare one, per row."""

    depth = 200
    model, optimizer, step = training(build, depth, width=4)
    rows: list[int] = []

    def backward_done(*_: object) -> None:
        rows.append(gc.get_count()[0])

    def peak(step: Step) -> int:
        rows.clear()
        gc.collect()
        gc.disable()
        try:
            start = gc.get_count()[0]
            step()
            return rows[-1] - start
        finally:
            gc.enable()

    handle = optimizer.register_step_pre_hook(backward_done)
    step()
    bare = peak(step)
    with sigprop.attach(model, optimizer, strict=True) as probe:
        for _ in range(3):
            step()
        probed = peak(step)
        count = rows_of(probe)
    handle.remove()
    return (probed - bare) / count


@pytest.mark.parametrize("build", [written, normalized])
def test_a_row_leaves_little_to_the_collector(build: Build) -> None:
    assert tracked_per_row(build) <= OBJECTS
