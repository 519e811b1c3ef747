"""Mean field: claim 28-30 against iteration, an adaptive integrator, and simulated nets."""

import math

import numpy as np
import pytest
from messages import refusal
from scipy import integrate

from sigprop import theory
from sigprop.errors import BadInput, UnknownName


def normal(z):
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def one(g):
    return integrate.quad(lambda z: normal(z) * g(z), -10, 10, epsabs=1e-12, limit=200)[0]


def two(g, c):
    """E g(u, v), a plain product rule of 200 Gauss-Hermite nodes each way: smooth g only."""
    z, w = np.polynomial.hermite_e.hermegauss(120)
    w = w / w.sum()
    u, e = np.meshgrid(z, z, indexing="ij")
    return float(np.sum(w[:, None] * w * g(u, c * u + math.sqrt(1 - c * c) * e)))


# (sigma_w^2, sigma_b^2) -> known values
TANH = {
    (1.0, 0.05): {"q": 0.193593, "chi1": 0.759032, "xi_c": 3.627},
    (2.5, 0.05): {"q": 1.063958, "chi1": 1.133517, "c": 0.446804, "chi_c": 0.918717},
    (4.0, 0.05): {"q": 2.195487, "c": 0.16506},
}


@pytest.mark.parametrize("point", TANH)
def test_tanh_numbers(point):
    found = theory.mean_field("tanh", *point)
    for name, value in TANH[point].items():
        tolerance = 5e-4 if name == "xi_c" else 1e-5
        assert getattr(found, name) == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize("point", TANH)
def test_fixed_points_by_iterating_an_independent_integrator(point):
    sw2, sb2 = point
    q, c = 1.0, 0.5
    for _ in range(400):
        after = sw2 * one(lambda z, q=q: math.tanh(math.sqrt(q) * z) ** 2) + sb2
        if abs(after - q) < 1e-13:
            break
        q = after
    found = theory.mean_field("tanh", sw2, sb2)
    assert found.q == pytest.approx(q, abs=1e-9)
    root = math.sqrt(q)
    for _ in range(400):
        c = (sw2 * two(lambda u, v: np.tanh(root * u) * np.tanh(root * v), c) + sb2) / q
        c = min(c, 1.0)
    assert found.c == pytest.approx(c, abs=1e-7)
    slope = sw2 * two(
        lambda u, v: (1 - np.tanh(root * u) ** 2) * (1 - np.tanh(root * v) ** 2), found.c
    )
    assert found.chi_c == pytest.approx(slope, abs=1e-7)


def test_the_slope_at_c_star_by_two_integrators():
    """At (2.5, .05) it is .918717 by two integrators; .918723 is a rounded value."""
    found = theory.mean_field("tanh", 2.5, 0.05)
    assert found.chi_c == pytest.approx(0.918723, abs=1e-5)
    assert found.chi_c != pytest.approx(0.918723, abs=3e-6)


@pytest.mark.parametrize(
    ("sb2", "sw2"), [(0.001, 1.189190), (0.01, 1.424205), (0.05, 1.760955), (0.1, 1.986073)]
)
def test_tanh_critical_line(sb2, sw2):
    found = theory.critical_weight_variance("tanh", sb2)
    assert found == pytest.approx(sw2, abs=1e-6)
    assert theory.mean_field("tanh", found, sb2).chi1 == pytest.approx(1, abs=1e-9)
    assert theory.mean_field("tanh", 0.98 * found, sb2).phase == "ordered"
    assert theory.mean_field("tanh", 1.02 * found, sb2).phase == "chaotic"


def test_variances_are_not_standard_deviations():
    """The literature mixes sigma_w and sigma_w^2: the root of the critical value is far off."""
    right = theory.critical_weight_variance("tanh", 0.05)
    assert theory.mean_field("tanh", math.sqrt(right), 0.05).chi1 < 0.9


def test_relu_is_critical_only_at_two_and_zero():
    assert theory.critical_weight_variance("relu", 0.0) == pytest.approx(2)
    with pytest.raises(BadInput) as caught:
        theory.critical_weight_variance("relu", 0.05)
    assert str(caught.value) == "'relu' is critical only at bias_variance 0; got 0.05"


def test_relu_below_criticality():
    found = theory.mean_field("relu", 1.5, 0.1)
    assert found.q == pytest.approx(0.1 / (1 - 0.75))
    assert found.chi1 == pytest.approx(0.75)
    assert found.c == 1
    assert found.xi_c == pytest.approx(-1 / math.log(0.75))
    assert found.xi_q == pytest.approx(-1 / math.log(0.75))


def test_critical_relu_has_no_single_fixed_point():
    with refusal(
        BadInput,
        (
            "every q is a fixed point of 'relu' at weight_variance 2: the "
            "signal keeps the variance it starts with"
        ),
    ):
        theory.fixed_point("relu", 2.0, 0.0)


@pytest.mark.parametrize("point", [(2.0, 0.1), (3.0, 0.0)])
def test_a_variance_that_grows_without_bound(point):
    weight_variance, bias_variance = point
    message = (
        "the variance of 'relu' grows without bound at weight_variance "
        f"{weight_variance:g}, bias_variance {bias_variance:g}; lower the weight variance"
    )
    with refusal(BadInput, message):
        theory.fixed_point("relu", *point)


def test_an_odd_saturating_net_without_bias_dies_below_its_critical_weight():
    assert theory.critical_weight_variance("tanh", 0.0) == pytest.approx(1)
    assert theory.critical_weight_variance("erf", 0.0) == pytest.approx(math.pi / 4)
    assert theory.fixed_point("tanh", 0.9, 0.0) == 0.0
    assert theory.mean_field("tanh", 0.9, 0.0).chi1 == pytest.approx(0.9)
    assert theory.mean_field("tanh", 2.0, 0.0).c == pytest.approx(0, abs=1e-12)


def test_erf_has_a_critical_line_in_closed_form():
    """With a = q: E f'^2 = (4/pi)/sqrt(1+4q), so sigma_w^2 = (pi/4) sqrt(1+4q*)."""
    sw2 = theory.critical_weight_variance("erf", 0.05)
    q = theory.fixed_point("erf", sw2, 0.05)
    assert sw2 == pytest.approx(math.pi / 4 * math.sqrt(1 + 4 * q), rel=1e-9)
    assert q == pytest.approx(sw2 * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) + 0.05)


def test_xi_q_is_the_rate_of_the_variance_map():
    for name, sw2, sb2 in (("tanh", 1.3, 0.05), ("erf", 2.0, 0.1), ("sigmoid", 3.0, 0.2)):
        found = theory.mean_field(name, sw2, sb2)
        h = 1e-5
        ahead = theory.variance_map(name, found.q + h, sw2, sb2)
        behind = theory.variance_map(name, found.q - h, sw2, sb2)
        rate = (ahead - behind) / (2 * h)
        assert found.xi_q == pytest.approx(-1 / math.log(abs(rate)), rel=1e-5)


def test_xi_c_is_the_rate_of_the_correlation_map():
    found = theory.mean_field("tanh", 2.5, 0.05)
    h = 1e-5
    step = [
        theory.layer_correlation("tanh", found.c + side * h, found.q, 2.5, 0.05) for side in (1, -1)
    ]
    assert found.chi_c == pytest.approx((step[0] - step[1]) / (2 * h), rel=1e-6)
    assert found.xi_c == pytest.approx(-1 / math.log(found.chi_c))


def test_criticality_has_infinite_depth_scale():
    sw2 = theory.critical_weight_variance("tanh", 0.05)
    found = theory.mean_field("tanh", sw2, 0.05)
    assert found.phase == "critical"
    assert found.xi_c == math.inf


# ---- claim 30: the ReLU map


def test_relu_correlations():
    found = theory.iterate_correlation(1000)
    assert found[[1, 2, 3]] == pytest.approx([0.318310, 0.493731, 0.604826], abs=5e-7)
    assert found[[10, 100]] == pytest.approx([0.871536, 0.996423], abs=5e-7)
    ratio = [(1 - found[at]) / theory.relu_correlation_gap(at) for at in (100, 1000)]
    assert ratio == pytest.approx([0.81, 0.97], abs=0.006)
    assert abs(ratio[1] - 1) < 0.04


def test_correlations_settle_at_c_star():
    found = theory.mean_field("tanh", 2.5, 0.05)
    path = theory.iterate_correlation(
        150, "tanh", start=0.9, weight_variance=2.5, bias_variance=0.05, q=found.q
    )
    assert path[-1] == pytest.approx(found.c, abs=1e-5)
    decay = (path[41] - found.c) / (path[40] - found.c)
    assert decay == pytest.approx(found.chi_c, abs=0.01)


def test_the_variance_moves_along_with_the_correlation():
    path = theory.iterate_correlation(
        3, "tanh", start=0.2, weight_variance=2.5, bias_variance=0.05, q=4.0
    )
    still = theory.layer_correlation("tanh", 0.2, 4.0, 2.5, 0.05)
    assert path[1] == pytest.approx(still)
    q = theory.variance_map("tanh", 4.0, 2.5, 0.05)
    assert path[2] == pytest.approx(theory.layer_correlation("tanh", still, q, 2.5, 0.05))


# ---- claim 29: simulated tanh nets


@pytest.mark.parametrize("sw2", [1.0, 2.5])
def test_simulated_gradient_rate_is_chi1(sw2):
    n, depth, seeds = 400, 20, 4
    rates, variances = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        h, weights, slopes = rng.standard_normal(n), [], []
        for _ in range(depth):
            w = rng.standard_normal((n, n)) * math.sqrt(sw2 / n)
            slopes.append(1 - np.tanh(h) ** 2)
            h = w @ np.tanh(h) + math.sqrt(0.05) * rng.standard_normal(n)
            weights.append(w)
        variances.append(np.mean(h**2))
        g = rng.standard_normal(n)
        norms = []
        for w, slope in zip(reversed(weights), reversed(slopes), strict=True):
            g = slope * (w.T @ g)
            norms.append(math.log(g @ g))
        rates.append((norms[16] - norms[4]) / 12)
    found = theory.mean_field("tanh", sw2, 0.05)
    # log-rate noise: sqrt(12 * ~4/n)/12 per seed = .03, over 4 seeds .015; 4 of them
    assert np.mean(rates) == pytest.approx(math.log(found.chi1), abs=0.06)
    # q fluctuates by sqrt(2/n) = 7 % per seed, and by more where chi is large
    assert np.mean(variances) == pytest.approx(found.q, rel=0.2)


def test_saboteur_a_gain_five_per_cent_off_moves_chi1():
    right = theory.mean_field("tanh", 2.5, 0.05).chi1
    assert abs(theory.mean_field("tanh", 2.5 * 1.05**2, 0.05).chi1 - right) > 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.mean_field("tanh", -1.0, 0.0),
            "weight_variance must not be below 0; got -1.0",
        ),
        (
            lambda: theory.mean_field("tanh", 1.0, -0.1),
            "bias_variance must not be below 0; got -0.1",
        ),
        (
            lambda: theory.iterate_correlation(-1),
            "depth must be a whole number of at least 0; got -1",
        ),
        (
            lambda: theory.iterate_correlation(3, start=2.0),
            "start must lie in [-1, 1]; got 2.0",
        ),
        (
            lambda: theory.layer_correlation("relu", 0.0, 0.0, 2.0, 0.0),
            "q' must be above 0; got 0.0",
        ),
    ],
)
def test_bad_input_says_what_was_asked(call, message):
    with pytest.raises(BadInput) as caught:
        call()
    assert str(caught.value) == message


def test_unknown_activation():
    with refusal(UnknownName, "no activation is called 'tahn'; did you mean 'tanh'?"):
        theory.mean_field("tahn", 1.0, 0.0)


def test_a_bias_too_small_to_see_in_float64_still_grows_without_bound():
    # q + 1e-6 rounds to q beyond 2^33: that must not pass for a fixed point
    message = (
        "the variance of 'relu' grows without bound at weight_variance 2, bias_variance 1e-06; "
        "lower the weight variance"
    )
    with refusal(BadInput, message):
        theory.fixed_point("relu", 2.0, 1e-6)


def test_a_signal_of_zero_has_correlation_one():
    assert theory.fixed_correlation("tanh", 2.0, 0.0, 0.0) == 1.0
