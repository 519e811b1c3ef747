"""A compiled model is recorded inside its graphs: as in eager, in two graphs, without a break."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import packages
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import sigprop
from sigprop.capture import internals
from sigprop.capture.hooks import trial
from sigprop.capture.hooks.graph_buffers import BUFFERS
from sigprop.capture.hooks.trial import can_trace
from sigprop.capture.torch_internals import TRACEABLE
from sigprop.errors import ProbeWarning
from sigprop.signals import native
from sigprop.signals.channel_statistics import compute
from sigprop.signals.pooled import QUANTITIES
from sigprop.signals.signal import alive, interpret
from sigprop.signals.traced import add_sums, compute_traced
from sigprop.torch_version import RUN_EAGERLY, VERSION

pytestmark = [
    pytest.mark.skipif(not TRACEABLE, reason="this torch cannot trace hooks on gradients"),
    # Inductor's own: the deprecated scripting functions that its modules are decorated with.
    pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning"),
]

KEYS = [
    "step",
    "mode",
    "block",
    "name",
    "call",
    "port",
    "direction",
    "channel_dim",
    "channels",
    "count",
    "nonfinite",
]
NUMBERS = [
    "second_moment",
    "channel_variance",
    "mean_shift",
    "kurtosis",
    "zero_fraction",
    "dead_fraction",
    "max_abs",
    "skip_branch_correlation",
]
ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("batchnorm", {"depth": 2, "width": 8, "architecture": "mlp"}),
    "resnet": ("batchnorm", {"depth": 2, "width": 4, "architecture": "resnet"}),
    "transformer": ("transformer", {"depth": 2, "width": 8, "architecture": "transformer"}),
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    can_trace()  # once, so that its graph is not among those that are counted
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """Plain layers, an in-place rectifier, and one module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(6, 8), nn.Linear(8, 8)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        return self.head(self.again(self.again(x)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def zoo(kind: str) -> nn.Module:
    torch.manual_seed(0)
    name, options = ZOO[kind]
    return sigprop.networks.build(name, **options)


def batch(*shape: int) -> Tensor:
    return torch.randn(*(shape or (10, 6)), generator=torch.Generator().manual_seed(1))


def train(
    model: nn.Module,
    x: Tensor,
    backend: str,
    when: str = "before",
    steps: int = 2,
    every: int = 1,
    blocks: str | list[str] = "leaves",
) -> sigprop.Probe:
    """Return the probe of a short training; ``backend`` "" is the plain model."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled: Any = model
    if backend and when == "after":
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        with torch.no_grad():
            compiled(x)
    probe = sigprop.attach(model, optimizer, blocks=blocks, every=every, strict=True)
    if backend and when == "before":
        compiled = torch.compile(model, backend=backend, fullgraph=True)
    for _ in range(steps):
        optimizer.zero_grad()
        compiled(x).square().mean().backward()
        optimizer.step()
    probe.detach()
    return probe


def assert_same(mine: pd.DataFrame, theirs: pd.DataFrame) -> None:
    order = ["step", "mode", "direction", "name", "port"]
    mine, theirs = (f.sort_values(order).reset_index(drop=True) for f in (mine, theirs))
    pd.testing.assert_frame_equal(mine[KEYS], theirs[KEYS])
    for number in NUMBERS:
        a, b = mine[number].to_numpy(float), theirs[number].to_numpy(float)
        # A compiler's own kernels round otherwise: values differ by 1e-6 of their root mean square.
        # That shows where values cancel: in correlations of what hardly correlates, and in means,
        # the more so where the mean of a gradient is 0 but for rounding, behind a normalized layer.
        whole = theirs["second_moment"].to_numpy()
        of_mean = 1e-6 * np.sqrt(np.abs(b) * whole) + 1e-9 * whole
        absolute = {"mean_shift": of_mean, "skip_branch_correlation": 1e-6}.get(number, 0.0)
        bound = 1e-4 * np.abs(b) + absolute + 1e-30
        wrong = ~(np.isnan(a) & np.isnan(b)) & ~(np.abs(a - b) <= bound)
        assert not wrong.any(), (number, mine[wrong][KEYS], a[wrong], b[wrong])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_compiled_network_of_the_zoo_has_the_rows_of_an_eager_one(
    backend: str, kind: str, when: str
) -> None:
    # Over four samples BatchNorm's gradient enlarges a compiler's rounding a hundred times.
    x = batch(16 if kind == "mlp" else 4, 1, 8, 8)
    # Leaves of a Transformer count functional attention, which eager alone sees.
    blocks = "auto" if kind == "transformer" else "leaves"
    expected = train(zoo(kind), x, "", blocks=blocks).records
    seen = train(zoo(kind), x, backend, when, blocks=blocks).records
    assert_same(seen.signals, expected.signals)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == (1 if when == "before" else 2)
    pd.testing.assert_series_equal(seen.coverage["recorded"], expected.coverage["recorded"])


@pytest.fixture
def _without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have plain torch read, as on an accelerator: a compiler sees sums, and fuses them."""
    monkeypatch.setattr(native, "LIBRARY", None)
    monkeypatch.setattr(native._Absence, "said", True)


@pytest.mark.usefixtures("_without_library")
@pytest.mark.parametrize(
    ("backend", "kind"), [("aot_eager", "mlp"), ("aot_eager", "resnet"), ("eager", "transformer")]
)
def test_sums_that_the_compiler_sees_give_the_same_rows(backend: str, kind: str) -> None:
    x = batch(4, 1, 8, 8)
    expected = train(zoo(kind), x, "", blocks="auto").records
    seen = train(zoo(kind), x, backend, blocks="auto").records
    assert_same(seen.signals, expected.signals)
    assert not counters["graph_break"]


@pytest.mark.usefixtures("_without_library")
def test_inductor_fuses_the_sums_of_a_tap() -> None:
    expected = train(net(), batch(), "", blocks=["act"]).records
    seen = train(net(), batch(), "inductor", blocks=["act"]).records
    assert_same(seen.signals, expected.signals)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_two_graphs_over_fifty_steps_with_a_cadence(backend: str, when: str) -> None:
    blocks = "leaves"
    expected = train(net(), batch(), "", steps=50, every=10, blocks=blocks)
    assert expected.records.signals["step"].nunique() == 5
    seen = train(net(), batch(), backend, when, steps=50, every=10, blocks=blocks)
    assert_same(seen.records.signals, expected.records.signals)
    assert not counters["graph_break"]
    # Run before it was probed, it had a graph (without gradients) already.
    assert counters["stats"]["unique_graphs"] == (2 if when == "before" else 3)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_model_computes_what_it_did(backend: str) -> None:
    bare, probed = net(), net()
    before = torch.get_rng_state()
    with sigprop.attach(probed, blocks="leaves", strict=True):
        compiled = torch.compile(probed, backend=backend, fullgraph=True)
        out = compiled(batch())
        out.square().mean().backward()
    expected = torch.compile(bare, backend=backend, fullgraph=True)(batch())
    expected.square().mean().backward()
    assert torch.equal(out, expected)
    for mine, theirs in zip(probed.parameters(), bare.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)
    assert probed.state_dict().keys() == bare.state_dict().keys()
    assert torch.equal(torch.get_rng_state(), before)


class Shares(nn.Module):
    """Hands one tensor on, writes to it, hands it on; at other times hands on another."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.a, self.b, self.c = nn.Linear(6, 8), nn.Identity(), nn.Identity(), nn.SiLU()

    def forward(self, x: Tensor, apart: bool) -> Tensor:
        x = self.a(self.fc(x))
        if apart:
            x = x * 2
        x = self.b(x) * 1.0
        x = self.c(x)
        x.view(-1).mul_(2)
        return self.b(x) * 3


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_tensor_that_several_modules_hold_is_read_once_unless_written_to(backend: str) -> None:
    def run(compiling: bool) -> sigprop.Probe:
        torch.manual_seed(0)
        model = Shares()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = sigprop.attach(model, optimizer, blocks="leaves", strict=True)
        call = torch.compile(model, backend=backend, fullgraph=True) if compiling else model
        for apart in (False, True, False):
            call(batch(), apart).square().sum().backward()
            call(batch() * 2, not apart).square().sum().backward()  # both graphs in one step
            optimizer.step()
        probe.detach()
        return probe

    reads = 0

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        nonlocal reads
        reads += sum("add_statistics" in str(node.target) for node in graph.graph.nodes)
        return graph.forward

    assert_same(run(True).records.signals, run(False).records.signals)
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Shares()
    with sigprop.attach(model, blocks="leaves", strict=True):
        torch.compile(model, backend=count, fullgraph=True)(batch(), False)
    # x, what fc makes (read as its output, and into and out of a and b), what goes into c, what
    # comes out of it, and that again when it was written to.
    assert reads == 5


def test_the_graph_of_other_steps_has_no_tap() -> None:
    graphs: list[list[object]] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append([node.target for node in graph.graph.nodes])
        return graph.forward

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves", every=2, strict=True):
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        for _ in range(4):
            compiled(batch()).sum().backward()
            optimizer.step()
    recorded, other = (sum("add_statistics" in str(t) for t in targets) for targets in graphs)
    assert recorded
    assert not other
    assert not any("watch" in str(t) for t in graphs[1])


@pytest.mark.parametrize("form", ["wrapper", "in place"])
def test_without_an_optimizer_a_step_ends_with_its_backward_pass(form: str) -> None:
    model = net()
    probe = sigprop.attach(model, blocks="leaves", every=2, strict=True)
    compiled = torch.compile(model, backend="eager") if form == "wrapper" else model
    if form == "in place":
        model.compile(backend="eager")
    for _ in range(5):
        compiled(batch()).sum().backward()
    signals = probe.records.signals
    probe.detach()
    assert sorted(signals["step"].unique()) == [0, 2, 4]
    first = signals.query("name == 'first' and port == 'out'")
    assert (first["count"] == 10 * 8).all()
    assert len(first) == 6
    assert not probe.records.parameters.empty


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_micro_batches_of_a_step_are_merged(backend: str) -> None:
    def parts(compiling: bool) -> pd.DataFrame:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
            call = torch.compile(model, backend=backend) if compiling else model
            for factor in (1.0, 100.0, 0.01):
                call(batch() * factor + factor).square().sum().backward()
                _ = probe.records  # a look in the middle loses nothing
            optimizer.step()
        return probe.records.signals

    assert_same(parts(True), parts(False))


# Not aot_eager, a backend for debugging: it counts the versions of what a backward writes to.
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_forwards_that_overlap_their_backwards_go_on_undisturbed(backend: str) -> None:
    model = net()
    with sigprop.attach(model, torch.optim.SGD(model.parameters()), blocks=["first"]) as probe:
        compiled = torch.compile(model, backend=backend)
        a, b = compiled(batch()), compiled(batch() + 1)
        _ = probe.records
        a.sum().backward()
        b.sum().backward()
        signals = probe.records.signals
    assert (signals.query("name == 'first' and port == 'out'")["count"] == 2 * 10 * 8).all()


def test_evaluation_and_training_have_rows_of_their_own() -> None:
    model = net()
    with sigprop.attach(model, torch.optim.SGD(model.parameters()), blocks=["act"]) as probe:
        compiled = torch.compile(model.eval(), backend="aot_eager")
        with torch.inference_mode():
            compiled(batch())
        model.train()
        compiled(batch()).sum().backward()
    sizes = probe.records.signals.groupby(["mode", "direction"]).size().to_dict()
    assert sizes["eval", "forward"] == sizes["train", "forward"]
    assert ("eval", "backward") not in sizes


def test_graphs_that_are_made_late_have_the_names_and_the_mode_of_the_first() -> None:
    def run(compiling: bool) -> pd.DataFrame:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
            call = torch.compile(model, backend="eager", dynamic=False) if compiling else model
            for size in (8, 8, 5):
                call(batch()[:size]).square().sum().backward()
                optimizer.step()
                with torch.no_grad():
                    model.eval()
                    call(batch())
                model.train()
        return probe.records.signals

    assert_same(run(True), run(False))


class Breaks(nn.Module):
    """Calls one module before and after what no compiler can trace."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x) * 2
        torch._dynamo.graph_break()
        return self.fc(self.fc(x) * 2) * 2


# PyTorch's own, where it hands a tensor over a break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_behind_a_graph_break_calls_go_on_counting_also_when_made_again() -> None:
    def run(compiling: bool) -> pd.DataFrame:
        torch.manual_seed(0)
        model = Breaks()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
            call = torch.compile(model, backend="eager", dynamic=False) if compiling else model
            for size in (8, 5, 8):
                call(batch()[:size]).square().sum().backward()
                optimizer.step()
        return probe.records.signals

    expected = run(False)
    assert set(expected["name"]) == {"fc", "fc#1", "fc#2"}
    assert_same(run(True), expected)


def test_a_dynamic_batch_is_one_graph() -> None:
    model = net()
    with sigprop.attach(model, torch.optim.SGD(model.parameters()), blocks="leaves") as probe:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
        for size in (4, 7, 9):
            compiled(torch.randn(size, 6)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert (probe.records.signals.query("name == 'first' and port == 'out'")["count"] == 160).all()


def test_another_model_of_the_class_does_not_lend_its_graph() -> None:
    probed, other = net(), net()
    optimizer = torch.optim.SGD(probed.parameters(), lr=0.1)
    ours, theirs = (torch.compile(m, backend="eager", fullgraph=True) for m in (probed, other))
    theirs(batch())
    with sigprop.attach(probed, optimizer, blocks="leaves", strict=True) as probe:
        for _ in range(3):
            ours(batch()).sum().backward()
            theirs(batch()).sum().backward()
            optimizer.step()
    assert probe.records.signals["step"].nunique() == 3
    assert (probe.records.signals.query("name == 'first' and port == 'out'")["count"] == 80).all()


def test_nothing_remains_after_detach() -> None:
    guards = torch._dynamo.config.skip_nnmodule_hook_guards
    model = net()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    probe = sigprop.attach(model, blocks="leaves", strict=True)
    compiled(batch()).sum().backward()
    probe.detach()
    rows = len(probe.records.signals)
    compiled(batch()).sum().backward()
    assert len(probe.records.signals) == rows > 0
    assert torch._dynamo.config.skip_nnmodule_hook_guards == guards
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_only_an_eager_step_shows_is_told_once() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.relu(self.fc(x))

    model = nn.Sequential(Adds(), Adds())
    metrics = {"l1": lambda t: t.abs().mean()}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with (
        sigprop.attach(model, metrics=metrics, strict=True) as probe,
        pytest.warns(ProbeWarning) as caught,
    ):
        compiled(batch()).sum().backward()
    messages = [str(w.message) for w in caught]
    assert len(messages) == 2
    assert any("Adds (0) adds in code that is compiled" in m for m in messages)
    assert any("metrics ['l1']" in m for m in messages)
    assert set(probe.records.signals["port"]) == {"in", "out"}


# --- the sums -----------------------------------------------------------------------------------


def compare_with_read(x: Tensor, channel_dim: int, sums: Tensor) -> None:
    mine, truth = interpret(sums.T.numpy()), interpret(compute(x.double(), channel_dim).numpy())
    for name in QUANTITIES:
        expected = pytest.approx(truth.number(name), rel=1e-5, nan_ok=True)
        assert mine.number(name) == expected, name
    assert (mine.activity.count == truth.activity.count).all()
    assert (mine.activity.nonfinite == truth.activity.nonfinite).all()
    assert (alive([mine.table]) == alive([truth.table])).all()


@pytest.mark.parametrize(
    ("scale", "offset"), [(1.0, 0.0), (1.0, 1e4), (1e25, 0.0), (1e-25, 0.0), (1e-3, 10.0)]
)
@pytest.mark.parametrize(("shape", "axis"), [((64, 5), -1), ((8, 5, 6, 6), 1), ((4, 9, 5), -1)])
def test_traced_sums_give_the_numbers_of_a_reading(
    scale: float, offset: float, shape: tuple[int, ...], axis: int
) -> None:
    x = batch(*shape) * scale + scale * offset
    compare_with_read(x, axis, compute_traced(x, axis))
    halves = [torch.zeros(11, 5)]
    for part in x.split(2):
        halves.append(add_sums(halves[-1], compute_traced(part, axis)))
    compare_with_read(x, axis, halves[-1])


def test_non_finite_values_and_dead_channels_are_counted_and_left_out() -> None:
    x = batch(16, 5).relu()
    x[:, 1] = 0
    x[2, 2], x[9, 3], x[:, 4] = torch.nan, -torch.inf, torch.nan
    compare_with_read(x, -1, compute_traced(x, -1))
    zeros_first = torch.cat([torch.zeros(8, 5), batch(8, 5)])
    compare_with_read(zeros_first, -1, compute_traced(zeros_first, -1))


def test_deep_copies_of_a_model_that_was_traced_carry_no_slots() -> None:
    model = net()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        torch.compile(model, backend="eager")(batch()).sum().backward()
        rows = len(probe.records.signals)
        copy.deepcopy(model)(batch()).sum().backward()
        assert len(probe.records.signals) == rows > 0


# --- what the probe must not break --------------------------------------------------------------


class Rectified(nn.Module):
    """A block that ends in a rectifier: a module, a function, or neither."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.fc, self.act, self.how = nn.Linear(6, 6), nn.ReLU(), how

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if self.how == "module":
            return self.act(x)
        return torch.relu(x) if self.how == "function" else x


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", ["module", "function", "neither"])
def test_a_block_that_ends_in_a_rectifier_has_dead_units(how: str, backend: str) -> None:
    def dead(compiling: bool) -> list[float]:
        torch.manual_seed(0)
        blocks = [Rectified(how), Rectified(how)]
        model = nn.Sequential(*blocks)
        with torch.no_grad():
            for block in blocks:
                block.fc.bias[:2] = -100.0
        with sigprop.attach(model, blocks=["0", "1"], strict=True) as probe:
            call = torch.compile(model, backend=backend, fullgraph=True) if compiling else model
            call(batch()).sum().backward()
        rows = probe.records.signals.query("kind == 'block' and port == 'out'")
        return rows.query("direction == 'forward'")["dead_fraction"].tolist()

    eager = dead(False)
    np.testing.assert_array_equal(dead(True), eager)
    assert np.isnan(eager).all() == (how == "neither")
    assert how == "neither" or min(eager) >= 2 / 6


class Cache:
    """Takes its type from the first tensor, as a Transformer's cache of keys and values does."""

    def __init__(self) -> None:
        self.ready = False

    def update(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.dtype, self.kept, self.ready = x.dtype, [], True
        self.kept.append(x)
        return torch.cat(self.kept).to(self.dtype)


def test_an_object_that_is_older_than_a_hook_keeps_its_attributes() -> None:
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Cache]:
            cache = Cache()
            x = cache.update(self.a(x))
            return cache.update(self.b(x)), cache

    model = Caches()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        out, cache = torch.compile(model, backend="eager", fullgraph=True)(batch())
        out.sum().backward()
    assert len(cache.kept) == 2
    assert set(probe.records.signals["name"]) == {"a", "b"}
    assert not counters["graph_break"]


@dataclass
class Pair:
    """An output as a dataclass."""

    first: Tensor
    second: object = 3


class Odd(nn.Module):
    """Takes keywords that are no tensors, returns one of the usual nests."""

    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.fc, self.make = nn.Linear(6, 6), make

    def forward(self, x: Tensor, **_: object) -> object:
        return self.make(self.fc(x))


NESTS: dict[str, Callable[[Tensor], object]] = {
    "tuple": lambda x: (x, None),
    "dict": lambda x: {"first": x, "n": 3},
    "list": lambda x: [x, 2.0, "word"],
    "dataclass": Pair,
    "shape": lambda x: (x, x.shape[0]),
}


@pytest.mark.parametrize("nest", NESTS)
def test_outputs_of_every_form_stay_in_one_graph(nest: str) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.head = Odd(NESTS[nest]), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Any = self.part(x, flag=None, n=3)
            if isinstance(out, dict):
                return self.head(out["first"])
            return self.head(out.first if isinstance(out, Pair) else out[0])

    model = Outer()
    with sigprop.attach(model, blocks=["part", "head"], strict=True) as probe:
        torch.compile(model, backend="eager", fullgraph=True)(batch()).sum().backward()
    assert set(probe.records.signals["module"]) == {"part", "head"}
    assert not counters["graph_break"]


_SIZES = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16}
MODELS = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", {**_SIZES, **_HEADS}),
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_SIZES, **_HEADS, "head_dim": 4}),
    "Mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        {**_SIZES, **_HEADS, "num_local_experts": 2},
    ),
    "T5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": 16,
            "d_model": 8,
            "d_kv": 4,
            "d_ff": 16,
            "num_layers": 2,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
    ),
}


@pytest.mark.skipif(VERSION < (2, 13), reason="older ones do not compile them, probed or not")
@pytest.mark.parametrize("kind", MODELS)
def test_transformers_with_a_cache_stay_whole_graphs(kind: str) -> None:
    transformers = packages.transformers()
    model_class, config_class, options = MODELS[kind]
    words = torch.arange(10).reshape(2, 5)
    inputs = {"input_ids": words, **({"decoder_input_ids": words} if kind == "T5" else {})}

    def run(compiling: bool) -> tuple[Tensor, list[str]]:
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**options))
        with sigprop.attach(model.eval(), strict=True) as probe, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = torch.compile(model, backend="eager", fullgraph=True) if compiling else model
            logits = call(**inputs).logits
            logits.sum().backward()
        blocks = probe.records.signals.query("kind == 'block' and port == 'out'")
        return logits, sorted(blocks["name"] + " " + blocks["direction"])

    logits, rows = run(True)
    expected, theirs = run(False)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)  # rounding of other kernels
    assert rows == theirs
    assert len(rows) >= 4
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("name", ["readable", "made_by", "adds", "HOOK_GUARDS"])
def test_a_failure_at_trace_time_never_reaches_the_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sigprop.capture.hooks.compiled as hooks

    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(hooks, name, None if name == "HOOK_GUARDS" else fail)
    model, bare = (nn.Sequential(Rectified("module"), Rectified("module")) for _ in range(2))
    bare.load_state_dict(model.state_dict())
    expected = torch.compile(bare, backend="eager", fullgraph=True)(batch())
    probe = sigprop.attach(model, blocks=["0", "1"])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.warns(ProbeWarning, match="the probe failed and is now off"):
        out = compiled(batch())
    out.sum().backward()
    assert torch.equal(out, expected)
    monkeypatch.undo()
    probe.detach()


def test_where_nothing_can_be_traced_one_warning_says_how_to_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a compiler that rejects our hooks: the trial fails, and the model goes on."""
    monkeypatch.setattr(trial._Trial, "made", False)
    monkeypatch.setattr(internals._State, "off", {})
    monkeypatch.setattr(internals._State, "warned", set())
    monkeypatch.setattr(trial, "show", lambda x: torch._dynamo.graph_break())
    model = net()
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.warns(ProbeWarning) as caught:
        probe = sigprop.attach(compiled, blocks="leaves")
    messages = [str(w.message) for w in caught]
    assert len(messages) == 2
    assert "compiled code is not recorded" in messages[0]
    assert messages[1].startswith("this model is compiled. ")
    assert RUN_EAGERLY in messages[1]
    compiled(batch()).sum().backward()
    assert probe.records.signals.empty
    probe.detach()


def test_buffers_go_with_the_probe() -> None:
    torch._dynamo.reset()
    gc.collect()  # or graphs of an earlier test lose their buffers in this one
    before = set(vars(BUFFERS))
    model = net()
    probe = sigprop.attach(model, blocks="leaves", strict=True)
    torch.compile(model, backend="eager")(batch()).sum().backward()
    assert set(vars(BUFFERS)) > before
    probe.detach()
    del probe, model
    torch._dynamo.reset()
    gc.collect()
    assert set(vars(BUFFERS)) == before


def test_a_probe_that_is_detached_within_a_backward_pass_ends_no_step() -> None:
    model = net()
    probe = sigprop.attach(model, blocks="leaves", strict=True)
    x = batch().requires_grad_()
    x.register_hook(lambda _: probe.detach())
    out = torch.compile(model, backend="eager")(x)
    out.sum().backward()
    assert probe.step_index == 0
    assert set(probe.records.signals["step"]) == {0}
