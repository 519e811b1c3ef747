"""`check`: what a probe will see of a model, before training."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from test_any_model_functional import Block, images, resnet
from torch import Tensor, nn

import sigprop
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


# --- what is not blind ---------------------------------------------------------------------------


class Iterated(nn.Module):
    """Calls the modules of a Sequential one by one; an Identity and a layer are not called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.nothing = nn.Identity()
        self.forgotten = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Tied(nn.Module):
    """An embedding whose weights another module uses, as in T5 and BART."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(7, 4)
        self.encoder = nn.Embedding(7, 4)
        self.encoder.weight = self.shared.weight
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(tokens))


class Wrapped(nn.Module):
    """Calls the forward of the model inside, as wrappers with adapters do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward(x)


class Forgetful(nn.Module):
    """A block with a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.forgotten = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x)


def statuses(model: nn.Module, x: Tensor) -> dict[str, tuple[str, str]]:
    table = check(model, x).table
    return {
        str(name): (str(status), str(reason))
        for name, status, reason in zip(
            table["name"], table["status"], table["reason"], strict=True
        )
    }


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
NEVER = "never called in a recorded step (or its forward was called directly)"


def test_a_container_whose_modules_are_called_one_by_one_is_not_blind() -> None:
    found = statuses(Iterated(), X)
    assert found["layers"] == ("container", "its modules are called one by one")
    assert found["nothing"] == ("not called", "never called, and without weights")
    assert found["forgotten"] == ("blind", NEVER)


def test_a_wrapper_that_calls_forward_is_not_blind() -> None:
    model = nn.Sequential(Wrapped(), nn.Linear(4, 2))
    assert statuses(model, X)["0.model"] == ("container", "its modules are called one by one")
    assert len(check(model, X).blind) == 0


def test_tied_weights_are_seen_where_they_are_used() -> None:
    found = statuses(Tied(), torch.arange(7))
    assert found["shared"] == ("shared", "never called; another module with the same weights is")
    assert len(check(Tied(), torch.arange(7)).blind) == 0


def test_weights_in_a_block_that_are_never_used_are_blind() -> None:
    seen = check(nn.Sequential(Forgetful(), Forgetful()), X)
    assert seen.table.query("block")["name"].tolist() == ["0", "1"]
    assert seen.blind["name"].tolist() == ["0.forgotten", "1.forgotten"]
    assert seen.blind["reason"].tolist() == [NEVER] * 2
    assert f"blind: 0.forgotten (Linear): {NEVER}." in str(seen)


# --- parts that cannot be hooked -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_and_traced_parts_are_checked_and_measured() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4),
        torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
        torch.jit.trace(nn.Linear(4, 4), X),
        nn.Linear(4, 2),
    )
    scripted = "a ScriptModule cannot be hooked; probe the Python module it was made from"
    seen = check(model, X)
    row = seen.table.set_index("name").loc["1"]
    assert (row["status"], row["reason"]) == ("blind", scripted)
    assert row["fallback"] == "read from outside where a module around it is a block"
    with pytest.warns(sigprop.ProbeWarning, match="'1' first: a ScriptModule cannot be hooked"):
        signals = sigprop.measure(model, X).signals
    assert {"0", "3"} <= set(signals["module"])
    assert (signals.query("direction == 'backward' and module == '0'")["second_moment"] > 0).all()


class Quantized(nn.Module):
    """A linear layer as quantization leaves it: its weights are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("packed", torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.get_buffer("packed")


@pytest.mark.filterwarnings("ignore:torch.ao.quantization:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("own", [True, False])
def test_a_quantized_model_has_activations_to_read(own: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    if own:
        model = nn.Sequential(Quantized(), nn.ReLU(), Quantized())
    else:
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    seen = check(model, X)
    assert seen.notes[0] == "no gradient comes back: nothing in this model requires one"
    assert set(seen.records.signals["direction"]) == {"forward"}
    assert {"0", "2"} <= set(seen.records.signals["module"])
    assert len(seen.blind) == 0


# --- outputs, targets, gradients -----------------------------------------------------------------


class Video(nn.Module):
    """Two outputs, of which the second is what targets are for."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(2, 4, 3, padding=1), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(x)
        return features, self.head(features.mean((2, 3, 4)))


CLIP = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def test_of_several_outputs_the_one_that_fits_the_targets_is_used() -> None:
    model, y = Video(), torch.tensor([0, 4])
    rows = sigprop.measure(model, CLIP, y).parameters.set_index("name")
    nn.functional.cross_entropy(model(CLIP)[1], y).backward()
    assert model.head.weight.grad is not None
    expected = float(model.head.weight.grad.norm())
    assert rows.loc["head.weight", "grad_norm"] == pytest.approx(expected, rel=1e-5)
    assert "no output fits" not in " ".join(check(model, CLIP, y).notes)


def test_targets_that_fit_no_output_are_said_and_a_random_gradient_is_sent() -> None:
    seen = check(Video(), CLIP, torch.tensor([0, 99]))
    assert "no output fits the targets, so a random gradient was sent back instead" in seen.notes
    assert "backward" in set(seen.records.signals["direction"])
    with pytest.raises(BadInput) as error:
        sigprop.measure(Video(), CLIP, torch.tensor([0, 99]))
    assert str(error.value).startswith(
        "no loss of outputs (2, 4, 4, 4, 4) or (2, 5) and targets (2,): "
    )
    assert str(error.value).endswith("; give loss=(output, targets) -> scalar")


def test_a_check_under_no_grad_sees_gradients() -> None:
    with torch.no_grad():
        seen = check(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), X)
    assert set(seen.records.signals["direction"]) == {"forward", "backward"}
    assert "no gradient comes back" not in " ".join(seen.notes)
    assert set(seen.table.query("block")["gradient"]) == {"recorded"}


# --- sums that are no additions ------------------------------------------------------------------


class Sum(nn.Module):
    """x and f(x) combined in one of the ways that a residual block may be written in."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.fc, self.how = nn.Linear(4, 4), how

    def forward(self, x: Tensor) -> Tensor:
        f = self.fc(x)
        if self.how == "lerp":
            return torch.lerp(x, f, 0.5)
        if self.how == "minus":
            return x - f
        if self.how == "sub":
            return torch.sub(x, f)
        if self.how == "stack":
            return torch.stack([x, f]).sum(0)
        return x + f - f.mean(-1, keepdim=True)


WORDS = {
    "lerp": "torch.lerp",
    "minus": "a subtraction",
    "sub": "a subtraction",
    "stack": "torch.stack",
}


@pytest.mark.parametrize(("how", "words"), WORDS.items())
def test_a_sum_of_another_form_has_ports_or_a_note(how: str, words: str) -> None:
    seen = check(nn.Sequential(Sum(how), Sum(how)), X)
    ports = seen.table.query("block")["ports"].tolist()
    note = (
        f"0, 1: the input goes into {words}, which is not read as a residual addition: no skip "
        "and branch; write it as x + f(x) to have them"
    )
    assert ports == ["in skip branch out"] * 2 or note in seen.notes


def test_an_addition_and_a_difference_from_a_mean_have_no_note() -> None:
    seen = check(nn.Sequential(Sum("plus"), Sum("plus")), X)
    assert len(seen.notes) == 1


def test_one_block_is_one_block() -> None:
    foot = str(check(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(2, 4), blocks=["0"]))
    assert "■ 1 block, · inside a block; modules in execution order" in foot


@pytest.mark.parametrize("blocks", [3, 0.5, True, [], ["0", 1]])
def test_blocks_that_are_no_names_are_refused_in_a_sentence(blocks: Any) -> None:
    with pytest.raises(BadInput) as caught:
        sigprop.attach(nn.Sequential(nn.Linear(4, 4)), blocks=blocks)
    assert str(caught.value) == (
        f"blocks is 'auto', 'leaves', a glob, a list of globs or a callable, not {blocks!r}"
    )


def plus(x: Tensor, y: Tensor) -> Tensor:
    return torch.add(x, y)


def test_a_probe_takes_the_blocks_that_a_forward_pass_showed() -> None:
    """The code of a stage adds numbers, and that of its units calls what adds their tensors."""

    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.weight = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return plus(x, self.weight(self.norm(x)))

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.units, self.passes = nn.ModuleList([Unit(), Unit()]), 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes = self.passes + 1
            for unit in self.units:
                x = unit(x)
            return x

    model, x = nn.Sequential(nn.Linear(8, 8), Stage(), Stage()), torch.randn(4, 8)
    seen = sigprop.check(model, x)
    units = ["1.units.0", "1.units.1", "2.units.0", "2.units.1"]
    assert seen.table.loc[seen.table["block"], "name"].tolist() == units
    found = {}
    for name, blocks in (("by code", "auto"), ("by calls", seen.blocks)):
        with sigprop.attach(model, blocks=blocks, strict=True) as probe:
            model(x).sum().backward()
        signals = probe.records.signals
        found[name] = signals.loc[signals["kind"] == "block", "module"].unique().tolist()
    assert found == {"by code": ["1", "2"], "by calls": units}


def test_the_tree_has_a_mark_and_ports_for_blocks_and_a_point_inside_of_them() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)))
    lines = str(sigprop.check(model, torch.randn(3, 4))).splitlines()
    assert [line.rstrip()[-8:] for line in lines if "Sequential)" in line] == ["■ in out"] * 2
    inner = [line.rstrip() for line in lines if "(Linear)" in line or "(ReLU)" in line]
    assert len(inner) == 4
    assert all("·" in line and "inside" not in line for line in inner)


def test_blocks_are_not_learned_from_compiled_code_where_hooks_may_not_run() -> None:
    from sigprop.probing.learning import learned

    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(3, 4)
    compiled = torch.compile(model, backend="eager")
    cpu = torch.device("cpu")
    assert isinstance(compiled, nn.Module)
    assert learned(compiled, x, "auto", cpu) == "auto"
    assert learned(model, x, "auto", cpu) != "auto"
