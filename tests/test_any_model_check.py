"""`check`: what a probe will see of a model, before training."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from test_any_model_functional import Block, images, resnet
from torch import Tensor, nn

from sigprop.errors import BadInput, UnknownName
from sigprop.probing.check import check


class Mixed(nn.Module):
    """Everything a check has to tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 2)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
        )
        self.frozen = nn.Linear(4, 8).requires_grad_(False)
        self.forgotten = nn.Linear(3, 3)
        self.again = self.frozen

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def test_every_module_has_its_status_and_its_reason() -> None:
    seen = check(Mixed(), torch.randn(2, 5, 4))
    status = seen.table.set_index("name")["status"]
    assert status["blocks.0"] == status["blocks.1"] == "block"
    assert status["blocks.0.linear1"] == "inside a block"
    assert status["blocks.0.self_attn.out_proj"] == "not callable"
    assert status["blocks.0:relu"] == "function"
    assert status["blocks"] == "container"
    assert status["frozen"] == status["last"] == "outside"
    assert status["forgotten"] == "blind"
    assert status["again"] == "alias"
    assert set(seen.blind["name"]) == {
        "forgotten",
        "blocks.0.self_attn.out_proj",
        "blocks.1.self_attn.out_proj",
    }
    fallback = seen.table.set_index("name")["fallback"]
    assert "read as parameters" in fallback["blocks.0.self_attn.out_proj"]
    assert any("fuse" in note for note in seen.notes)


def test_the_tree_is_in_execution_order_and_marks_the_blocks() -> None:
    text = str(check(Mixed(), torch.randn(2, 5, 4)))
    first = [text.index(name) for name in ("frozen (Linear)", "blocks (ModuleList)", "last (Lin")]
    assert first == sorted(first)
    line = next(line for line in text.splitlines() if "0 (TransformerEncoderLayer)" in line)
    assert line.split("600")[1].strip() == "■ in skip (2x) branch (2x) out"
    assert "blind: forgotten (Linear): never called" in text
    widths = {len(line) for line in text.splitlines() if line.startswith("==")}
    assert len(widths) == 1


def test_what_is_shown_is_what_a_probe_records() -> None:
    seen = check(resnet("inplace"), images())
    assert seen.table.query("block")["name"].tolist() == ["1.0", "1.1", "2.0", "2.1"]
    assert set(seen.table.query("block")["ports"]) == {"in skip branch out"}
    assert set(seen.records.signals["port"]) == {"in", "skip", "branch", "out"}
    assert len(seen.blind) == 0


def test_the_model_is_not_touched() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block("inplace", 3, 3), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check(model, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())
    assert not model[0]._forward_hooks
    assert not nn.modules.module._global_forward_hooks
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_compiled_model_and_one_without_gradients_are_told() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    notes = check(compiled, torch.randn(2, 4)).notes
    assert any("set_stance" in note for note in notes)
    frozen = check(model.requires_grad_(False), torch.randn(2, 4))
    assert "no gradient comes back: nothing in this model requires one" in frozen.notes


class Says(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.fc, self.answer = nn.Linear(4, 4), answer

    def forward(self, x: Tensor) -> object:
        self.fc(x)
        return self.answer


def test_bad_input_gets_one_clear_sentence() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(BadInput, match="returned no floating-point tensor but NoneType"):
        check(Says(None), x)
    with pytest.raises(BadInput, match="returned no floating-point tensor but str"):
        check(Says("nothing"), x)
    with pytest.raises(BadInput, match=r"does not take inputs of \(2, 3\)"):
        check(Says(None), torch.randn(2, 3))
    with pytest.raises(UnknownName, match="no module's name matches 'fcc'; did you mean 'fc'"):
        check(Says(None), x, blocks="fcc")
    with pytest.raises(BadInput, match=r"attached to an nn\.Module, not to int"):
        check(cast(nn.Module, 3), x)
    with pytest.raises(BadInput, match="non-finite values"):
        check(Says(None), x / 0)
