"""How a model is called, which loss its gradient is of, and what surgery walks over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import CASES, gaussian
from messages import refusal
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sigprop.errors import BadInput
from sigprop.inputs.calling import backward, call, first_line, split_batch
from sigprop.inputs.gradients import require_gradients, with_gradients
from sigprop.networks.design import Design
from sigprop.networks.residual import branch_shapes
from sigprop.networks.submodules import (
    Change,
    run_in_evaluation,
    submodules,
    weighted_layers,
)

X = gaussian(0, 6, 4)

# --- a batch ----------------------------------------------------------------------------------

PAIRS: Any = [(X[:2], torch.tensor([0, 1])), (X[2:4], torch.tensor([1, 0]))]


def loader(data: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=None)


def test_a_loader_gives_its_first_batch() -> None:
    inputs, targets = split_batch(loader(PAIRS), None)
    assert torch.equal(inputs, X[:2])
    assert targets.tolist() == [0, 1]


def test_given_targets_leave_a_loaders_batch_whole() -> None:
    """A pair may be two inputs; it is then called with both."""
    batch, targets = split_batch(loader(PAIRS), X)
    assert isinstance(batch, list | tuple)
    assert torch.equal(batch[0], X[:2])
    assert targets is X


def test_inputs_of_any_other_form_are_passed_on() -> None:
    for inputs in (X, (X, X), {"x": X}):
        assert split_batch(inputs, None) == (inputs, None)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (loader([]), "the DataLoader is empty"),
        (
            {"a": X, "b": (X, torch.tensor([[1.0, math.inf, math.nan]]))},
            "inputs[b][1] of shape (1, 3) hold 2 non-finite values of 3; clean them first",
        ),
    ],
    ids=["empty", "not finite"],
)
def test_a_batch_that_cannot_be_used_is_refused(inputs: object, message: str) -> None:
    with refusal(BadInput, message):
        split_batch(inputs, None)


# --- a call -----------------------------------------------------------------------------------


def test_tuples_are_positions_and_dicts_are_names() -> None:
    def model(a: Tensor, b: Tensor | None = None) -> Any:
        return a if b is None else (a, b)

    assert call(model, X) is X
    assert call(model, (X, X[:1]))[1].shape == (1, 4)
    assert call(model, {"b": X, "a": X[:1]})[0].shape == (1, 4)


def test_what_a_model_does_not_take_is_said_with_its_shapes() -> None:
    with refusal(
        BadInput,
        "the model does not take inputs of (6, 4) torch.float32, (2,) torch.int64: one too many",
    ):
        call(Failing(TypeError("one too many\nof them")), [X, torch.arange(2)])
    with refusal(BadInput, "the model does not take inputs of no tensor: nothing"):
        call(Failing(ValueError("nothing\nmore")), "text")


def test_a_models_own_refusal_goes_through() -> None:
    with refusal(BadInput, "mine"):
        call(Failing(BadInput("mine")), X)


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *inputs: object) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  one\ntwo"), "one"),
        (RuntimeError(), "RuntimeError"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line


# --- the gradient -----------------------------------------------------------------------------


@dataclass
class Outputs:
    features: Tensor
    logits: Tensor


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [gaussian(at, *shape).requires_grad_() for at, shape in enumerate(shapes)]


def test_the_first_output_that_fits_the_labels_is_the_classifiers() -> None:
    features, logits = leaves((6, 8, 2), (6, 3))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert backward(Outputs(features, logits), labels, None, seed=0)
    assert features.grad is None
    softmax = logits.detach().double().softmax(1)
    softmax[torch.arange(6), labels] -= 1
    assert logits.grad is not None
    assert torch.allclose(logits.grad.double(), softmax / 6, atol=1e-6)


def test_numbers_are_compared_by_their_squared_error_and_never_broadcast() -> None:
    (column,) = leaves((6, 1))
    targets = gaussian(3, 6)
    assert backward(column, targets, None, seed=0)
    assert column.grad is not None
    expected = 2 * (column.detach()[:, 0] - targets) / 6
    assert torch.allclose(column.grad[:, 0], expected, atol=1e-6)
    with refusal(
        BadInput,
        "no loss of outputs (6, 1) and targets (3,): the numbers of elements differ; give "
        "loss=(output, targets) -> scalar",
    ):
        backward(column, targets[:3], None, seed=0)


def test_without_targets_the_gradient_is_standard_normal_and_that_of_its_seed() -> None:
    (big,) = leaves((300, 200))
    assert backward(big, None, None, seed=5)
    assert big.grad is not None
    # 60,000 draws: the mean has a standard error of 1/245, the mean square of sqrt(2)/245.
    assert abs(float(big.grad.mean())) < 4 / 245
    assert float(big.grad.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2) / 245)
    first, state = big.grad.clone(), torch.get_rng_state()
    big.grad.zero_()
    backward(big, None, None, seed=5)
    assert torch.equal(big.grad, first)
    assert torch.equal(torch.get_rng_state(), state)
    big.grad.zero_()
    backward(big, None, None, seed=6)
    assert not torch.equal(big.grad, first)


def test_a_loss_of_ones_own_sees_the_output_as_it_is() -> None:
    (logits,) = leaves((6, 3))
    output = Outputs(X, logits)
    assert backward(output, "any", lambda out, targets: out.logits.sum(), seed=0)
    assert logits.grad is not None
    assert (logits.grad == 1).all()


def test_where_nothing_requires_a_gradient_there_is_none() -> None:
    assert not backward(X, None, None, seed=0)


@pytest.mark.parametrize(
    ("output", "targets", "loss", "message"),
    [
        (torch.arange(3), None, None, "the model returned no floating-point tensor but Tensor"),
        (
            gaussian(0, 2).requires_grad_(),
            [1, 2],
            None,
            "targets are a tensor, not list, unless a loss is given: loss=(output, targets) -> "
            "scalar",
        ),
        (
            gaussian(0, 2).requires_grad_(),
            None,
            lambda out, targets: out,
            "no loss of outputs (2,) and targets (): grad can be implicitly created only for "
            "scalar outputs; give loss=(output, targets) -> scalar",
        ),
    ],
    ids=["no tensor", "targets", "not a scalar"],
)
def test_a_gradient_that_cannot_be(output: Any, targets: Any, loss: Any, message: str) -> None:
    with refusal(BadInput, message):
        backward(output, targets, loss, seed=0)


def test_inputs_that_require_a_gradient_are_copies() -> None:
    batch = {"x": X, "tokens": torch.arange(3), "pair": [X, (X,)], "name": "n"}
    made = with_gradients(batch)
    assert require_gradients(made)
    assert not require_gradients(batch)
    assert made["tokens"] is batch["tokens"]
    assert (type(made["pair"]), type(made["pair"][1])) == (list, tuple)
    made["pair"][1][0].mul_(2)  # a model may change its input in place
    assert torch.equal(X, gaussian(0, 6, 4))


# --- surgery's walk ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_module_is_found_once_with_its_parent(case: Any) -> None:
    model = case.network()
    found = submodules(model)
    expected = [name for name, _ in model.named_modules() if name]
    assert [at.name for at in found] == expected
    for at in found:
        assert at.parent._modules[at.key] is at.module is model.get_submodule(at.name)


def test_a_replaced_module_is_the_parents() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.ReLU())
    (layer,) = weighted_layers(model, (nn.Linear,))
    assert layer.layer is model.get_submodule("0.0")
    layer.replace_by(nn.Identity())
    assert isinstance(model.get_submodule("0.0"), nn.Identity)


def shared_layer() -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.Sequential(layer))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), "the model is one Linear itself; wrap it in nn.Sequential first"),
        (nn.Sequential(nn.ReLU()), "the model has no Linear layer of its own"),
        (
            nn.Sequential(nn.LazyLinear(3)),
            "'0' is lazy: send one batch through the model first",
        ),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
            "'0' is parametrized already; remove that first",
        ),
        (
            shared_layer(),
            "'1.0' and '0' are one module in two places; what suits one does not suit the other: "
            "give each its own",
        ),
        (nn.Sequential(nn.MultiheadAttention(4, 2)), "the model has no Linear layer of its own"),
    ],
    ids=["itself", "none", "lazy", "parametrized", "shared", "attention's projection"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_layers_that_surgery_cannot_take(model: nn.Module, message: str) -> None:
    with refusal(BadInput, message):
        weighted_layers(model, (nn.Linear,))


def test_a_run_in_evaluation_puts_every_mode_back() -> None:
    seen: dict[str, bool] = {}

    class Mode(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            seen[self.name] = self.training
            assert not torch.is_grad_enabled()
            if len(x) == 1:
                raise ValueError("one sample")
            return x

    model = nn.Sequential(Mode("a"), Mode("b").eval(), Mode("c"))
    run_in_evaluation(model, X, [model[2]])
    assert seen == {"a": False, "b": False, "c": True}
    with pytest.raises(ValueError, match="one sample"):
        run_in_evaluation(model, X[:1])
    assert [m.training for m in model.modules()] == [True, True, False, True]


def test_a_change_says_whether_it_was_made() -> None:
    assert str(Change("fc", "weight centered")) == "fc: weight centered"
    assert str(Change("fc", "it has one input", done=False)) == "fc: unchanged, it has one input"


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize(("channels", "width"), [(16, 16), (16, 32)])
@pytest.mark.parametrize("groups", [1, 4])
def test_the_shapes_of_a_branch_chain_and_halve_the_side_once(
    block: str, channels: int, width: int, groups: int
) -> None:
    design = Design(
        architecture="resnet",
        inputs=(3, 8, 8),
        width=16,
        block=block,
        groups=groups,
        branch_layers=3,
    )
    shapes = branch_shapes(design, channels, width)
    assert [s.inputs for s in shapes] == [channels, *(s.outputs for s in shapes[:-1])]
    assert shapes[-1].outputs == width
    assert math.prod(s.stride for s in shapes) == (1 if width == channels else 2)
    x = torch.zeros(1, channels, 9, 7)
    for s in shapes:
        x = nn.Conv2d(s.inputs, s.outputs, s.kernel, s.stride, s.kernel // 2, groups=s.groups)(x)
    side = (9, 7) if width == channels else (5, 4)
    assert x.shape == (1, width, *side)
    assert {s.groups for s in shapes if s.kernel == 3} == {groups}
