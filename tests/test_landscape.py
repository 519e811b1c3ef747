"""The loss along the gradient where it is known: a quadratic, and hand-made steps."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from instrument_cases import NOTHING, as_loss, cross_entropy, labeled, quadratic, tanh_net
from messages import refusal
from torch import nn

from sigprop import landscape
from sigprop.errors import BadInput
from sigprop.experiments.observed import observe
from sigprop.experiments.training import Plan


def test_on_a_quadratic_everything_is_known():
    model, matrix = quadratic()
    w = model.w.detach()
    slope = model.slope
    assert isinstance(slope, torch.Tensor)
    g = matrix @ w + slope
    etas = [0.0, 0.01, 0.1, 0.4]
    found = landscape.scan(model, as_loss, NOTHING, etas)
    at = [w - eta * g for eta in etas]
    losses = [float(0.5 * v @ matrix @ v + slope @ v) for v in at]
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-12)
    beta = float((matrix @ g).norm() / g.norm())
    np.testing.assert_allclose(found["effective_smoothness"][1:], beta, rtol=1e-10)
    change = np.array(etas) * float((matrix @ g).norm())
    np.testing.assert_allclose(found["gradient_change"], change, rtol=1e-10, atol=1e-12)
    assert math.isnan(found["effective_smoothness"][0])
    band = landscape.summary(found).iloc[0]
    assert band["effective_smoothness"] == pytest.approx(beta, rel=1e-10)
    assert band["lowest_loss"] == pytest.approx(min(losses), rel=1e-12)
    assert band["highest_loss"] == pytest.approx(max(losses), rel=1e-12)


def test_a_loss_that_overflows_is_infinite_in_the_band():
    found = pd.DataFrame(
        [(0.1, 1.0, 2.0, 3.0), (0.2, math.nan, math.nan, math.nan)], columns=landscape.COLUMNS
    )
    band = landscape.summary(found).iloc[0]
    assert band["highest_loss"] == math.inf == band["highest_change"]


@pytest.mark.parametrize(("etas", "found"), [([], "none"), ([0.1, -0.1], "-0.1"),
                                             ([math.nan], "nan")], ids=range(3))  # fmt: skip
def test_step_sizes_that_are_none(etas, found):
    message = f"etas are step sizes of at least 0 and finite, got {found}"
    with refusal(BadInput, message):
        landscape.scan(tanh_net(), cross_entropy, labeled(), etas)


def test_covariate_shift_against_steps_taken_by_hand():
    net, batch = tanh_net(), labeled()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    found = landscape.covariate_shift(net, cross_entropy, batch, optimizer)
    assert found["layer"].tolist() == ["0", "3", "5"]
    layers = [net[0], net[3], net[5]]
    before = _gradients(net, batch, layers)
    for index in range(3):
        moved = tanh_net()
        parts = [moved[0], moved[3], moved[5]]
        with torch.no_grad():
            for layer, slopes in zip(parts[:index], before[:index], strict=True):
                for p, slope in zip(layer.parameters(), slopes, strict=True):
                    p.sub_(0.5 * slope)
        one = torch.cat([g.reshape(-1) for g in before[index]])
        two = torch.cat([g.reshape(-1) for g in _gradients(moved, batch, parts)[index]])
        row = found.iloc[index]
        assert row["distance"] == pytest.approx(float((one - two).norm()), rel=1e-10, abs=1e-14)
        cosine = float(torch.nn.functional.cosine_similarity(one, two, dim=0))
        assert row["cosine"] == pytest.approx(cosine, rel=1e-10)
    assert found["distance"][0] == 0 < found["distance"][2]  # all layers in front, not none


def _gradients(net, batch, layers):
    loss = cross_entropy(net(batch[0]), batch[1])
    weights = [p for layer in layers for p in layer.parameters()]
    flat = iter(torch.autograd.grad(loss, weights))
    return [[next(flat) for _ in layer.parameters()] for layer in layers]


def test_layers_are_in_the_order_in_which_they_are_called():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 3), nn.Linear(5, 4)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)))

    net = Crossed().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    found = landscape.covariate_shift(net, cross_entropy, labeled(), optimizer)
    assert found["layer"].tolist() == ["first", "last"]


# --- looking at a training -----------------------------------------------------------------------


def look(model, batch, optimizer):
    steepness = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).norm()
    return pd.DataFrame({"norm": [float(steepness)], "rate": optimizer.param_groups[0]["lr"]})


def factory():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


PLAN = Plan(steps=5, learning_rate=0.1, schedule="constant")


def test_every_second_step_is_looked_at_and_the_last_one():
    found = observe({"net": factory}, "digits", look, PLAN, every=2)
    assert found["step"].tolist() == [0, 2, 4, 5]
    assert found.columns[:2].tolist() == ["network", "step"]
    assert found["norm"].is_unique


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    whole = observe({"net": factory}, "digits", look, PLAN)
    seen = 0

    def stop(*_):
        nonlocal seen
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe({"net": factory}, "digits", look, PLAN, directory=tmp_path, on_look=stop)
    looked = 0

    def count(*args):
        nonlocal looked
        looked += 1
        return look(*args)

    resumed = observe({"net": factory}, "digits", count, PLAN, directory=tmp_path, resume=True)
    pd.testing.assert_frame_equal(whole, resumed)
    assert looked == 3  # of six


def test_a_diverged_training_ends():
    plan = Plan(steps=50, learning_rate=1e38, schedule="constant")
    found = observe({"net": lambda: nn.Sequential(factory(), nn.Tanh(), nn.Linear(10, 10))},
                    "digits", look, plan)  # fmt: skip
    assert found["step"].max() < 50
