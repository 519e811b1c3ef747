"""The loss as a function of the parameters: its numbers, what it refuses, and what it leaves be."""

import copy

import pytest
import torch
from instrument_cases import (
    NOTHING,
    as_loss,
    cross_entropy,
    labeled,
    quadratic,
    quadratic_loss,
    tanh_net,
)
from messages import refusal
from torch import nn
from torch.autograd.function import once_differentiable

from sigprop import curvature, gradients, landscape, networks, scale_invariance
from sigprop.errors import BadInput
from sigprop.inputs.devices import normal, seeded
from sigprop.objectives import Objective, next_update


def test_value_and_gradient_are_those_of_autograd_anywhere():
    net, batch = tanh_net(), labeled()
    objective = Objective(net, cross_entropy, batch)
    at = objective.start + 0.1 * normal((objective.size,), 5).double()
    moved = copy.deepcopy(net)
    torch.nn.utils.vector_to_parameters(at, moved.parameters())
    loss = cross_entropy(moved(batch[0]), batch[1])
    expected = torch.autograd.grad(
        cross_entropy(moved(batch[0]), batch[1]), list(moved.parameters())
    )
    assert objective.value(at) == pytest.approx(float(loss.detach()), rel=1e-12)
    flat = torch.cat([g.reshape(-1) for g in expected])
    torch.testing.assert_close(objective.gradient(at), flat, rtol=1e-12, atol=1e-14)
    assert objective.value() == float(cross_entropy(net(batch[0]), batch[1]).detach())


def test_tied_weights_are_there_once_and_get_both_gradients():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 5, bias=False)
            self.outer = nn.Linear(5, 5, bias=False)
            self.outer.weight = self.inner.weight

        def forward(self, x):
            return self.outer(torch.tanh(self.inner(x)))

    net = Tied().double()
    x = labeled()[0]
    objective = Objective(net, quadratic_loss, (x, x))
    (expected,) = torch.autograd.grad(quadratic_loss(net(x), x), net.inner.weight)
    assert objective.names == ["inner.weight"]
    torch.testing.assert_close(objective.gradient(), expected.reshape(-1))


def test_a_layer_that_is_set_from_the_first_batch_is_set_before_anything_is_computed():
    with seeded(0):
        net = networks.build("rescale", depth=2, width=8, inputs=5, classes=3)
    batch = labeled(double=False)
    objective = Objective(net, cross_entropy, batch)
    set_up = copy.deepcopy(net)
    value = float(cross_entropy(set_up(batch[0]), batch[1]).detach())
    assert objective.value() == value == objective.value()
    assert not torch.equal(objective.start, torch.nn.utils.parameters_to_vector(net.parameters()))


def test_spectral_normalization_is_evaluated_at_one_state():
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3)))
    objective = Objective(net, cross_entropy, labeled(double=False))
    assert objective.value() == objective.value()


def test_the_state_moves_with_the_batch():
    net, batch = tanh_net(), labeled()
    objective = Objective(net, cross_entropy, batch)
    other = (batch[0][:5], batch[1][:5])
    assert objective.with_batch(other).value() == Objective(net, cross_entropy, other).value()


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() ** 2)


class Once(nn.Module):
    def forward(self, x):
        return OnceOnly.apply(x)


def test_a_function_without_second_derivative_is_named_with_the_way_out():
    net = nn.Sequential(nn.Linear(5, 7), Once(), nn.Linear(7, 3)).double()
    with refusal(
        BadInput,
        "the loss cannot be differentiated twice: the backward of OnceOnly has no derivative, and "
        "the Hessian lacks its part; replace that function by one whose backward is "
        "differentiable, or use sigprop.curvature.critical_sharpness, which needs forward passes "
        "only",
    ):
        curvature.sharpness(net, cross_entropy, labeled())
    assert curvature.critical_sharpness(net, cross_entropy, labeled()) > 0  # the way out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch": labeled()[0]},
            "a batch is a pair (inputs, targets), not Tensor",
        ),
        ({"batch": (1, 2, 3)}, "a batch is a pair (inputs, targets), not tuple of 3"),
        (
            {"loss": lambda out, y: out - out.mean()},
            "the loss must be a scalar, got (24, 3); reduce it, as with loss(...).mean()",
        ),
        ({"loss": lambda out, y: 1.0}, "the loss must be a scalar, got float; reduce it, as with "
         "loss(...).mean()"),
        (
            {"loss": lambda out, y: out.detach().mean()},
            "the loss does not depend on the parameters: it has no graph back to them; is the "
            "output detached?",
        ),
        (
            {"loss": lambda out, y: out.sum() / 0},
            None,
        ),
        (
            {"model": nn.Sequential(tanh_net(), nn.Dropout(0.5))},
            "the gradient differs from one evaluation to the next: 1 (Dropout) draws random "
            "numbers in training mode; call model.eval() first",
        ),
        (
            {"model": tanh_net().half(), "batch": labeled(double=False)},
            "parameter '0.weight' is torch.float16, too coarse for differences of losses and "
            "gradients; give a copy in float32: copy.deepcopy(model).float()",
        ),
        (
            {"model": tanh_net().requires_grad_(False)},
            "no parameter of this model requires a gradient",
        ),
        ({"loss": lambda out, y: cross_entropy(out, y[:3])}, None),
    ],
    ids=lambda value: "",
)  # fmt: skip
def test_what_cannot_be_used_is_refused(changes, message):
    arguments = {"model": tanh_net(), "loss": cross_entropy, "batch": labeled(), **changes}
    if message is None:
        with pytest.raises(BadInput, match=r"the loss (of this batch is|cannot be computed)"):
            Objective(**arguments)
        return
    with refusal(BadInput, message):
        Objective(**arguments)


def test_weights_that_are_not_finite_are_named():
    net = tanh_net()
    next(net[3].parameters()).data[0, :2] = torch.nan
    with refusal(BadInput, "parameter '3.weight' holds 2 non-finite values of 42"):
        Objective(net, cross_entropy, labeled())


def test_dropout_in_evaluation_mode_and_batch_normalization_in_training_mode_are_taken():
    net = nn.Sequential(tanh_net(norm=True), nn.Dropout(0.5)).double()
    net[1].eval()
    assert Objective(net, cross_entropy, labeled()).size > 0


def test_the_next_update_is_the_one_that_the_optimizer_then_takes():
    for make in (
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda weights: torch.optim.AdamW(weights, lr=0.01),
    ):
        net, batch = tanh_net(), labeled()
        optimizer: torch.optim.Optimizer = make(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(net(batch[0]), batch[1]).backward()
            optimizer.step()
        before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
        predicted = next_update(net, optimizer, Objective(net, cross_entropy, batch))
        optimizer.zero_grad()
        cross_entropy(net(batch[0]), batch[1]).backward()
        optimizer.step()
        after = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        torch.testing.assert_close(predicted, after - before, rtol=1e-12, atol=1e-14)


def test_an_optimizer_of_another_model_is_refused():
    net, other = tanh_net(), tanh_net()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with refusal(BadInput, "the optimizer holds no parameter of this model"):
        next_update(net, optimizer, Objective(net, cross_entropy, labeled()))


def snapshot(net, optimizer):
    return copy.deepcopy(
        (
            net.state_dict(),
            [p.grad for p in net.parameters()],
            [m.training for m in net.modules()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
            optimizer.state_dict(),
            torch.get_rng_state(),
            torch.is_grad_enabled(),
        )
    )


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


INSTRUMENTS = {
    "sharpness": lambda net, batch, _: curvature.sharpness(net, cross_entropy, batch),
    "stability": lambda net, batch, sgd: curvature.stability(net, cross_entropy, batch, sgd),
    "critical_sharpness": lambda net, batch, sgd: curvature.critical_sharpness(
        net, cross_entropy, batch, sgd
    ),
    "scan": lambda net, batch, _: landscape.scan(net, cross_entropy, batch, [0.1]),
    "covariate_shift": lambda net, batch, sgd: landscape.covariate_shift(
        net, cross_entropy, batch, sgd
    ),
    "tails": lambda net, batch, _: gradients.tails(net, cross_entropy, batch),
    "histogram": lambda net, batch, _: gradients.histogram(net, cross_entropy, batch),
    "cancellation": lambda net, batch, _: gradients.cancellation(net, cross_entropy, batch),
    "by_channel_and_position": lambda net, batch, _: gradients.by_channel_and_position(
        net, cross_entropy, batch, "0"
    ),
    "noise": lambda net, batch, _: gradients.noise(
        copy.deepcopy(net).eval(), cross_entropy, batch, draws=2
    ),
    "relative_loss": lambda net, batch, _: gradients.relative_loss(
        net, cross_entropy, batch, [0.1]
    ),
    "largest_stable_rate": lambda net, batch, _: gradients.largest_stable_rate(
        net, cross_entropy, [batch], precision=0.9
    ),
    "activations_until_divergence": lambda net, batch, _: gradients.activations_until_divergence(
        net, cross_entropy, [batch], 0.1
    ),
    "find": lambda net, batch, _: scale_invariance.find(net, cross_entropy, batch),
}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_an_instrument_leaves_model_optimizer_and_random_state_as_they_were(name):
    net, batch = tanh_net(norm=True), labeled()
    net[3].eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    cross_entropy(net(batch[0]), batch[1]).backward()
    optimizer.step()
    before = snapshot(net, optimizer)
    with torch.no_grad():  # a caller's mode, put back too
        before = (*before[:-1], False)
        INSTRUMENTS[name](net, batch, optimizer)
        after = snapshot(net, optimizer)
    assert same(before, after)


def test_that_comparison_can_fail():
    net = tanh_net(norm=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = snapshot(net, optimizer)
    net(labeled()[0])  # running statistics
    assert not same(before, snapshot(net, optimizer))


def test_a_quadratic_of_the_cases_is_one():
    model, matrix = quadratic()
    product = Objective(model, as_loss, NOTHING).hessian()
    torch.testing.assert_close(product.dense(), matrix, rtol=1e-12, atol=1e-14)
