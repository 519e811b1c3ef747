from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sigprop
from sigprop import BadInput, UnknownName


def build() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 2


def test_measuring_leaves_the_model_and_the_random_state_alone() -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    sigprop.measure(model, X, Y)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_a_factory_is_initialized_anew_per_seed() -> None:
    records = sigprop.measure(build, X, Y, seeds=[3, 5])
    norms = records.parameters.query("name == '0.weight'").set_index("seed")["weight_norm"]
    for seed in (3, 5):
        torch.manual_seed(seed)
        assert norms[seed] == pytest.approx(
            build().get_parameter("0.weight").detach().norm().item(), rel=1e-6
        )
    assert norms[3] != norms[5]
    assert records.manifest["seeds"] == [3, 5]


def test_zoo_names_and_import_paths_are_networks_too() -> None:
    assert len(sigprop.measure("plain", torch.randn(4, 1, 8, 8)).signals)
    # torch.nn's Identity has no parameters: found and imported, then refused for that reason.
    with pytest.raises(BadInput, match="Identity has no parameters"):
        sigprop.measure("torch.nn:Identity", X)


FORMS = {
    "tensor": (X, Y),
    "tuple": ((X,), Y),
    "dict": ({"input": X}, Y),
    "loader": (DataLoader(TensorDataset(X, Y), batch_size=16), None),
}


@pytest.mark.parametrize(("inputs", "targets"), FORMS.values(), ids=FORMS)
def test_inputs_in_any_form_give_the_same_numbers(inputs: object, targets: Tensor | None) -> None:
    torch.manual_seed(0)
    model = build()
    ours = sigprop.measure(model, inputs, targets).signals.drop(columns=["run"])
    assert ours.equals(sigprop.measure(model, X, Y).signals.drop(columns=["run"]))


def test_the_gradient_is_that_of_the_loss() -> None:
    torch.manual_seed(0)
    model = build()
    weight = model.get_parameter("0.weight")
    targets: dict[str, tuple[Tensor, Any, Callable[..., Tensor]]] = {
        "cross entropy": (Y, None, nn.functional.cross_entropy),
        "squared error": (torch.ones(16, 2), None, nn.functional.mse_loss),
        "own": (Y, lambda out, y: out.abs().sum() + y.sum(), lambda out, y: out.abs().sum()),
    }
    for wanted, loss, reference in targets.values():
        model.zero_grad()
        reference(model(X), wanted).backward()
        assert weight.grad is not None
        expected = float(weight.grad.norm())
        rows = sigprop.measure(model, X, wanted, loss).parameters.set_index("name")
        assert rows.loc["0.weight", "grad_norm"] == pytest.approx(expected, rel=1e-5)


def test_without_targets_every_output_receives_a_standard_normal_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 200), nn.Linear(200, 100))
    rows = sigprop.measure(model, X.repeat(16, 1)).signals
    out = rows.query("name == '1' and port == 'out' and direction == 'backward'").iloc[0]
    # 25,600 normal draws: the mean square has a standard error of sqrt(2/25600) = 0.009.
    assert out["second_moment"] == pytest.approx(1, abs=4 * math.sqrt(2 / out["count"]))


def test_evaluation_mode_is_kept() -> None:
    assert set(sigprop.measure(build().eval(), X).signals["mode"]) == {"eval"}
    assert set(sigprop.measure(build(), X).signals["mode"]) == {"train"}


def test_a_frozen_model_has_a_forward_picture() -> None:
    records = sigprop.measure(build().requires_grad_(False), X)
    assert set(records.signals["direction"]) == {"forward"}


def bad() -> dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]]:
    poisoned = X.clone()
    poisoned[0, 0] = math.nan
    empty: Any = []
    return {
        "wrong shape": (
            (build(), torch.randn(4, 7)),
            {},
            BadInput,
            "the model does not take inputs of (4, 7) torch.float32: mat1 and mat2",
        ),
        "nan": ((build(), poisoned), {}, BadInput, "hold 1 non-finite values of 48; clean them"),
        "seeds of one model": ((build(), X), {"seeds": 2}, BadInput, "has one initialization"),
        "no seeds": ((build, X), {"seeds": 0}, BadInput, "at least one seed"),
        "unknown": (("plane", X), {}, UnknownName, "did you mean 'plain'?"),
        "no parameters": ((nn.ReLU(), X), {}, BadInput, "ReLU has no parameters"),
        "not a network": ((3, X), {}, BadInput, "'module:factory' or a callable"),
        "makes no module": ((lambda: 3, X), {}, BadInput, "the factory returned int"),
        "targets": (
            (build(), X, Y[:3]),
            {},
            BadInput,
            "no loss of outputs (16, 2) and targets (3,)",
        ),
        "empty loader": ((build(), DataLoader(empty)), {}, BadInput, "the DataLoader is empty"),
    }


@pytest.mark.parametrize(("given", "options", "kind", "message"), bad().values(), ids=bad())
def test_bad_input_gets_one_clear_sentence(
    given: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with warnings.catch_warnings(), pytest.raises(kind) as error:
        sigprop.measure(*given, **options)
    assert message in str(error.value)


def test_a_model_that_cannot_be_copied_says_what_to_do() -> None:
    class Uncopyable(nn.Linear):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("no copies")

    with pytest.raises(BadInput, match=r"cannot be copied .*; pass a callable that builds it"):
        sigprop.measure(Uncopyable(3, 2), X)


def test_outputs_without_a_tensor_are_said() -> None:
    class Mute(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return "nothing"

    with pytest.raises(BadInput, match="returned no floating-point tensor but str"):
        sigprop.measure(Mute(3, 2), X)
