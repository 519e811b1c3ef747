"""Tails, cancellation, noise and stable rates, against loops and against closed forms."""

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
from scipy import stats
from torch import nn

from sigprop import gradients
from sigprop.errors import BadInput
from sigprop.gradients.distribution import hill, kurtosis
from sigprop.inputs.devices import normal

# --- cancellation: every part of the sum by itself, in a loop over samples and positions ---------

LAYERS: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3},
    "padded, strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "same": {"kernel_size": (3, 5), "padding": "same"},
}


@pytest.mark.parametrize("name", LAYERS)
def test_parts_of_a_kernels_gradient_add_up_to_it(name):
    layer = nn.Conv2d(4, 6, **LAYERS[name])
    net = nn.Sequential(layer, nn.Tanh()).double()
    x = normal((3, 4, 7, 7), 0).double()
    weights = normal(tuple(net(x).shape), 1).double()

    def loss(out, w):
        return (out * w).sum()

    found = gradients.cancellation(net, loss, (x, weights)).iloc[0]
    parts = []
    for sample in range(3):  # one gradient per sample and position of the output
        out = layer(x[sample : sample + 1])
        slope = (1 - torch.tanh(out) ** 2) * weights[sample]
        for row in range(out.shape[2]):
            for column in range(out.shape[3]):
                alone = torch.zeros_like(slope)
                alone[..., row, column] = slope[..., row, column].detach()
                (part,) = torch.autograd.grad(out, layer.weight, alone, retain_graph=True)
                parts.append(part)
    stacked = torch.stack(parts)
    magnitudes, total = float(stacked.abs().sum()), float(stacked.sum(dim=0).abs().sum())
    assert found["sum_of_magnitudes"] == pytest.approx(magnitudes, rel=1e-10)
    assert found["magnitude_of_sum"] == pytest.approx(total, rel=1e-10)
    assert found["ratio"] == pytest.approx(magnitudes / total, rel=1e-10)


def test_an_activation_in_place_does_not_change_what_is_read():
    torch.manual_seed(0)
    there = nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)).double()
    elsewhere = nn.Sequential(there[0], nn.ReLU(), there[2])
    one, two = (gradients.cancellation(net, cross_entropy, labeled()) for net in (there, elsewhere))
    np.testing.assert_array_equal(one["ratio"], two["ratio"])


def test_a_layer_that_is_called_twice_counts_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 5, bias=False)

        def forward(self, x):
            return self.layer(torch.tanh(self.layer(x)))

    net = Twice().double()
    x = labeled()[0]
    found = gradients.cancellation(net, quadratic_loss, (x, x))
    (slope,) = torch.autograd.grad(quadratic_loss(net(x), x), net.layer.weight)
    assert found["magnitude_of_sum"].tolist() == [pytest.approx(float(slope.abs().sum()))]


def test_the_gradient_by_channel_and_position_is_that_at_the_output():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh()).double()
    x, weights = normal((4, 2, 5, 5), 0).double(), normal((4, 3, 3, 3), 1).double()
    found = gradients.by_channel_and_position(
        net, lambda out, w: (out * w).sum(), (x, weights), "0"
    )
    slope = (1 - net(x).detach() ** 2) * weights
    np.testing.assert_allclose(found["mean"], slope.mean(dim=0).reshape(-1), rtol=1e-12)
    row = found.query("channel == 2 and row == 0 and column == 1").iloc[0]
    expected = float(slope[:, 2, 0, 1].abs().mean())
    assert row["mean_magnitude"] == pytest.approx(expected, rel=1e-12)
    with refusal(BadInput, "no convolution or linear layer called '1' takes part; known: 0"):
        gradients.by_channel_and_position(net, lambda out, w: (out * w).sum(), (x, weights), "1")


def test_a_model_without_layers_of_that_kind():
    with refusal(
        BadInput, "this model calls no nn.Conv2d and no nn.Linear that receives a gradient"
    ):
        gradients.cancellation(quadratic()[0], as_loss, NOTHING)


# --- tails ---------------------------------------------------------------------------------------


def test_kurtosis_and_hill_of_known_distributions():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(4000)
    assert kurtosis(x) == pytest.approx(stats.kurtosis(x, fisher=False), rel=1e-12)
    pareto = rng.pareto(2.5, 200_000) + 1
    assert hill(pareto, 0.01) == pytest.approx(2.5, abs=4 * 2.5 / math.sqrt(2000))
    assert hill(x, 0.01) > 5  # a Gaussian has no power law
    assert math.isnan(kurtosis(np.ones(5)))
    assert math.isnan(hill(np.ones(100)))


def test_tails_and_histograms_are_of_the_gradient():
    net, batch = tanh_net(), labeled()
    grads = torch.autograd.grad(cross_entropy(net(batch[0]), batch[1]), list(net.parameters()))
    with torch.no_grad():
        found = gradients.histogram(net, cross_entropy, batch, bins=10)
    weight = found[found["name"] == "3.weight"]
    edges = [*weight["low"], float(weight["high"].iloc[-1])]
    expected, _ = np.histogram(grads[2].numpy().reshape(-1), edges)
    assert weight["count"].tolist() == expected.tolist()
    wide = nn.Linear(5, 30, bias=False).double()
    (g,) = torch.autograd.grad(cross_entropy(wide(batch[0]), batch[1]), wide.weight)
    row = gradients.tails(wide, cross_entropy, batch).iloc[0]
    assert (row["name"], row["count"]) == ("weight", 150)
    assert row["norm"] == pytest.approx(float(g.norm()))
    largest = float(g.abs().max() / g.square().mean().sqrt())
    assert row["largest"] == pytest.approx(largest)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda net, loss, batch: gradients.tails(net, loss, batch, share=1.0),
            "share is between 0 and 1, not 1.0",
        ),
        (
            lambda net, loss, batch: gradients.histogram(net, loss, batch, bins=1),
            "bins is a whole number of at least 2, not 1",
        ),
        (
            lambda net, loss, batch: gradients.noise(net, loss, batch, size=25),
            "a minibatch has 1 to 24 samples and there are at least 2 draws, got size=25, "
            "draws=1000",
        ),
        (
            lambda net, loss, batch: gradients.largest_stable_rate(net, loss, []),
            "give at least one batch, a positive guess and a precision between 0 and 1, got 0 "
            "batches, guess=0.1, precision=0.1",
        ),
    ],
    ids=range(4),
)
def test_arguments_out_of_range(call, message):
    with refusal(BadInput, message):
        call(tanh_net(), cross_entropy, labeled())


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("replace", [True, False])
def test_noise_is_as_predicted_within_four_standard_errors(replace):
    net, batch = tanh_net(), labeled()
    found = gradients.noise(
        net, cross_entropy, batch, rate=0.3, size=6, replace=replace, draws=4000
    )
    each = []
    for i in range(24):
        loss = cross_entropy(net(batch[0][i : i + 1]), batch[1][i : i + 1])
        grads = torch.autograd.grad(loss, list(net.parameters()))
        each.append(torch.cat([g.reshape(-1) for g in grads]))
    stacked = torch.stack(each)
    spread = float((stacked - stacked.mean(dim=0)).square().sum(dim=1).mean())
    assert found.per_sample == pytest.approx(spread, rel=1e-10)
    factor = 1.0 if replace else 18 / 23
    assert found.predicted == pytest.approx(0.09 * spread / 6 * factor, rel=1e-10)
    assert abs(found.measured - found.predicted) < 4 * found.error
    wrong = found.predicted * (18 / 23 if replace else 23 / 18)  # the other way of drawing
    assert abs(found.measured - wrong) > 4 * found.error


def test_samples_that_a_model_couples_have_no_gradient_of_their_own():
    net = tanh_net(norm=True)
    with pytest.raises(BadInput, match="the samples have no gradients of their own"):
        gradients.noise(net, cross_entropy, labeled())
    images = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    batch = normal((6, 1, 2, 2), 0), torch.arange(6) % 3
    with refusal(
        BadInput,
        "the samples have no gradients of their own: they do not average to that of the batch. A "
        "model that couples them (batch normalization) is given in evaluation mode; the loss is a "
        "mean over samples",
    ):
        gradients.noise(images, cross_entropy, batch)
    assert gradients.noise(images.eval(), cross_entropy, batch, draws=2).per_sample > 0


# --- stable rates --------------------------------------------------------------------------------


def parabola(curve):
    one = torch.ones(1, dtype=torch.float64)
    return Quadratic(torch.diag(one * curve), 0 * one, one)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_largest_stable_rate_of_a_parabola(momentum):
    """(2 + 2 beta)/curve; 200 steps see a growth of 1.2 % a step as tenfold."""
    found = gradients.largest_stable_rate(
        parabola(5.0), as_loss, [NOTHING] * 200, momentum=momentum, precision=0.01
    )
    assert found == pytest.approx((2 + 2 * momentum) / 5, rel=0.02)


def test_a_loss_that_never_diverges_and_one_that_always_does():
    assert gradients.largest_stable_rate(parabola(0.0), as_loss, [NOTHING]) == math.inf


def test_relative_loss_along_the_gradient():
    found = gradients.relative_loss(parabola(2.0), as_loss, NOTHING, [0.25, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(found["relative_loss"], [0.25, 0, 1, 9], atol=1e-14)


def test_activations_are_recorded_until_the_loss_diverges():
    net, batch = tanh_net(double=False), labeled(double=False)
    records = gradients.activations_until_divergence(
        net, lambda out, y: (out**2).mean(), [batch] * 40, rate=20.0, blocks="leaves"
    )
    losses = records.training["loss"].to_numpy()
    assert len(losses) < 40
    assert not losses[-1] <= 10 * losses[0]
    assert set(records.signals["step"]) == set(range(len(losses)))
    calm = gradients.activations_until_divergence(
        net, lambda out, y: (out**2).mean(), [batch] * 3, rate=1e-3, blocks="leaves"
    )
    assert len(calm.training) == 3
