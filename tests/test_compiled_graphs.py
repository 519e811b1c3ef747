"""Attaching makes the probed model's graphs anew, and no other's."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

import sigprop
from sigprop.capture.hooks.compiled_graphs import concerns
from sigprop.capture.hooks.trial import can_trace
from sigprop.capture.torch_internals import TRACEABLE, compiled_graphs
from sigprop.errors import BadInput

pytestmark = pytest.mark.skipif(not TRACEABLE, reason="hooks are not traced in this torch")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    can_trace()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """Two layers, one in a container."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.rest = nn.Sequential(nn.Linear(4, 4), act or nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


class Counting:
    """A backend that counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        self.graphs += 1
        return graph.forward


def made(model: Callable[..., Any]) -> tuple[Any, Counting]:
    """Return a model compiled and run once, and what counts its graphs."""
    backend = Counting()
    call = torch.compile(model, backend=backend)
    call(batch())
    assert backend.graphs == 1
    return call, backend


def batch() -> Tensor:
    return torch.ones(3, 4)


UNRELATED = {
    "another class": lambda: nn.Sequential(nn.Linear(4, 2), nn.Tanh()),
    "its class with another part": lambda: Net(nn.Tanh()),
    "a container of its class's parts": lambda: nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.ReLU()
    ),
}


@pytest.mark.parametrize("kind", UNRELATED)
@pytest.mark.parametrize("root", [Net, lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU())])
def test_graphs_of_other_models_stay(kind: str, root: Callable[[], nn.Module]) -> None:
    other, backend = made(UNRELATED[kind]())
    model, mine = made(root())
    for _ in range(2):
        with sigprop.attach(model, blocks="leaves", strict=True) as probe:
            model(batch()).sum().backward()
            other(batch())
        assert not probe.records.signals.empty
        other(batch())
    assert backend.graphs == 1
    assert mine.graphs > 1


def test_a_function_that_is_compiled_stays() -> None:
    function, backend = made(lambda x: x.sin() + 1)
    with sigprop.attach(Net(), strict=True):
        function(batch())
    assert backend.graphs == 1


FORMS: dict[str, Callable[[nn.Module], Callable[..., Tensor]]] = {
    "wrapped": lambda model: model,
    "within another model": lambda model: nn.Sequential(nn.Identity(), model, nn.Tanh()),
    "in a function": lambda model: lambda x: model(x) * 2,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_graph_that_holds_the_model_is_made_anew(form: str) -> None:
    model = Net()
    call, _ = made(FORMS[form](model))
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        call(batch()).sum().backward()
    assert set(probe.records.signals["name"]) == {"first", "rest.0", "rest.1"}


# PyTorch's own, where it hands a tensor to a graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
# And where it tries to compile what hooks do (2.5).
@pytest.mark.filterwarnings("ignore:Graph break due to unsupported builtin:UserWarning")
@pytest.mark.parametrize("kind", ["own code", "container"])
def test_a_part_that_is_compiled_alone_is_made_anew(kind: str) -> None:
    """Of a container alone PyTorch makes no graph, but then graphs of its modules' hooks."""
    part = Net() if kind == "own code" else nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(4, 4), part)
    part.compile(backend="eager")
    model(batch())
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        model(batch()).sum().backward()
    rows = probe.records.signals.query("port == 'out' and kind == 'leaf'")
    leaves = {name for name, leaf in model.named_modules() if not list(leaf.children())}
    for direction in ("forward", "backward"):
        counts = rows[rows["direction"] == direction].set_index("name")["count"]
        assert counts.to_dict() == dict.fromkeys(leaves, 12)


class Loops(nn.Module):
    """What the compiler leaves to Python as a whole: its modules are called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            torch._dynamo.graph_break()
        return x


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:Graph break due to unsupported builtin:UserWarning")
def test_a_graph_of_a_hook_alone_serves_no_other_hook() -> None:
    model = Loops()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        torch.compile(model, backend="eager")(batch()).sum().backward()
    rows = probe.records.signals.query("port == 'out' and direction == 'forward'")
    assert rows.set_index("name")["count"].to_dict() == {f"layers.{k}": 12 for k in range(3)}


def test_a_second_probe_forgets_the_graphs_of_its_model_too() -> None:
    """The first has set the guards; the second model's graph is older than that."""
    second = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    call, _ = made(second)
    with sigprop.attach(Net(), strict=True), sigprop.attach(second, blocks="leaves") as probe:
        call(batch()).sum().backward()
    assert set(probe.records.signals["name"]) == {"0", "1"}


def test_attaching_often_does_not_reach_the_limit_of_recompilations() -> None:
    model, backend = made(Net())
    for number in range(12):
        with sigprop.attach(model, blocks="leaves", strict=True) as probe:
            model(batch()).sum().backward()
        assert not probe.records.signals.empty, number
    assert backend.graphs <= 1 + 12


def test_what_a_graph_depends_on_is_decoded_on_this_torch() -> None:
    made(Net())
    (graph,) = [graph for graph in compiled_graphs() if "Net.forward" in graph.code.co_qualname]
    assert concerns(graph.guards, Net())
    assert concerns(graph.guards, nn.Sequential(Net()))
    assert not concerns(graph.guards, Net(nn.Tanh()))
    assert concerns(graph.guards, nn.Sequential(nn.Linear(4, 4), nn.ReLU()))  # may be its part
    assert not concerns(graph.guards, nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    assert not concerns(graph.guards, nn.Tanh())


def skipped() -> bool:
    return torch._dynamo.config.skip_nnmodule_hook_guards


def test_the_guards_are_set_while_any_probe_is_attached() -> None:
    assert skipped()
    first, second = sigprop.attach(Net()), sigprop.attach(Net())
    first.detach()
    assert not skipped()
    second.detach()
    assert skipped()


def test_the_guards_go_with_the_last_model() -> None:
    model = Net()
    sigprop.attach(model)
    assert not skipped()
    del model
    gc.collect()
    assert skipped()


def test_what_the_user_had_set_comes_back() -> None:
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        sigprop.attach(Net()).detach()
        assert not skipped()


@pytest.mark.parametrize("blocks", ["no such module", []])
def test_a_failed_attach_changes_no_flag_and_no_graph(blocks: object) -> None:
    model, backend = made(Net())
    with pytest.raises((BadInput, LookupError)):
        sigprop.attach(model, blocks=blocks)  # type: ignore[arg-type]
    assert skipped()
    model(batch())
    assert backend.graphs == 1


def test_an_attach_that_fails_late_changes_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("late")

    monkeypatch.setattr("sigprop.probing.probe.Installation.install", fail)
    with pytest.raises(RuntimeError, match="late"):
        sigprop.attach(Net())
    assert skipped()
