"""Gaussian integrals: closed form, quadrature, adaptive quadrature and Monte-Carlo agree."""

import dataclasses
import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
from messages import refusal
from scipy import integrate, special

from sigprop import theory
from sigprop.errors import BadInput, UnknownName
from sigprop.theory.activations import ACTIVATIONS

# 1/std f(z) to six digits: from a quadrature that is not ours
GAMMAS = {
    "relu": 1.712859,
    "gelu": 1.700926,
    "gelu_tanh": 1.700917,
    "silu": 1.787187,
    "tanh": 1.592537,
    "elu": 1.270843,
    "celu": 1.270843,
    "selu": 1.000000,
    "leaky_relu": 1.704832,
    "sigmoid": 4.801313,
    "softplus": 1.919126,
    "logsigmoid": 1.919126,
    "softsign": 2.337533,
    "mish": 1.592025,
    "hardswish": 1.813871,
    "quickgelu": 1.709359,
    "erf": 1.467167,
    "identity": 1.0,
}
# the Monte-Carlo constants of deepmind-research nfnets/base.py
CODE_GAMMAS = {
    "relu": 1.713959,
    "gelu": 1.701504,
    "silu": 1.788129,
    "tanh": 1.593912,
    "elu": 1.271600,
    "selu": 1.000852,
    "leaky_relu": 1.705903,
    "sigmoid": 4.803835,
    "softplus": 1.920332,
}
CLOSED = ["relu", "leaky_relu", "erf", "identity"]
CORRELATIONS = [-1.0, -0.999, -0.3, 0.0, 1e-9, 0.5, 0.99, 1 - 1e-9, 1.0]


def adaptive(g, kinks=(), variance=1.0):
    """An independent integrator: QUADPACK with break points, on the density of u itself."""
    sigma = math.sqrt(variance)

    def integrand(u):
        return float(g(np.float64(u))) * math.exp(-u * u / (2 * variance))

    edges = [-11 * sigma, *(k for k in sorted({0.0, *kinks})), 11 * sigma]
    total = sum(
        integrate.quad(integrand, low, high, epsabs=1e-13, epsrel=1e-12)[0]
        for low, high in itertools.pairwise(edges)
    )
    return total / (sigma * math.sqrt(2 * math.pi))


def pairs(c, n=400_000, q=1.0, seed=0):
    """Draws of (u, v) with variance q and correlation c."""
    rng = np.random.default_rng(seed)
    u, e = rng.standard_normal((2, n))
    return math.sqrt(q) * u, math.sqrt(q) * (c * u + math.sqrt(1 - c * c) * e)


def within_errors(draws, predicted, errors=4.5):
    """4.5 standard errors: one false alarm in 150 000 draws of a test."""
    error = draws.std() / math.sqrt(draws.size)
    return abs(draws.mean() - predicted) <= errors * error + 1e-12


@pytest.mark.parametrize(("name", "exact"), GAMMAS.items())
def test_gamma_is_the_table_of_nf_resnets_to_1e_5(name, exact):
    assert theory.gamma(name) == pytest.approx(exact, abs=1e-6)
    assert theory.gamma(name, method="quadrature") == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize(("name", "code"), CODE_GAMMAS.items())
def test_the_constants_of_the_official_code_are_within_a_thousandth(name, code):
    exact = theory.gamma(name)
    assert 0 < code / exact - 1 < 1e-3  # their Monte-Carlo draw lies above on every activation


def test_every_activation_has_a_known_gamma():
    assert set(GAMMAS) == set(ACTIVATIONS)


def test_relu_gamma_squared_is_two_over_one_minus_inverse_pi():
    assert theory.gamma("relu") ** 2 == pytest.approx(2 / (1 - 1 / math.pi), rel=1e-14)
    assert theory.gamma("relu") ** 2 == pytest.approx(2 * theory.PI_CONSTANT, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "he"), [("relu", 1.414214), ("gelu", 1.5335), ("silu", 1.6765), ("tanh", 1.592537)]
)
def test_he_gains(name, he):
    assert theory.gain(name) == pytest.approx(he, abs=5e-5)


def test_he_gain_and_gamma_differ_unless_the_activation_is_odd():
    for name in ACTIVATIONS:
        odd = abs(theory.mean(name)) < 1e-12
        same = math.isclose(theory.gain(name), theory.gamma(name), rel_tol=1e-9)
        assert same == odd or name == "selu", name


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("q", [0.3, 1.0, 5.0])
def test_quadrature_agrees_with_an_adaptive_integrator(name, q):
    made = theory.activation(name)
    first = adaptive(made.f, made.kinks, q)
    second = adaptive(lambda u: made.f(u) ** 2, made.kinks, q)
    slope = adaptive(lambda u: made.slope(u) ** 2, made.kinks, q)
    assert theory.mean(name, q, method="quadrature") == pytest.approx(first, abs=1e-10)
    assert theory.second_moment(name, q, method="quadrature") == pytest.approx(second, abs=1e-10)
    assert theory.slope_second_moment(name, q, method="quadrature") == pytest.approx(
        slope, abs=1e-10
    )


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("q", [1e-4, 1.0, 30.0])
def test_closed_forms_have_a_quadrature_twin(name, q):
    size = max(q, 1.0)
    assert theory.mean(name, q, method="closed") == pytest.approx(
        theory.mean(name, q, method="quadrature"), abs=1e-12 * size
    )
    for c in CORRELATIONS:
        for integral in (theory.covariance, theory.slope_covariance):
            closed = integral(name, q, c, method="closed")
            twin = integral(name, q, c, method="quadrature")
            assert closed == pytest.approx(twin, abs=2e-12 * size), (c, integral.__name__)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slopes_are_derivatives(name):
    made = theory.activation(name)
    u = np.linspace(-4.03, 4.07, 101)  # away from every kink
    h = 1e-6
    numeric = (made.f(u + h) - made.f(u - h)) / (2 * h)
    assert np.allclose(made.slope(u) * np.ones_like(u), numeric, atol=1e-8)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("c", [-0.6, 0.7])
def test_correlation_maps_agree_with_monte_carlo(name, c):
    q = 1.7
    u, v = pairs(c, q=q, n=100_000)
    made = theory.activation(name)
    assert within_errors(made.f(u) * made.f(v), theory.covariance(name, q, c))
    slopes = made.slope(u) * made.slope(v) * np.ones_like(u)
    assert within_errors(slopes, theory.slope_covariance(name, q, c))


def test_monte_carlo_check_can_fail():
    u, v = pairs(0.7)
    draws = np.maximum(u, 0) * np.maximum(v, 0)
    right = theory.covariance("relu", 1.0, 0.7)
    assert within_errors(draws, right)
    assert not within_errors(draws, 1.02 * right)
    assert not within_errors(draws, theory.covariance("relu", 1.0, 0.65))


def test_leaving_the_kink_out_costs_digits():
    f = theory.activation("hardswish").f
    exact = adaptive(lambda u: f(u) ** 2, (-3.0, 3.0), 1.7)
    split = theory.expectation(lambda u: f(u) ** 2, 1.7, (-3.0, 3.0))
    blind = theory.expectation(lambda u: f(u) ** 2, 1.7)
    assert abs(split - exact) < 1e-12
    assert abs(blind - exact) > 1e3 * abs(split - exact)


@pytest.mark.parametrize("power", range(0, 13, 2))
def test_even_moments_of_a_normal(power):
    double_factorial = math.prod(range(power - 1, 0, -2))
    q = 1.9
    found = theory.expectation(lambda u: u**power, q)
    assert found == pytest.approx(double_factorial * q ** (power / 2), rel=1e-12)


def test_pair_expectation_of_hermite_polynomials_is_a_power_of_c():
    for c in (-1.0, -0.4, 0.0, 0.3, 0.9999, 1.0):
        second = theory.pair_expectation(lambda u: u * u - 1, 1.0, c)
        third = theory.pair_expectation(lambda u: u**3 - 3 * u, 1.0, c)
        assert second == pytest.approx(2 * c**2, abs=1e-11)
        assert third == pytest.approx(6 * c**3, abs=1e-11)


def test_an_indicator_gives_the_arc_cosine_law():
    for c in (-0.9, -0.1, 0.2, 0.8, 0.99999):
        both = theory.pair_expectation(lambda u: (u > 0).astype(float), 1.0, c, (0.0,))
        assert both == pytest.approx(0.25 + math.asin(c) / (2 * math.pi), abs=1e-10)


def test_zero_variance_is_the_value_at_zero():
    assert theory.mean("sigmoid", 0.0) == 0.5
    assert theory.second_moment("relu", 0.0) == 0.0
    assert theory.slope_second_moment("tanh", 0.0) == 1.0
    assert theory.covariance("sigmoid", 0.0, 0.3) == pytest.approx(0.25)


def test_variance_is_second_moment_less_squared_mean():
    for name in ACTIVATIONS:
        q = 0.8
        left = theory.variance(name, q)
        right = theory.second_moment(name, q) - theory.mean(name, q) ** 2
        assert left == pytest.approx(right, rel=1e-12)
        assert theory.covariance(name, q, 0.0) == pytest.approx(theory.mean(name, q) ** 2)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.2, 1.0])
def test_leaky_relu_of_any_slope(slope):
    made = theory.leaky_relu(slope)
    for c in (-0.7, 0.0, 0.4, 1.0):
        closed = theory.covariance(made, 1.3, c)
        twin = theory.covariance(made, 1.3, c, method="quadrature")
        assert closed == pytest.approx(twin, abs=1e-12)
    assert theory.second_moment(made) == pytest.approx((1 + slope**2) / 2)
    assert theory.slope_second_moment(made) == pytest.approx((1 + slope**2) / 2)


def test_relu_map_is_kappa():
    for c in np.linspace(-1, 1, 21):
        kappa = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        assert theory.correlation_map("relu", float(c)) == pytest.approx(kappa, abs=1e-15)
        assert theory.correlation_map("relu", float(c), 9.0) == pytest.approx(kappa, abs=1e-15)


def test_a_users_own_activation_works_without_registration():
    square = theory.Activation("square", lambda u: u * u, lambda u: 2 * u)
    assert theory.second_moment(square) == pytest.approx(3)
    assert theory.variance(square, 2.0) == pytest.approx(8)
    assert theory.correlation_map(square, 0.5) == pytest.approx((1 + 2 * 0.25) / 3)
    assert dataclasses.is_dataclass(square)


def test_unknown_activation_suggests():
    with pytest.raises(UnknownName) as caught:
        theory.gamma("rellu")
    message = str(caught.value)
    assert message.startswith("no activation is called 'rellu'; did you mean 'relu'")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.mean("relu", -1.0), "variance must not be below 0; got -1.0"),
        (lambda: theory.mean("relu", math.nan), "variance must be a finite number; got nan"),
        (
            lambda: theory.covariance("relu", 1.0, 1.5),
            "correlation must lie in [-1, 1]; got 1.5",
        ),
        (
            lambda: theory.mean("tanh", method="closed"),
            "no closed form is known for 'tanh'; use method='quadrature'",
        ),
        (lambda: theory.correlation_map("relu", 0.0, 0.0), "variance must be above 0; got 0.0"),
        (lambda: theory.leaky_relu(math.inf), "slope must be a finite number; got inf"),
        (
            lambda: theory.mean("relu", cast(float, "x")),
            "variance must be a finite number; got 'x'",
        ),
    ],
)
def test_bad_input_says_what_was_asked(call, message):
    with pytest.raises(BadInput) as caught:
        call()
    assert str(caught.value) == message


def test_unknown_method():
    with refusal(UnknownName, "no method is called 'quad'; known: auto, closed, quadrature"):
        theory.mean("relu", method=cast(Any, "quad"))


@pytest.mark.parametrize("kink", [-1.37, -0.7, 0.3])  # no panel ends there by chance
def test_a_kink_away_from_zero_at_correlation_minus_one(kink):
    # g(u) = max(u - k, 0), v = -u: g(u) g(v) = k^2 - u^2 for |u| < -k, so with a = -k > 0
    # E g(u) g(-u) = (a^2 - 1) P(|z| < a) + 2 a phi(a), and 0 for k >= 0
    a = max(-kink, 0.0)
    inside, density = math.erf(a / math.sqrt(2)), math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    expected = (a * a - 1) * inside + 2 * a * density
    found = theory.pair_expectation(lambda u: np.maximum(u - kink, 0), 1.0, -1.0, (kink,))
    assert found == pytest.approx(expected, abs=1e-13)  # a missed kink would leave 1e-4


@pytest.mark.parametrize("c", [-0.999, -0.99999, 0.99999])
@pytest.mark.parametrize("kink", [-0.7, 1.37])
def test_a_kink_away_from_zero_near_perfect_correlation(c, kink):
    # E g(u) E[g(v) | u] with g(u) = max(u - k, 0): v | u is N(cu, s^2), and E max(N(m, s^2), 0) =
    # m Phi(m/s) + s phi(m/s); the inner turn lies at u = k/c and has the width s
    s = math.sqrt(1 - c * c)

    def integrand(u):
        m = c * u - kink
        inner = m * special.ndtr(m / s) + s * math.exp(-m * m / (2 * s * s) - LOG_ROOT)
        return max(u - kink, 0.0) * inner * math.exp(-u * u / 2 - LOG_ROOT)

    breaks = sorted({kink, *(kink / c + step * s for step in (-8, -2, 0, 2, 8)), -12.0, 12.0})
    pieces = [
        integrate.quad(integrand, low, high, epsabs=1e-15, epsrel=1e-12)[0]
        for low, high in itertools.pairwise(breaks)
    ]
    found = theory.pair_expectation(lambda u: np.maximum(u - kink, 0), 1.0, c, (kink,))
    assert found == pytest.approx(math.fsum(pieces), abs=1e-11)


LOG_ROOT = math.log(2 * math.pi) / 2
