"""Dead units, the constants of the field, zero padding, and the errata."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from sigprop import theory
from sigprop.errors import BadInput
from sigprop.theory import ERRATA

# ---- dead units


@pytest.mark.parametrize(("layer", "dead"), [(5, 0.043), (10, 0.146), (20, 0.266), (50, 0.385)])
def test_dead_fractions_of_a_he_net(layer, dead):
    assert theory.he_dead_fraction(layer, 128) == pytest.approx(dead, abs=5e-4)


@pytest.mark.parametrize("c", [0.05, 0.5, 0.95, 0.9999, 1 - 1e-8])
@pytest.mark.parametrize("samples", [1, 7, 128, 100_000])
def test_dead_fraction_against_an_adaptive_integrator(c, samples):
    slope = math.sqrt(c / (1 - c))

    def integrand(t):
        return stats.norm.pdf(t) * math.exp(samples * special.log_ndtr(-t * slope))

    turn = special.ndtri(0.5 ** (1 / samples)) / -slope
    edges = [-12.0, *(turn + side / slope for side in (-6, -2, 0, 2, 6)), 12.0]
    total = sum(
        integrate.quad(integrand, low, high, epsabs=1e-14)[0]
        for low, high in itertools.pairwise(edges)
        if low < high
    )
    assert theory.dead_fraction(c, samples) == pytest.approx(total, abs=1e-9)


def test_limits_of_the_dead_fraction():
    assert theory.dead_fraction(0.0, 3) == 0.125
    assert theory.dead_fraction(1.0, 10**9) == 0.5
    assert theory.dead_fraction(0.7, 1) == pytest.approx(0.5)
    assert theory.dead_fraction(0.7, math.inf) == 0.0
    for c in (0.1, 0.6, 0.99):
        both = 0.25 + math.asin(c) / (2 * math.pi)
        assert theory.dead_fraction(c, 2) == pytest.approx(both, abs=1e-11)
        # three equicorrelated normals: 1/8 + 3 asin(c) / 4 pi
        three = 0.125 + 3 * math.asin(c) / (4 * math.pi)
        assert theory.dead_fraction(c, 3) == pytest.approx(three, abs=1e-11)


def test_more_samples_wake_units_and_depth_kills_them():
    by_samples = [theory.he_dead_fraction(10, n) for n in (1, 8, 64, 512, 4096)]
    by_depth = [theory.he_dead_fraction(layer, 64) for layer in (1, 2, 5, 20, 100)]
    assert np.all(np.diff(by_samples) < 0)
    assert np.all(np.diff(by_depth) > 0)
    assert by_depth[0] == pytest.approx(2.0**-64)
    assert by_samples[0] == pytest.approx(0.5)
    assert max(by_depth) < 0.5


def test_dead_units_of_simulated_he_nets():
    n, samples, seeds = 256, 32, 20
    found: dict[int, list[float]] = {3: [], 6: [], 10: []}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        h = rng.standard_normal((samples, n))
        for layer in range(1, 11):
            pre = h @ rng.standard_normal((n, n)) * math.sqrt(2 / n)
            if layer in found:
                found[layer].append(float(np.mean(np.all(pre <= 0, axis=0))))
            h = np.maximum(pre, 0)
    for layer, dead in found.items():
        error = np.std(dead) / math.sqrt(seeds)
        law = theory.he_dead_fraction(layer, samples)
        assert abs(np.mean(dead) - law) < 4 * error + 0.02 * law + 1e-3, layer


def test_a_centered_net_has_no_dead_unit_on_its_own_batch():
    rng = np.random.default_rng(4)
    n, samples = 128, 32
    h = rng.standard_normal((samples, n))
    for _ in range(10):
        pre = (h - h.mean(axis=0)) @ rng.standard_normal((n, n)) * math.sqrt(2.9339 / n)
        assert np.abs(pre.mean(axis=0)).max() < 1e-12
        assert not np.any(np.all(pre <= 0, axis=0))
        h = np.maximum(pre, 0)


def test_saboteur_the_wrong_index_of_c_is_noticed():
    """With c after l maps in place of l - 1 the number at l = 5 is a third too large."""
    c = theory.iterate_correlation(5)
    right, wrong = theory.dead_fraction(c[4], 128), theory.dead_fraction(c[5], 128)
    assert right == pytest.approx(0.043, abs=5e-4)
    assert wrong > 1.3 * right


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.dead_fraction(-0.1, 5), "correlation must lie in [0, 1]; got -0.1"),
        (lambda: theory.dead_fraction(0.1, 0), "samples must be at least 1 (or infinite); got 0"),
        (
            lambda: theory.he_dead_fraction(0, 5),
            "layer must be a whole number of at least 1; got 0",
        ),
        (lambda: theory.padding_factor(8, 2), "kernel must be odd to keep the size; got 2"),
        (
            lambda: theory.block_share(0),
            "block must be a whole number of at least 1; got 0",
        ),
        (
            lambda: theory.sgd_noise(1.0, 1.0, 0),
            "batch must be a whole number of at least 1; got 0",
        ),
        (
            lambda: theory.sgd_noise(1.0, 1.0, 8, 7),
            "population must be a whole number of at least 8; got 7",
        ),
        (lambda: theory.nf_growth((1,), -1.0), "alpha must not be below 0; got -1.0"),
    ],
)
def test_bad_input_says_what_was_asked(call, message):
    with pytest.raises(BadInput) as caught:
        call()
    assert str(caught.value) == message


# ---- constants


@pytest.mark.parametrize(
    ("constant", "expected", "printed"),
    [
        (theory.PI_CONSTANT, math.pi / (math.pi - 1), 1.466942),
        (theory.CENTERED_RELU, 1 / theory.PI_CONSTANT, 0.681690),
        (theory.NORMPROP_JACOBIAN, math.sqrt(theory.PI_CONSTANT), 1.211174),
        (theory.NORMPROP_MEAN, theory.mean("relu", method="quadrature"), 0.398942),
        (theory.NORMPROP_STD, 1 / theory.gamma("relu", method="quadrature"), 0.583819),
    ],
)
def test_the_constants_of_the_field(constant, expected, printed):
    assert constant == pytest.approx(expected, rel=1e-12)
    assert constant == pytest.approx(printed, abs=5e-7)


def test_batchnorm_gradient_factors():
    assert theory.batchnorm_gradient_factor("relu") == pytest.approx(theory.PI_CONSTANT)
    assert theory.batchnorm_gradient_factor("identity") == pytest.approx(1)
    # a measurement gave 1.186 at B = 512 for tanh; the limit of a large batch lies just below
    assert theory.batchnorm_gradient_factor("tanh") == pytest.approx(1.1778, abs=5e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_batchnorm_gradient_factor_is_the_recursions_rate(activation):
    made = theory.predict("mlp", 6, norm="batchnorm", activation=activation)
    ratio = made.gradient_second_moment[:-1] / made.gradient_second_moment[1:]
    assert ratio[1:-1] == pytest.approx(theory.batchnorm_gradient_factor(activation), rel=1e-9)


def test_block_shares_of_a_batchnorm_resnet():
    growth = theory.batchnorm_growth(5).second_moment
    for block in range(1, 6):
        assert theory.block_share(block) == pytest.approx(1 / growth[block])


# ---- zero padding


@pytest.mark.parametrize("size", [1, 2, 4, 7, 16])
def test_one_padded_convolution(size):
    expected = (3 * size - 2) / (3 * size)
    assert theory.padding_factor(size, dims=1) == pytest.approx(expected)
    assert theory.padding_factor(size) == pytest.approx(expected**2)


def test_padding_of_large_maps_and_pointwise_kernels_vanishes():
    assert theory.padding_factor(8, 1, 5) == 1
    assert theory.padding_factor(4096) == pytest.approx(1, abs=1e-3)
    factors = [theory.padding_factor(8, 3, layers) for layers in (1, 2, 3, 4)]
    assert np.all(np.diff(factors) < 0)


@pytest.mark.parametrize("layers", [1, 2])
def test_simulated_padded_convolutions(layers):
    """White maps through He convolutions written as explicit sums over taps."""
    size, channels, seeds = 4, 48, 12
    ratios = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((8, channels, size, size))
        for _ in range(layers):
            h = np.maximum(x, 0)
            padded = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
            w = rng.standard_normal((channels, channels, 3, 3)) * math.sqrt(2 / (9 * channels))
            x = np.zeros_like(h)
            for i in range(3):
                for j in range(3):
                    part = padded[:, :, i : i + size, j : j + size]
                    x += np.einsum("oc,bcij->boij", w[:, :, i, j], part)
        ratios.append(np.mean(x**2))
    error = np.std(ratios) / math.sqrt(seeds)
    law = theory.padding_factor(size, 3, layers)
    assert abs(np.mean(ratios) - law) < 4 * error + 0.02
    assert law < 0.75


# ---- errata


def test_every_erratum_is_there():
    assert list(ERRATA) == ["S1", "S2", "S3", "S4", "S5", "S6", "T1"]
    for erratum in ERRATA.values():
        assert erratum.wrong != erratum.right
        assert erratum.source


@pytest.mark.parametrize("key", ["S1", "S2", "S3", "S5", "T1"])
def test_the_printed_formula_differs_from_the_right_one(key):
    values = ERRATA[key].values()
    assert values is not None
    wrong, right = values
    assert abs(wrong / right - 1) > 0.01


@pytest.mark.parametrize("key", ["S4", "S6"])
def test_errata_in_words_have_no_numbers(key):
    assert ERRATA[key].values() is None


def formulas(key):
    """Return the printed and the right formula of a misprint that has both."""
    erratum = ERRATA[key]
    assert erratum.wrong_value is not None
    assert erratum.right_value is not None
    return erratum.wrong_value, erratum.right_value


def test_s1_by_simulation():
    """torch's default Linear(30, 20): entries uniform in ±1/sqrt(30), so |v| is about 1/sqrt(3)."""
    rng = np.random.default_rng(0)
    v = rng.uniform(-1, 1, (20, 30)) / math.sqrt(30)
    t = rng.standard_normal((5000, 30)) @ v.T
    norm = np.linalg.norm(v, axis=1)
    wrong_value, right_value = formulas("S1")
    for i in range(20):
        response = t[:, i].std()
        printed = (t[:, i] * (math.sqrt(norm[i]) / response) / norm[i]).std()
        right = (t[:, i] * (norm[i] / response) / norm[i]).std()
        assert printed == pytest.approx(wrong_value(norm[i], response))
        assert right == pytest.approx(right_value(norm[i], response))
        assert right == pytest.approx(1)
    assert 1.28 < np.mean(norm**-0.5) < 1.36


def test_s3_by_a_step_on_the_sphere():
    """One gradient step of a scale-invariant loss moves w/|w| by eta g/|w|^2, g on the sphere."""
    rng = np.random.default_rng(0)
    target, w = rng.standard_normal((2, 10))
    w = 5 * w / np.linalg.norm(w)
    eta, norm = 1e-5, 5.0
    direction = w / norm
    tangent = target - (target @ direction) * direction
    stepped = w - eta * tangent / norm  # the gradient of target . w/|w|
    moved = np.linalg.norm(stepped / np.linalg.norm(stepped) - direction)
    wrong_value, right_value = formulas("S3")
    assert moved == pytest.approx(right_value(eta, norm) * np.linalg.norm(tangent))
    assert moved != pytest.approx(wrong_value(eta, norm) * np.linalg.norm(tangent))


def test_s4_by_example():
    rng = np.random.default_rng(0)
    w, x, shift = rng.standard_normal((6, 5)), rng.standard_normal(5), rng.standard_normal(5)

    def norm(a):
        return (a - a.mean()) / a.std()

    assert np.allclose(norm((w + shift) @ x), norm(w @ x))  # the same row added to all rows
    assert np.abs(norm(w @ (x + shift)) - norm(w @ x)).max() > 0.1


def test_s5_small_gradients_are_left_alone():
    _, right = formulas("S5")
    assert right(2.0, 0.001, 0.01, 1e-3) == 0.001
    assert right(0.0, 1.0, 0.01, 1e-3) == pytest.approx(1e-5)
    assert right(2.0, 5.0, 0.01, 1e-3) == pytest.approx(0.02)


def test_s6_noise_is_an_equality():
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((64, 3))
    mean = gradients.mean(axis=0)
    spread = np.mean(np.sum((gradients - mean) ** 2, axis=1))
    for replace in (True, False):
        draws = []
        for _ in range(3000):
            chosen = gradients[rng.choice(64, 16, replace=replace)]
            draws.append(np.sum((chosen.mean(axis=0) - mean) ** 2))
        law = theory.sgd_noise(0.1, spread, 16, None if replace else 64)
        error = 0.01 * np.std(draws) / math.sqrt(3000)
        assert abs(0.01 * np.mean(draws) - law) < 4 * error
    assert 64 * theory.sgd_noise(1, 1, 64, 512) == pytest.approx(0.877, abs=5e-4)


def test_t1_the_sum_is_one_only_with_the_right_exponent():
    wrong_value, right_value = formulas("T1")
    assert right_value(4.0, 8.0, 8.0, 2.0) == pytest.approx(1)
    assert wrong_value(4.0, 8.0, 8.0, 3.0) == pytest.approx(1)
    assert wrong_value(4.0, 8.0, 8.0, 2.0) > 1.01


def test_an_infinite_population_leaves_only_units_that_correlate_perfectly_dead():
    assert theory.dead_fraction(0.999, math.inf) == 0.0
    assert theory.dead_fraction(0.0, math.inf) == 0.0
    assert theory.dead_fraction(1.0, math.inf) == 0.5
