"""What the rows say they are: kind and module, shape of parameters, status of modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sigprop
from sigprop.records import Records


class Block(nn.Module):
    """A residual block: a rectifier as a module, one as a function, attention, an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.act(self.linear(x)))
        return x + F.scaled_dot_product_attention(y, y, y)


class Net(nn.Module):
    """Two blocks, the first called twice; before them an addition outside of every block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, 4), nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x + self.stem(x))
        return self.blocks[1](self.blocks[0](self.blocks[0](x)))


def recorded(model: nn.Module, blocks: object, x: Tensor | None = None) -> Records:
    x = torch.randn(2, 3, 4) if x is None else x
    with sigprop.attach(model, blocks=blocks) as probe:  # type: ignore[arg-type]
        model(x).sum().backward()
    return probe.records


def kinds(records: Records) -> set[tuple[str, str, str, str]]:
    rows = records.signals.query("direction == 'forward'")
    return set(zip(rows["kind"], rows["module"], rows["name"], rows["port"], strict=True))


BLOCK_ROWS = {
    ("block", f"blocks.{i}", f"blocks.{i}{call}", port)
    for i, call in ((0, ""), (0, "#1"), (1, ""))
    for port in ("in", "skip", "branch", "out")
}
INNER_ROWS = {
    ("rectifier", module, f"{name}{call}", "out")
    for i, call in ((0, ""), (0, "#1"), (1, ""))
    for module, name in (
        (f"blocks.{i}.act", f"blocks.{i}.act"),
        (f"blocks.{i}", f"blocks.{i}:relu"),
    )
}


def test_rows_of_blocks_chosen_by_themselves() -> None:
    outside = {
        ("addition", "(model)", "(model)", "skip"),
        ("addition", "(model)", "(model)", "branch"),
        ("rectifier", "(model)", "(model):relu", "out"),
    }
    assert kinds(recorded(Net(), "auto")) == BLOCK_ROWS | INNER_ROWS | outside


@pytest.mark.parametrize(
    "blocks", ["blocks.?", lambda name, module: isinstance(module, Block)], ids=["glob", "callable"]
)
def test_what_a_glob_or_a_callable_chose_are_blocks(blocks: object) -> None:
    assert kinds(recorded(Net(), blocks)) == BLOCK_ROWS | INNER_ROWS


def test_what_was_chosen_as_a_leaf_is_a_leaf_also_when_it_rectifies() -> None:
    found = kinds(recorded(Net(), "leaves"))
    leaves = {(name, port) for kind, _, name, port in found if kind == "leaf"}
    names = ["stem"]
    for block, call in (("blocks.0", ""), ("blocks.0", "#1"), ("blocks.1", "")):
        names += [f"{block}.linear{call}", f"{block}.act{call}"]
    assert leaves == {(name, port) for name in names for port in ("in", "out")}
    rest = {row for row in found if row[0] != "leaf"}
    assert ("attention", "blocks.0", "blocks.0:sdpa#1", "out") in rest
    assert ("rectifier", "blocks.1", "blocks.1:relu", "out") in rest
    assert {kind for kind, *_ in rest} == {"attention", "rectifier"}


def test_a_rectifier_that_was_chosen_as_a_block_is_a_block() -> None:
    found = kinds(recorded(Net(), "blocks.1.act"))
    assert found == {("block", "blocks.1.act", "blocks.1.act", port) for port in ("in", "out")}


def test_the_operands_of_an_addition_module_are_the_blocks() -> None:
    model = sigprop.networks.build("rescale", depth=1, width=12)
    found = kinds(recorded(model, "auto", torch.randn(5, 64)))
    own = {(module, port) for kind, module, _, port in found if kind == "block"}
    assert own == {("blocks.0", port) for port in ("in", "skip", "branch", "out")}
    assert {module for kind, module, *_ in found if kind == "rectifier"} == {
        "blocks.0.branch.act1",
        "blocks.0.branch.act2",
    }


def test_a_tensor_in_a_nested_output_keeps_the_name_of_its_module() -> None:
    model = nn.LSTM(4, 4)
    found = recorded_outputs(model)
    assert found == {("leaf", "(model)", f"(model){path}") for path in ("[0]", "[1][0]", "[1][1]")}


def recorded_outputs(model: nn.Module) -> set[tuple[str, str, str]]:
    with sigprop.attach(model, blocks="leaves") as probe:
        model(torch.randn(3, 2, 4))
    rows = probe.records.signals.query("port == 'out'")
    return set(zip(rows["kind"], rows["module"], rows["name"], strict=True))


def test_shapes_of_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, (3, 5)), nn.BatchNorm2d(8))
    model.register_parameter("gain", nn.Parameter(torch.tensor(2.0)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with sigprop.attach(model, optimizer, blocks="0") as probe:
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        optimizer.step()
    rows = probe.records.parameters.set_index("name")
    assert rows["shape"].to_dict() == {
        "gain": "", "0.weight": "8x3x3x5", "0.bias": "8", "1.weight": "8", "1.bias": "8",
    }  # fmt: skip
    assert rows["ndim"].tolist() == [0, 4, 1, 1, 1]


class TestStatus:
    def statuses(
        self, model: nn.Module, blocks: str | list[str] = "leaves", **options: Any
    ) -> dict[Any, Any]:
        with sigprop.attach(model, blocks=blocks, **options) as probe:
            model(torch.randn(2, 3, 4)).sum().backward()
        coverage = probe.records.coverage
        # Of what returns no numbers its input may have been recorded all the same.
        read = coverage["recorded"] & (coverage["status"] != "unsupported")
        assert ((coverage["reason"] == "") == read).all()
        return coverage.set_index("name")["status"].to_dict()

    def test_recorded_not_chosen_and_never_called(self) -> None:
        model = Net()
        model.forgotten = nn.Linear(2, 2)
        assert self.statuses(model, ["blocks.1", "blocks.1.*"]) == {
            "(model)": "not_chosen",
            "stem": "not_chosen",
            "blocks": "not_chosen",
            "blocks.0": "not_chosen",
            "blocks.0.linear": "not_chosen",
            "blocks.0.act": "not_chosen",
            "blocks.1": "recorded",
            "blocks.1:relu": "recorded",
            "blocks.1.linear": "recorded",
            "blocks.1.act": "recorded",
            "forgotten": "never_called",
        }

    def test_a_module_without_gradient(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
        assert self.statuses(model) == {
            "(model)": "not_chosen",
            "0": "no_gradient",
            "1": "recorded",
        }

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit itself
    def test_a_scripted_module(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)))
        with pytest.warns(sigprop.ProbeWarning, match="'1' first: a ScriptModule cannot be hooked"):
            assert self.statuses(model)["1"] == "scripted"

    def test_a_module_without_a_real_output_is_unsupported(
        self,
    ) -> None:
        class Largest(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.argmax(-1)

        model = nn.Sequential(nn.Linear(4, 4), Largest(), Largest(), nn.Embedding(3, 4))
        assert self.statuses(model)["2"] == "unsupported"

    def test_a_chosen_module_without_a_forward_is_a_container(self) -> None:
        assert self.statuses(Net(), ["blocks", "blocks.*"])["blocks"] == "container"

    def test_a_bypassed_module_is_unsupported_and_a_fused_one_fused(self) -> None:
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        model = nn.TransformerEncoder(layer, 2).eval()
        with sigprop.attach(model) as probe, torch.no_grad():
            model(torch.randn(2, 3, 4))
        statuses = probe.records.coverage.set_index("name")["status"]
        assert statuses["layers.0.self_attn.out_proj"] == "unsupported"
        assert statuses["layers.0.linear1"] == "fused"

    def test_a_probe_that_failed(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4))
        with sigprop.attach(model, blocks="leaves") as probe:
            probe._recorder.log.broken = "ValueError: a fault"
            model(torch.randn(2, 4))
        row = probe.records.coverage.set_index("name").loc["0"]
        assert row["status"] == "failed"
        assert row["reason"] == "the probe failed and is off: ValueError: a fault"
