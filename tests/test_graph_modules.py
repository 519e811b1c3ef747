"""Models that are graphs, and scripted parts: read where hooks can be, named elsewhere."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.fx
from torch import Tensor, nn

import sigprop
from sigprop.capture.model.blocks import EXPORTED, SCRIPTED
from sigprop.errors import ProbeWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


class Block(nn.Module):
    """x + relu(linear(norm(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.fc(self.norm(x)))


class Net(nn.Module):
    """A stem, two blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 4)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def batch() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


LEAVES = {"stem", "blocks.0.norm", "blocks.0.fc", "blocks.1.norm", "blocks.1.fc", "head"}


def scripted() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), torch.jit.script(Net()), nn.Linear(4, 2))


def traced() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), torch.jit.trace(Net(), batch()), nn.Linear(4, 2))


def exported() -> nn.Module:
    return torch.export.export(Net(), (batch(),)).module()


def test_a_traced_graph_is_read_at_its_leaves_as_the_model_is() -> None:
    def rows(model: nn.Module) -> dict[tuple[str, str], float]:
        with sigprop.attach(model, blocks="leaves", strict=True) as probe:
            model(batch()).sum().backward()
        found = probe.records.signals.query("kind == 'leaf' and port == 'out'")
        return {(r["name"], r["direction"]): r["second_moment"] for _, r in found.iterrows()}

    graph = torch.fx.symbolic_trace(Net())
    assert rows(graph) == rows(Net())
    assert {name for name, _ in rows(graph)} == LEAVES


@pytest.mark.parametrize("train", [True, False])
def test_blocks_of_a_traced_graph_are_its_leaves(train: bool) -> None:
    """Its blocks are gone: their modules are there, as containers that are never called."""
    graph = torch.fx.symbolic_trace(Net()).train(train)
    with sigprop.attach(graph, strict=True) as probe:
        graph(batch()).sum().backward()
    rows = probe.records.signals
    assert set(rows.query("kind == 'block'")["name"]) == LEAVES
    assert set(rows.query("kind == 'addition'")["port"]) == {"skip", "branch"}
    assert sigprop.check(torch.fx.symbolic_trace(Net()), batch()).blind.empty


def test_of_an_exported_model_the_whole_is_read_and_the_rest_is_named() -> None:
    model = exported()
    with pytest.warns(ProbeWarning) as caught:
        probe = sigprop.attach(model, strict=True)
    with probe:
        model(batch()).sum().backward()
    assert [str(w.message) for w in caught if w.category is ProbeWarning] == [
        f"6 of {len(probe.records.coverage)} modules of this model cannot be read, 'stem' first: "
        f"{EXPORTED}"
    ]
    assert set(probe.records.signals["name"]) == {"(model)"}
    assert len(probe.records.parameters) == 12
    coverage = probe.records.coverage.set_index("name")
    assert set(coverage.index[coverage["status"] == "unsupported"]) == LEAVES
    seen = sigprop.check(exported(), batch())
    assert set(seen.blind["name"]) == LEAVES
    assert any("modules of this model cannot be read" in note for note in seen.notes)


@pytest.mark.parametrize("make", [scripted, traced])
def test_a_scripted_part_is_passed_over_with_one_warning(make: object) -> None:
    assert callable(make)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ProbeWarning)
        model = make()
        with sigprop.attach(model, strict=True) as probe:
            for _ in range(2):
                model(batch()).sum().backward()
        records = sigprop.measure(make(), batch())
    assert set(probe.records.signals["name"]) == {"0", "2"}
    assert set(records.signals["name"]) == {"0", "2"}
    said = [str(w.message) for w in caught if issubclass(w.category, ProbeWarning)]
    assert len(said) == 2  # of attach, and of measure
    assert all(message.endswith(SCRIPTED) for message in said)


@pytest.mark.parametrize("make", [scripted, traced])
def test_check_names_what_a_scripted_part_hides(make: object) -> None:
    assert callable(make)
    seen = sigprop.check(make(), batch())
    assert {"1.stem", "1.head"} <= set(seen.blind["name"])
    assert "0" not in set(seen.blind["name"])
    assert set(seen.blind["reason"]) == {SCRIPTED}
