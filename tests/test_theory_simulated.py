"""The recursions against networks of plain numpy: wide layers, many seeds, nothing of sigprop.

Tolerance: 5 standard errors over seeds (some 2000 correlated comparisons of a Student t with 23
degrees: 4 would fail by chance once in a few runs of the file) + ``BIAS`` for the width's 1/n.
"""

import math

import numpy as np
import pytest

from sigprop import theory
from sigprop.theory import Block, Branch, Kernel

WIDTH, SAMPLES, SEEDS = 192, 24, 24
BIAS = 0.02  # finite width: a few times 1/192


def relu(x):
    return np.maximum(x, 0)


class Act:
    def __init__(self, f=relu, slope=lambda x: (x > 0).astype(float)):
        self.f, self.slope = f, slope

    def forward(self, x, rng):
        self.x = x
        return self.f(x)

    def backward(self, g):
        return g * self.slope(self.x)


class Weight:
    def __init__(self, gain_squared, standardize=False):
        self.g2, self.standardize = gain_squared, standardize

    def forward(self, x, rng):
        n = x.shape[1]
        w = rng.standard_normal((n, n))
        if self.standardize:
            w = w - w.mean(axis=1, keepdims=True)
            w = w / w.std(axis=1, keepdims=True)
        self.w = w * math.sqrt(self.g2 / n)
        return x @ self.w.T

    def backward(self, g):
        return g @ self.w


class Center:
    """A bias that is minus the batch mean, a constant for the gradient."""

    def forward(self, x, rng):
        return x - x.mean(axis=0)

    def backward(self, g):
        return g


class BatchNorm:
    def forward(self, x, rng):
        self.sigma = x.std(axis=0)
        self.y = (x - x.mean(axis=0)) / self.sigma
        return self.y

    def backward(self, g):
        y = self.y
        return (g - g.mean(axis=0) - y * (g * y).mean(axis=0)) / self.sigma


class LayerNorm:
    def forward(self, x, rng):
        self.sigma = x.std(axis=1, keepdims=True)
        self.y = (x - x.mean(axis=1, keepdims=True)) / self.sigma
        return self.y

    def backward(self, g):
        y = self.y
        centered = g - g.mean(axis=1, keepdims=True)
        return (centered - y * (g * y).mean(axis=1, keepdims=True)) / self.sigma


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def forward(self, x, rng):
        return self.factor * x

    def backward(self, g):
        return self.factor * g


def statistics(x):
    second = float(np.mean(x**2))
    variance = float(np.mean(x.var(axis=0)))
    return second, variance, float(np.mean(x.mean(axis=0) ** 2))


def simulate(blocks, centered_start=False, samples=SAMPLES, width=WIDTH, seeds=SEEDS):
    """Run x -> a S(x) + b F(x); blocks are (make_branch, a, b, make_shortcut).

    Returns arrays (seeds, L + 1, 4): second moment, channel variance, mean shift, gradient.
    """
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 77])
        x = rng.standard_normal((samples, width))
        if centered_start:
            x = x - x.mean(axis=0)
        trunk, ran = [x], []
        for make, a, b, shortcut in blocks:
            branch, side = make(), shortcut() if shortcut else []
            h = s = x
            for op in branch:
                h = op.forward(h, rng)
            for op in side:
                s = op.forward(s, rng)
            x = a * s + b * h
            trunk.append(x)
            ran.append((branch, side, a, b))
        g = rng.standard_normal(x.shape)
        gradients = [float(np.mean(g**2))]
        for branch, side, a, b in reversed(ran):
            h, s = b * g, a * g
            for op in reversed(branch):
                h = op.backward(h)
            for op in reversed(side):
                s = op.backward(s)
            g = s + h
            gradients.append(float(np.mean(g**2)))
        moments = np.array([statistics(x) for x in trunk])
        relative = np.array(gradients[::-1]) / gradients[0]
        found.append(np.column_stack([moments, relative]))
    return np.array(found)


def disagreement(found, prediction, bias=BIAS):
    """The largest deviation over blocks and columns, in units of what is allowed."""
    columns = [
        prediction.second_moment,
        prediction.channel_variance,
        prediction.mean_shift,
        prediction.gradient_second_moment,
    ]
    expected = np.stack(columns, axis=1)
    error = found.std(axis=0, ddof=1) / math.sqrt(len(found))
    size = np.maximum(np.abs(expected), 0.05 * expected[:, :1])  # small shifts: of the whole
    return np.max(np.abs(found.mean(axis=0) - expected) / (5 * error + bias * size), axis=0)


def agrees(found, prediction, bias=BIAS):
    return bool(np.all(disagreement(found, prediction, bias) <= 1))


def stack(make, a, b):
    return [(make, float(x), float(y), None) for x, y in zip(a, b, strict=True)]


def batch(samples=SAMPLES):
    return Kernel(samples=samples)


def relu_branch(layers, first="act", centered=False, gain_squared=2.0):
    def make():
        center = [Center] if centered else []
        ops = []
        for _ in range(layers):
            ops += [Act(), *(c() for c in center), Weight(gain_squared)]
        return ops if first == "act" else ops[1:]

    return make


@pytest.mark.parametrize("layers", [1, 2])
def test_plain_relu_stack(layers):
    depth = 6
    found = simulate(stack(relu_branch(layers), np.ones(depth), np.ones(depth)), seeds=40)
    prediction = theory.predict("plain", depth, layers=layers, start=batch())
    assert agrees(found, prediction), disagreement(found, prediction)
    assert prediction.second_moment == pytest.approx(2.0 ** np.arange(depth + 1))


def test_plain_linear_stack_doubles():
    depth = 6
    found = simulate(stack(lambda: [Weight(1.0), Weight(1.0)], np.ones(depth), np.ones(depth)))
    prediction = theory.predict("plain", depth, activation="identity", start=batch())
    assert agrees(found, prediction, 0.04), disagreement(found, prediction, 0.04)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("c", [2.0, 10.0])
def test_rescale_he_uncentered(layers, c):
    depth = 10
    made = theory.coefficients(depth, c)
    found = simulate(stack(relu_branch(layers), made.alpha, made.beta))
    prediction = theory.predict("rescale", depth, c=c, layers=layers, start=batch())
    assert agrees(found, prediction), disagreement(found, prediction)


@pytest.mark.parametrize("init", ["centered_he", "centered_preserving"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("stem", [True, False])
def test_rescale_centered(init, layers, stem):
    depth = 8
    g2 = 2.0 if init == "centered_he" else 2 / (1 - 1 / math.pi)
    made = theory.coefficients(depth)
    found = simulate(
        stack(relu_branch(layers, centered=True, gain_squared=g2), made.alpha, made.beta),
        centered_start=stem,
    )
    start = batch().centered() if stem else batch()
    prediction = theory.predict("rescale", depth, init=init, layers=layers, start=start)
    assert agrees(found, prediction), disagreement(found, prediction)
    if stem:
        assert np.abs(found[:, :, 2]).max() < 1e-28  # exactly no batch mean anywhere
        assert np.abs(prediction.mean_shift).max() < 1e-15


def test_rescale_with_correlated_inputs_needs_the_correlation():
    depth, shared = 6, 0.4
    rng = np.random.default_rng(5)
    rows = []
    for _ in range(24):
        common = rng.standard_normal((1, WIDTH))
        own = rng.standard_normal((SAMPLES, WIDTH))
        x = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
        trunk = [statistics(x)]
        made = theory.coefficients(depth)
        for a, b in zip(made.alpha, made.beta, strict=True):
            h = x
            for _ in range(2):
                h = relu(h)
                h = h - h.mean(axis=0)
                w = rng.standard_normal((WIDTH, WIDTH))
                h = h @ w.T * math.sqrt(2 / (1 - 1 / math.pi) / WIDTH)
            x = a * x + b * h
            trunk.append(statistics(x))
        rows.append(trunk)
    found = np.array(rows)
    start = Kernel(1.0, shared, samples=SAMPLES)
    right = theory.predict("rescale", depth, init="centered_preserving", start=start)
    wrong = theory.predict("rescale", depth, init="centered_preserving", start=batch())
    mean, error = found.mean(axis=0), found.std(axis=0) / math.sqrt(len(found))
    expected = np.stack([right.second_moment, right.channel_variance, right.mean_shift], axis=1)
    assert np.all(np.abs(mean - expected) < 4 * error + BIAS)
    assert np.any(np.abs(mean[:, 1] - wrong.channel_variance) > 4 * error[:, 1] + BIAS)


def test_a_centered_branch_shrinks_the_mean_shift_by_alpha_squared():
    start = Kernel(1.0, 0.3)
    prediction = theory.predict("rescale", 12, init="centered_he", start=start)
    ratios = prediction.mean_shift[1:] / prediction.mean_shift[:-1]
    assert ratios == pytest.approx(theory.coefficients(12).alpha ** 2, rel=1e-12)
    assert prediction.branch_mean_shift[1:] == pytest.approx(0, abs=1e-15)


def test_a_weight_first_branch():
    depth = 5
    make = relu_branch(3, first="weight")
    found = simulate(stack(make, np.ones(depth), 0.5 * np.ones(depth)))
    branch = theory.weight_branch(3, first="weight")
    prediction = theory.recursion([Block(branch, 1.0, 0.5)] * depth, batch())
    assert agrees(found, prediction), disagreement(found, prediction)
    assert prediction.branch_second_moment[1] == pytest.approx(2.0)  # a gain without its ReLU


def test_three_convolution_branch_of_a_centered_he_net():
    ops = ("center", "weight", "act", "center", "weight", "act", "center", "weight")
    out = Branch(ops, "relu", 2.0).forward(Kernel())[-1]
    assert out.channel_variance == pytest.approx(2**3 * ((1 - 1 / math.pi) / 2) ** 2, rel=1e-12)
    assert out.channel_variance == pytest.approx(0.9294, abs=5e-5)

    def make():
        gained = [Center(), Weight(2.0)]
        for _ in range(2):
            gained += [Act(), Center(), Weight(2.0)]
        return gained

    found = simulate([(make, 0.0, 1.0, None)], samples=96, seeds=40)
    prediction = theory.recursion([Block(Branch(ops), 0.0)], batch(96))
    assert agrees(found, prediction), disagreement(found, prediction)


NORMED = {
    "norm-act-weight": lambda norm: [norm(), Act(), Weight(2.0)],
    "act-norm-weight": lambda norm: [Act(), norm(), Weight(1.0)],
    "act-weight-norm": lambda norm: [Act(), Weight(1.0), norm()],
    "weight-norm-act": lambda norm: [Weight(1.0), norm(), Act()],
}


@pytest.mark.parametrize("order", NORMED)
def test_batchnorm_resnets(order):
    depth, samples = 8, 256  # a large batch: the gradient's 1/N terms are not in the theory
    make = NORMED[order]
    found = simulate(
        stack(lambda: make(BatchNorm), np.ones(depth), np.ones(depth)),
        samples=samples,
        seeds=6,
    )
    prediction = theory.predict("batchnorm", depth, order=order, start=batch(samples))
    assert agrees(found, prediction, 0.04), disagreement(found, prediction, 0.04)


@pytest.mark.parametrize("order", NORMED)
def test_layernorm_resnets(order):
    depth = 8
    make = NORMED[order]
    found = simulate(stack(lambda: make(LayerNorm), np.ones(depth), np.ones(depth)))
    prediction = theory.predict("layernorm", depth, order=order, start=batch())
    assert agrees(found, prediction, 0.03), disagreement(found, prediction, 0.03)


def test_nf_resnet_with_transitions():
    stages, alpha = (2, 3), 0.5
    g2 = 2 / (1 - 1 / math.pi)
    blocks, expected = [], 1.0
    for depth in stages:
        for index in range(depth):
            beta = 1 / math.sqrt(expected)

            def branch(beta=beta):
                first = [Scale(beta), Act(), Weight(g2, True)]
                return [*first, Act(), Weight(g2, True)]

            def side(beta=beta):
                return [Scale(beta), Act(), Weight(g2, True)]

            blocks.append((branch, 1.0, alpha, side if index == 0 else None))
            expected = (1.0 if index == 0 else expected) + alpha**2
    found = simulate(blocks, seeds=30)
    prediction = theory.predict("nf", stages, alpha=alpha, start=batch())
    assert agrees(found, prediction, 0.03), disagreement(found, prediction, 0.03)
    assert prediction.second_moment == pytest.approx([1, 1.25, 1.5, 1.25, 1.5, 1.75])
    assert prediction.mean_shift == pytest.approx(prediction.second_moment / SAMPLES)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_scaled_weight_norm(power):
    blocks = 10
    scale = blocks**-power
    found = simulate(stack(relu_branch(1), np.ones(blocks), scale * np.ones(blocks)), seeds=30)
    prediction = theory.predict("weightnorm", blocks, power=power, layers=1, start=batch())
    assert agrees(found, prediction), disagreement(found, prediction)


def test_he_mlp_and_its_mean_shift():
    depth = 10
    make = relu_branch(1)
    found = simulate([(make, 0.0, 1.0, None)] * depth, seeds=60)
    prediction = theory.predict("mlp", depth, start=batch())
    share = found[:, :, 2].mean(axis=0) / found[:, :, 0].mean(axis=0)
    c = theory.iterate_correlation(depth)
    # a ratio of means over 60 seeds; per-seed spread of the share is about .05
    assert share == pytest.approx(c + (1 - c) / SAMPLES, abs=0.03)
    assert prediction.mean_shift == pytest.approx(c + (1 - c) / SAMPLES)
    forward = disagreement(found, prediction, 0.05)
    assert np.all(forward <= 1), forward


def test_centered_he_mlp_loses_a_third_per_layer():
    depth, samples = 6, 128
    found = simulate(
        [(relu_branch(1, centered=True), 0.0, 1.0, None)] * depth, samples=samples, seeds=12
    )
    prediction = theory.predict("mlp", depth, centering="batch", start=batch(samples))
    assert agrees(found, prediction, 0.03), disagreement(found, prediction, 0.03)
    population = theory.predict("mlp", depth, centering="batch").second_moment
    assert population == pytest.approx((1 - 1 / math.pi) ** np.arange(depth + 1))


def test_batchnorm_mlp_gradient_explosion():
    depth, samples = 8, 512

    def make():
        return [BatchNorm(), Act(), Weight(2.0)]

    found = simulate([(make, 0.0, 1.0, None)] * depth, samples=samples, width=256, seeds=3)
    gradient = found[:, :, 3].mean(axis=0)
    rate = (gradient[1] / gradient[6]) ** (1 / 5)
    # 5 layers, 3 seeds, B = 512: wider nets gave 1.462 ± .004; B's own bias is +1 %
    assert rate == pytest.approx(math.pi / (math.pi - 1), abs=0.06)
    prediction = theory.predict("mlp", depth, norm="batchnorm").gradient_second_moment
    assert (prediction[1] / prediction[6]) ** (1 / 5) == pytest.approx(theory.PI_CONSTANT)


def tanh_slope(x):
    return 1 - np.tanh(x) ** 2


def test_another_activation_goes_through_the_same_recursion():
    depth = 5
    g2 = theory.gain_squared("tanh")

    def make():
        return [Act(np.tanh, tanh_slope), Weight(g2), Act(np.tanh, tanh_slope), Weight(g2)]

    found = simulate(stack(make, np.ones(depth), np.ones(depth)))
    prediction = theory.predict("plain", depth, activation="tanh", start=batch())
    assert agrees(found, prediction, 0.03), disagreement(found, prediction, 0.03)


# ---- saboteurs: each of these nets breaks the law it claims, and the comparison must say so


def rescale_found(alpha_of=lambda a: a, beta_of=lambda b: b, depth=10, **branch):
    made = theory.coefficients(depth)
    make = relu_branch(2, **branch)
    return simulate(stack(make, alpha_of(made.alpha), beta_of(made.beta)))


def test_saboteur_nothing_is_wrong():
    assert agrees(rescale_found(), theory.predict("rescale", 10, start=batch()))


def test_saboteur_alpha_forgotten():
    found = rescale_found(alpha_of=np.ones_like)
    gaps = disagreement(found, theory.predict("rescale", 10, start=batch()))
    assert gaps[0] > 3
    assert gaps[3] > 3


def test_saboteur_branch_scaled_by_a_quarter_more():
    found = rescale_found(beta_of=lambda b: 1.25 * b)
    gaps = disagreement(found, theory.predict("rescale", 10, start=batch()))
    assert gaps[0] > 1.5


def test_saboteur_lecun_instead_of_he():
    found = rescale_found(gain_squared=1.0)
    gaps = disagreement(found, theory.predict("rescale", 10, start=batch()))
    assert gaps[0] > 1.5


def test_saboteur_the_population_formula_on_a_small_batch():
    samples = 8
    made = theory.coefficients(6)
    found = simulate(stack(relu_branch(2), made.alpha, made.beta), samples=samples)
    assert agrees(found, theory.predict("rescale", 6, start=batch(samples)))
    assert not agrees(found, theory.predict("rescale", 6))


def test_saboteur_second_moment_taken_for_channel_variance():
    found = rescale_found()
    prediction = theory.predict("rescale", 10, start=batch())
    measured = found[:, -1, 1].mean()
    assert abs(measured - prediction.second_moment[-1]) > 0.1
    assert measured == pytest.approx(prediction.channel_variance[-1], rel=0.05)
