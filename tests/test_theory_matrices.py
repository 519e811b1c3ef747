"""Random matrices and finite width against seeded products of numpy matrices."""

import math

import numpy as np
import pytest
from messages import refusal
from scipy import special

from sigprop import theory
from sigprop.errors import BadInput, UnknownName


def gaussian(rng, n):
    return rng.standard_normal((n, n)) / math.sqrt(n)


def orthogonal(rng, n):
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


# ---- claim 23, the formula's side


def test_lyapunov_formula_term_by_term():
    made = theory.lyapunov_exponents(10, 2000)
    for i in range(1, 11):
        half = (10 - i + 1) / 2
        exponent = 0.5 * (math.log(2 / 10) + special.digamma(half))
        assert made.exponent[i - 1] == pytest.approx(exponent, rel=1e-12)
        deviation = math.sqrt(special.polygamma(1, half) / 8000)
        assert made.deviation[i - 1] == pytest.approx(deviation, rel=1e-12)
    assert made.deviation[[0, -1]] == pytest.approx([0.005, 0.025], abs=6e-4)
    assert np.all(np.diff(made.exponent) < 0)


def test_lyapunov_exponents_of_a_product_by_qr():
    n, factors = 10, 2000
    rng = np.random.default_rng(0)
    q = np.eye(n)
    total = np.zeros(n)
    for _ in range(factors):
        q, r = np.linalg.qr(gaussian(rng, n) @ q)
        total += np.log(np.abs(np.diag(r)))
    made = theory.lyapunov_exponents(n, factors)
    z = (total / factors - made.exponent) / made.deviation
    assert np.abs(z).max() < 4  # ten normals: 1 in 1600
    assert 0.4 < z.std() < 1.8  # and the deviation is the right size: chi with 9 degrees


def test_naive_svd_of_a_long_product_is_not_the_lyapunov_spectrum():
    rng = np.random.default_rng(1)
    product = np.eye(10)
    for _ in range(400):
        product = gaussian(rng, 10) @ product
    s = np.linalg.svd(product, compute_uv=False)
    made = theory.lyapunov_exponents(10).exponent
    spread = np.log(s[0] / s[-1]) / 400
    assert made[0] - made[-1] > 5 * spread  # saturated at machine precision


@pytest.mark.parametrize("factors", [1, 6])
def test_log_determinant(factors):
    n, seeds = 12, 300
    rng = np.random.default_rng(2)
    draws = np.array(
        [sum(np.linalg.slogdet(gaussian(rng, n))[1] for _ in range(factors)) for _ in range(seeds)]
    )
    law = theory.log_determinant(n, factors)
    assert abs(draws.mean() - law.mean) < 4 * math.sqrt(law.variance / seeds)
    assert draws.var() == pytest.approx(law.variance, rel=5 * math.sqrt(2 / seeds))


def test_log_determinant_is_the_sum_of_the_exponents():
    assert theory.log_determinant(9, 4).mean == pytest.approx(
        4 * theory.lyapunov_exponents(9).exponent.sum()
    )


@pytest.mark.parametrize("factors", [1, 8])
def test_log_norm(factors):
    n, seeds = 16, 1000
    rng = np.random.default_rng(3)
    draws = []
    for _ in range(seeds):
        x = rng.standard_normal(n)
        y = x
        for _ in range(factors):
            y = gaussian(rng, n) @ y
        draws.append(math.log((y @ y) / (x @ x)))
    law = theory.log_norm(n, factors)
    assert abs(np.mean(draws) - law.mean) < 4 * math.sqrt(law.variance / seeds)
    assert np.var(draws) == pytest.approx(law.variance, rel=6 * math.sqrt(2 / seeds))
    assert theory.log_moments(n, factors, "linear") == law


# ---- claim 24: Fuss-Catalan


@pytest.mark.parametrize("factors", [1, 2, 3, 4, 9])
def test_fuss_catalan_moments_in_closed_form(factors):
    m = factors
    assert theory.fuss_catalan(m, 0) == 1
    assert theory.fuss_catalan(m, 1) == 1
    assert theory.fuss_catalan(m, 2) == m + 1
    assert theory.fuss_catalan(m, 3) == (m + 1) * (3 * m + 2) / 2


def test_one_factor_gives_the_catalan_numbers():
    assert [theory.fuss_catalan(1, k) for k in range(7)] == [1, 1, 2, 5, 14, 42, 132]


def test_moments_grow_to_the_edge():
    for m in (1, 2, 3):
        ratio = theory.fuss_catalan(m, 401) / theory.fuss_catalan(m, 400)
        assert ratio == pytest.approx(theory.fuss_catalan_edge(m), rel=5e-3)


def test_edge_numbers():
    edges = [theory.fuss_catalan_edge(m) for m in (1, 2, 3)]
    assert edges == pytest.approx([4, 6.75, 256 / 27])
    assert theory.fuss_catalan_edge(50) == pytest.approx(51 * (51 / 50) ** 50, rel=1e-12)
    assert theory.fuss_catalan_edge(500) == pytest.approx(501 * (501 / 500) ** 500, rel=1e-12)
    assert theory.fuss_catalan_edge(500) / 500 == pytest.approx(math.e, rel=2e-3)


@pytest.mark.parametrize("factors", [1, 2, 3, 4])
def test_simulated_product_moments_and_edge(factors):
    n, seeds = 200, 4
    rng = np.random.default_rng(factors)
    moments, tops = [], []
    for _ in range(seeds):
        product = gaussian(rng, n)
        for _ in range(factors - 1):
            product = gaussian(rng, n) @ product
        s2 = np.linalg.svd(product, compute_uv=False) ** 2
        moments.append([np.mean(s2**k) for k in (1, 2, 3)])
        tops.append(s2[0])
    found = np.mean(moments, axis=0)
    law = [theory.fuss_catalan(factors, k) for k in (1, 2, 3)]
    # 1/n corrections of about (1, M^2, 3M^2)/2n and the spread of 4 draws
    assert found == pytest.approx(law, rel=0.12)
    assert found[1] == pytest.approx(theory.product_second_moment(n, factors), rel=0.07)
    edge = theory.fuss_catalan_edge(factors)
    assert -0.12 < np.mean(tops) / edge - 1 < 0.06  # the top sits below by n^(-2/3)


def test_second_moment_at_small_size_is_exact():
    n, factors, seeds = 3, 2, 40_000
    rng = np.random.default_rng(11)
    first, second = rng.standard_normal((2, seeds, n, n)) / math.sqrt(n)
    product = second @ first
    squares = product @ product.transpose(0, 2, 1)
    draws = np.sum(squares**2, axis=(1, 2)) / n
    error = draws.std() / math.sqrt(seeds)
    assert abs(draws.mean() - theory.product_second_moment(n, factors)) < 4 * error
    # the infinite-size value is many errors away, so the correction is tested
    assert abs(draws.mean() - theory.fuss_catalan(factors, 2)) > 20 * error


@pytest.mark.parametrize("factors", [1, 3, 8])
def test_finite_size_tends_to_fuss_catalan(factors):
    found = theory.product_second_moment(10**7, factors)
    assert found == pytest.approx(factors + 1, rel=1e-5)


# ---- claim 31: Jacobians at criticality

JACOBIANS = {
    ("linear", "gaussian"): lambda depth: depth,
    ("linear", "orthogonal"): lambda depth: 0,
    ("relu", "gaussian"): lambda depth: 2 * depth,
    ("relu", "orthogonal"): lambda depth: depth,
}


@pytest.mark.parametrize(("kind", "weights"), JACOBIANS)
@pytest.mark.parametrize("depth", [1, 4, 16])
def test_jacobian_dispersion_formula(kind, weights, depth):
    active = 0.5 if kind == "relu" else 1.0
    found = theory.jacobian_dispersion(depth, active=active, weights=weights)
    assert found == JACOBIANS[kind, weights](depth)


@pytest.mark.parametrize(("kind", "weights"), JACOBIANS)
@pytest.mark.parametrize("depth", [1, 4])
def test_simulated_jacobian_dispersion(kind, weights, depth):
    n, seeds = 200, 5
    rng = np.random.default_rng([depth, len(weights)])
    make = {"gaussian": gaussian, "orthogonal": orthogonal}[weights]
    gain = math.sqrt(2) if kind == "relu" else 1.0
    found = []
    for _ in range(seeds):
        h, jacobian = rng.standard_normal(n), np.eye(n)
        for _ in range(depth):
            w = gain * make(rng, n)
            h = w @ h
            slope = (h > 0).astype(float) if kind == "relu" else np.ones(n)
            h, jacobian = slope * h, slope[:, None] * (w @ jacobian)
        s2 = np.sum(jacobian**2)
        fourth = np.sum((jacobian @ jacobian.T) ** 2)
        found.append(fourth / n / (s2 / n) ** 2 - 1)
    law = JACOBIANS[kind, weights](depth)
    # p's own spread: sd(1/p) = 2/sqrt(n) per layer; and corrections of order L/n
    assert np.mean(found) == pytest.approx(law, rel=0.1, abs=1e-9)


def test_relu_cannot_reach_isometry():
    assert theory.jacobian_dispersion(1, weights="orthogonal") >= 1
    assert theory.jacobian_dispersion(50, active=1.0, weights="orthogonal") == 0


# ---- finite width


@pytest.mark.parametrize("kind", ["relu", "linear"])
def test_second_moment_ratio_is_exact(kind):
    n, depth, seeds = 40, 3, 6000
    rng = np.random.default_rng(8)
    gain = 2.0 if kind == "relu" else 1.0
    x = rng.standard_normal((seeds, n))
    q0 = np.sum(x**2, axis=1)
    for _ in range(depth):
        w = rng.standard_normal((seeds, n, n)) * math.sqrt(gain / n)
        x = np.einsum("sij,sj->si", w, x)
        x = np.maximum(x, 0) if kind == "relu" else x
    ratio = np.sum(x**2, axis=1) / q0
    squared = ratio**2
    law = theory.squared_ratio(n, depth, kind)
    assert law == pytest.approx((1 + {"relu": 5, "linear": 2}[kind] / n) ** depth)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(seeds)
    assert abs(squared.mean() - law) < 4 * squared.std() / math.sqrt(seeds)
    log = np.log(ratio)
    moments = theory.log_moments(n, depth, kind)
    assert abs(log.mean() - moments.mean) < 4 * log.std() / math.sqrt(seeds)
    assert log.var() == pytest.approx(moments.variance, rel=6 * math.sqrt(2 / seeds))


def test_log_moments_tend_to_five_over_two_n():
    n, depth = 4000, 7
    found = theory.log_moments(n, depth)
    assert found.mean == pytest.approx(-5 * depth / (2 * n), rel=2e-3)
    assert found.variance == pytest.approx(5 * depth / n, rel=2e-3)
    linear = theory.log_moments(n, depth, "linear")
    assert linear.mean == pytest.approx(-depth / n, rel=2e-3)
    assert linear.variance == pytest.approx(2 * depth / n, rel=2e-3)


def test_log_moments_of_width_one():
    """Width 1: the unit is active or dead; given active it is a chi-squared of one degree."""
    found = theory.log_moments(1, 1)
    assert found.mean == pytest.approx(math.log(4) + special.digamma(0.5))
    assert found.variance == pytest.approx(math.pi**2 / 2)


STACKS = {
    "rescale": lambda depth: (theory.coefficients(depth).alpha, theory.coefficients(depth).beta),
    "scaled": lambda depth: (np.ones(depth), np.full(depth, depth**-0.5)),
    "plain": lambda depth: (np.ones(depth), np.ones(depth)),
}


@pytest.mark.parametrize("kind", ["relu", "linear"])
@pytest.mark.parametrize("name", STACKS)
def test_fluctuation_of_one_residual_net(name, kind):
    n, depth, layers, seeds = 64, 8, 1, 1200
    skip, scale = STACKS[name](depth)
    rng = np.random.default_rng(21)
    gain = 2.0 if kind == "relu" else 1.0
    x = rng.standard_normal((seeds, n))
    q0 = np.sum(x**2, axis=1)
    for a, b in zip(skip, scale, strict=True):
        h = np.maximum(x, 0) if kind == "relu" else x
        w = rng.standard_normal((seeds, n, n)) * math.sqrt(gain / n)
        x = a * x + b * np.einsum("sij,sj->si", w, h)
    log = np.log(np.sum(x**2, axis=1) / q0)
    law = theory.residual_log_variance(skip, scale, n, layers, kind)
    # 5 errors of a variance, and terms of order 1/n^2: about 5L/n of it for the plain net
    slack = 5 * math.sqrt(2 / seeds) + (0.15 if name == "plain" else 0.06)
    assert log.var() == pytest.approx(law, rel=slack)


def test_deep_layers_in_the_branch_add_their_own_fluctuation():
    a, b = np.zeros(4), np.ones(4)
    assert theory.residual_log_variance(a, b, 100, 3) == pytest.approx(4 * 15 / 100)
    assert theory.residual_log_variance(a, b, 100, 3, "linear") == pytest.approx(4 * 6 / 100)


def test_an_identity_net_does_not_fluctuate():
    assert theory.residual_log_variance([1.0, 1.0], [0.0, 0.0], 50) == 0


def test_rescale_fluctuates_less_than_plain():
    made = theory.coefficients(30)
    rescaled = theory.residual_log_variance(made.alpha, made.beta, 128)
    plain = theory.residual_log_variance(np.ones(30), np.ones(30), 128)
    assert rescaled < plain / 10


def test_tolerance_shrinks_with_the_root_of_the_seeds():
    one = theory.mean_ratio_tolerance(0.04, 1)
    assert theory.mean_ratio_tolerance(0.04, 16) == pytest.approx(one / 4)
    assert theory.mean_ratio_tolerance(0.04, 16, 2.0) == pytest.approx(one / 8)
    assert theory.mean_ratio_tolerance(0.0, 3) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.lyapunov_exponents(0),
            "size must be a whole number of at least 1; got 0",
        ),
        (
            lambda: theory.fuss_catalan(0, 1),
            "factors must be a whole number of at least 1; got 0",
        ),
        (
            lambda: theory.squared_ratio(10, -1),
            "depth must be a whole number of at least 0; got -1",
        ),
        (
            lambda: theory.jacobian_dispersion(3, active=1.5),
            "active must lie in [0, 1]; got 1.5",
        ),
        (
            lambda: theory.jacobian_dispersion(3, active=0.0),
            "active must be above 0; got 0: a net without active units has no spectrum",
        ),
        (
            lambda: theory.residual_log_variance([], [], 10),
            "skip and scale must be vectors of one length; got shapes (0,) and (0,)",
        ),
        (
            lambda: theory.residual_log_variance([0.0], [0.0], 10),
            "every block needs a skip or a scale other than 0",
        ),
        (
            lambda: theory.mean_ratio_tolerance(-1.0, 3),
            "log_variance and errors must not be below 0",
        ),
    ],
)
def test_bad_input_says_what_was_asked(call, message):
    with pytest.raises(BadInput) as caught:
        call()
    assert str(caught.value) == message


def test_unknown_kinds():
    with refusal(UnknownName, "no kind is called 'rel'; did you mean 'relu'?"):
        theory.squared_ratio(10, 2, "rel")
    with refusal(UnknownName, "no weights is called 'ortho'; did you mean 'orthogonal'?"):
        theory.jacobian_dispersion(2, weights="ortho")


@pytest.mark.parametrize("factors", [1, 2, 3, 5])
def test_the_second_moment_of_a_product_of_numbers(factors):
    # N = 1: P is a product of M standard normal numbers, and E (P P')^2 = (E z^4)^M = 3^M
    assert theory.product_second_moment(1, factors) == 3**factors


def test_a_block_without_skip_and_branch_is_refused():
    with refusal(BadInput, "every block needs a skip or a scale other than 0"):
        theory.residual_log_variance([1.0, 0.0], [1.0, 0.0], 100)
