"""Hessian eigenvalues against dense matrices and a second library; lines against optimizers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from instrument_cases import (
    NOTHING,
    Quadratic,
    as_loss,
    cross_entropy,
    labeled,
    quadratic,
    quadratic_loss,
    tanh_net,
)
from messages import refusal
from torch import nn
from torch.func import functional_call

from sigprop import curvature
from sigprop.errors import BadInput
from sigprop.inputs.devices import normal


def dense_hessian(net, loss, batch):
    """The Hessian by torch.autograd.functional.hessian, over one flat vector."""
    names, shapes = zip(*((n, p.shape) for n, p in net.named_parameters()), strict=True)
    sizes = [math.prod(shape) for shape in shapes]
    start = torch.nn.utils.parameters_to_vector(net.parameters()).detach()

    def value(vector):
        parts = [v.view(s) for v, s in zip(vector.split(sizes), shapes, strict=True)]
        return loss(functional_call(net, dict(zip(names, parts, strict=True)), batch[0]), batch[1])

    return torch.autograd.functional.hessian(value, start)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch normalization"])
@pytest.mark.parametrize("k", [1, 4])
def test_the_values_of_largest_magnitude_are_those_of_the_dense_hessian(norm, k):
    net, batch = tanh_net(norm=norm), labeled()
    values = np.linalg.eigvalsh(dense_hessian(net, cross_entropy, batch).numpy())
    expected = values[np.argsort(-np.abs(values))][:k]
    found = curvature.sharpness(net, cross_entropy, batch, k)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_the_sign_is_kept():
    matrix = torch.diag(torch.tensor([-5.0, 3.0, 1.0], dtype=torch.float64))
    model = Quadratic(matrix, torch.ones(3).double(), torch.ones(3).double())
    found = curvature.sharpness(model, as_loss, NOTHING, 2)
    np.testing.assert_allclose(found, [-5, 3], rtol=1e-12)


def test_in_float32_the_values_are_good_to_five_digits():
    net, batch = tanh_net(), labeled()
    exact = curvature.sharpness(net, cross_entropy, batch, 3)
    rough = curvature.sharpness(net.float(), cross_entropy, labeled(double=False), 3)
    np.testing.assert_allclose(rough, exact, rtol=1e-5)


def test_a_second_library_finds_the_same_values():
    reason = "pip install hessian-eigenthings: the peer whose values are compared"
    peer = pytest.importorskip("hessian_eigenthings", reason=reason)
    net, batch = tanh_net(), labeled()
    operator = peer.HessianOperator(
        net, [batch], peer.supervised_loss(cross_entropy), full_dataset=True
    )
    theirs = peer.lanczos(operator, k=3, max_iter=60, tol=1e-12, reorthogonalize=True, seed=0)
    found = np.sort(np.abs(np.asarray(theirs.eigenvalues, dtype=np.float64)))[::-1]
    ours = np.abs(curvature.sharpness(net, cross_entropy, batch, 3))
    np.testing.assert_allclose(ours, found, rtol=1e-6)


def test_k_beyond_the_number_of_parameters():
    message = "the Hessian has 12 values; k is a whole number from 1 to 12, not 13"
    with refusal(BadInput, message):
        curvature.sharpness(quadratic()[0], as_loss, NOTHING, 13)


def test_attention_has_a_second_derivative():
    """The fused kernels of scaled_dot_product_attention have none."""
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = normal((2, 3, 8), 0)
    values = curvature.sharpness(net, quadratic_loss, (x, torch.zeros_like(x)))
    assert np.isfinite(values).all()


# --- stability lines: a quadratic converges right below, and diverges right above -----------------

RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "gradient descent": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "damped momentum": (torch.optim.SGD, {"momentum": 0.5, "dampening": 0.5}),
    "Nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "weight decay": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 3.0}),
    "Adam": (torch.optim.Adam, {"betas": (0.9, 1 - 1e-12), "eps": 0.5}),
    "AdamW": (torch.optim.AdamW, {"betas": (0.5, 1 - 1e-12), "eps": 0.5, "weight_decay": 0.0}),
}
RATE = 0.1


def on_parabola(curve, rule):
    """An optimizer on L = curve w²/2; Adam's second moment is frozen at 4, so that P = 2.5."""
    kind, options = RULES[rule]
    one = torch.ones(1, dtype=torch.float64)
    model = Quadratic(torch.diag(one * curve), 0 * one, one)
    optimizer = kind(model.parameters(), lr=RATE, **options)
    if kind is not torch.optim.SGD:
        state = {"step": torch.tensor(1e15), "exp_avg": 0 * one, "exp_avg_sq": 4 * one}
        optimizer.state[model.w] = state
    return model, optimizer


def grows(curve, rule, steps=300):
    model, optimizer = on_parabola(curve, rule)
    for _ in range(steps):
        model.w.grad = curve * model.w.detach()
        optimizer.step()
        if float(model.w.detach().abs()) > 10:
            return True
    return False


@pytest.mark.parametrize("rule", RULES)
def test_a_parabola_diverges_above_the_line_and_converges_below(rule):
    model, optimizer = on_parabola(1.0, rule)
    found = curvature.stability(model, as_loss, NOTHING, optimizer)
    scale = 1.0 if RULES[rule][0] is torch.optim.SGD else 2.5
    assert found.sharpness == pytest.approx(1.0, rel=1e-12)
    assert found.preconditioned == pytest.approx(1 / scale, rel=1e-9)
    edge = scale * found.line  # the curvature at which the ratio is 1
    assert grows(1.03 * edge, rule)
    assert not grows(0.97 * edge, rule)


def test_adams_line_is_38_over_the_rate():
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=0.01)
    assert curvature.stability_line(optimizer) == pytest.approx(3800)


def test_adams_preconditioned_hessian_against_dense():
    net, batch = tanh_net(), labeled()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(net(batch[0]), batch[1]).backward()
        optimizer.step()
    found = curvature.stability(net, cross_entropy, batch, optimizer)
    second = torch.cat([optimizer.state[p]["exp_avg_sq"].reshape(-1) for p in net.parameters()])
    p = (1 - 0.9**5) * ((second / (1 - 0.999**5)).sqrt() + 1e-8)
    product = dense_hessian(net, cross_entropy, batch) / p[:, None]
    assert found.preconditioned == pytest.approx(
        float(torch.linalg.eigvals(product).real.max()), rel=1e-8
    )
    again = curvature.stability(net, cross_entropy, batch, optimizer, guess=found.vector)
    assert again.preconditioned == pytest.approx(found.preconditioned, rel=1e-10)


def test_groups_with_rates_of_their_own():
    """Coordinates of a tenth of the rate count a tenth: a diagonal H shows which is the top."""
    model = nn.ParameterDict({"fast": torch.ones(1), "slow": torch.ones(1)})

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = model

        def forward(self, _):
            return (3 * self.p["fast"] ** 2 + 10 * self.p["slow"] ** 2).sum() / 2

    net = Two()
    groups: list[Any] = [{"params": [net.p["fast"]]}, {"params": [net.p["slow"]], "lr": 0.01}]
    found = curvature.stability(net, as_loss, NOTHING, torch.optim.SGD(groups, lr=0.1))
    assert found.sharpness == pytest.approx(10)
    assert found.preconditioned == pytest.approx(3)
    assert found.line == pytest.approx(20)


def test_an_optimizer_without_a_known_line_is_refused():
    optimizer = torch.optim.Adagrad(tanh_net().parameters())
    with refusal(
        BadInput,
        "no stability line is known for Adagrad; there is one for SGD, Adam and AdamW. "
        "critical_sharpness follows the step of any optimizer",
    ):
        curvature.stability_line(optimizer)
    with pytest.raises(BadInput, match="a stability line needs a positive learning rate"):
        curvature.stability_line(torch.optim.SGD(tanh_net().parameters(), lr=0.0))


# --- critical sharpness ---------------------------------------------------------------------------


def test_on_a_quadratic_it_is_the_curvature_along_the_update():
    model, matrix = quadratic()
    w, slope = model.w.detach(), model.slope
    assert isinstance(slope, torch.Tensor)
    g = matrix @ w + slope
    along = float(g @ matrix @ g / (g @ g))
    found = curvature.critical_sharpness(model, as_loss, NOTHING, precision=1e-4)
    assert found == pytest.approx(along, rel=1e-4)
    assert found < curvature.sharpness(model, as_loss, NOTHING)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    u = g.sign()  # Adam's first step
    found = curvature.critical_sharpness(model, as_loss, NOTHING, optimizer, precision=1e-4)
    assert found == pytest.approx(float(u @ matrix @ u / (g @ u)), rel=1e-4)


def test_a_flat_loss_a_loss_without_bound_and_a_step_uphill():
    zero, one = torch.zeros(1, 1).double(), torch.ones(1).double()
    flat = Quadratic(zero, 0 * one, one)
    falling = Quadratic(zero, one, one)
    assert math.isnan(curvature.critical_sharpness(flat, as_loss, NOTHING))
    assert curvature.critical_sharpness(falling, as_loss, NOTHING) == 0
    uphill = torch.optim.SGD(falling.parameters(), lr=0.1, maximize=True)
    assert curvature.critical_sharpness(falling, as_loss, NOTHING, uphill) == math.inf


def test_a_precision_out_of_range():
    with refusal(BadInput, "precision is between 0 and 1, not 2"):
        curvature.critical_sharpness(tanh_net(), cross_entropy, labeled(), precision=2)


# --- linear regression ----------------------------------------------------------------------------


def regression_data():
    rng = np.random.default_rng(0)
    mixing = np.diag([3.0, 1.0, 0.3]) + 0.2
    return rng.standard_normal((60, 3)) @ mixing, rng.standard_normal(60)


def test_every_component_shrinks_as_predicted():
    x, y = regression_data()
    made = curvature.linear_regression(x, y, steps=40)
    np.testing.assert_allclose(made.table["measured"], made.table["predicted"], atol=1e-12)
    half = 0.5 * (made.table.query("step == 7")["measured"] ** 2 * made.eigenvalues).sum()
    assert half > 0
    net = nn.Linear(3, 1, bias=False).double()
    batch = torch.from_numpy(x), torch.from_numpy(y)[:, None]
    found = curvature.sharpness(net, quadratic_loss, batch, 3)
    np.testing.assert_allclose(found, made.eigenvalues, rtol=1e-10)


def test_whitened_inputs_have_one_eigenvalue_and_are_done_in_one_step():
    x, y = regression_data()
    made = curvature.linear_regression(x, y, steps=1, whiten=True)
    np.testing.assert_allclose(made.eigenvalues, 1, rtol=1e-10)
    assert made.condition_number == pytest.approx(1)
    assert made.loss[1] < 1e-20 * made.loss[0]
    assert curvature.linear_regression(x, y).condition_number > 10


def test_too_long_a_step_grows_along_the_sharpest_direction():
    x, y = regression_data()
    top = curvature.linear_regression(x, y).eigenvalues[0]
    grown = curvature.linear_regression(x, y, rate=2.1 / top, steps=30)
    assert grown.loss[-1] > grown.loss[0]


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([1.0], [1.0], {}, "inputs are (N, n) and targets (N,), got (1,) and (1,)"),
        ([[1.0, 2.0]], [1.0], {}, "1 samples do not determine 2 weights"),
        ([[math.nan]], [1.0], {}, "inputs and targets must be finite"),
        (
            [[1.0, 1.0], [2.0, 2.0]],
            [1.0, 1.0],
            {},
            "the inputs have rank 1 of 2: a direction without curvature has no minimum; leave out "
            "constant or repeated columns",
        ),
        ([[1.0]], [1.0], {"rate": -1.0}, "rate and steps are positive, got rate=-1.0, steps=50"),
    ],
    ids=range(5),
)
def test_a_regression_that_cannot_be_run(x, y, options, message):
    with refusal(BadInput, message):
        curvature.linear_regression(x, y, **options)
