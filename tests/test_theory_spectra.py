"""Limit laws of spectra against their moments and against drawn matrices; fits of decay."""

from __future__ import annotations

import numpy as np
import pytest
from messages import refusal

from sigprop import theory
from sigprop.errors import BadInput


@pytest.mark.parametrize("ratio", [0.2, 0.5, 1.0])
def test_marchenko_pastur_is_a_density_and_that_of_gaussian_matrices(ratio: float) -> None:
    edges = theory.marchenko_pastur_edges(ratio)
    sigma = np.linspace(edges.low, edges.high, 20_001)
    density = theory.marchenko_pastur(sigma, ratio)
    assert np.trapezoid(density, sigma) == pytest.approx(1, abs=1e-4)
    assert np.trapezoid(sigma**2 * density, sigma) == pytest.approx(1, abs=1e-4)
    assert np.trapezoid(sigma**4 * density, sigma) == pytest.approx(1 + ratio, abs=1e-4)
    assert theory.marchenko_pastur([edges.low - 0.1, edges.high + 0.1], ratio).tolist() == [0, 0]
    columns = 500
    drawn = np.random.default_rng(0).normal(0, columns**-0.5, (int(ratio * columns), columns))
    found = np.sort(np.linalg.svd(drawn, compute_uv=False))
    below = np.cumsum(density) * (sigma[1] - sigma[0])
    shares = np.interp(found, sigma, below)
    assert np.abs(shares - (np.arange(len(found)) + 0.5) / len(found)).max() < 0.02


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_fuss_catalan_has_its_moments(factors: int) -> None:
    x, density = theory.fuss_catalan_density(factors, 200_000)
    assert x[-1] == pytest.approx(theory.fuss_catalan_edge(factors), rel=1e-6)
    for order in (1, 2, 3):
        moment = np.trapezoid(x**order * density, x)
        assert moment == pytest.approx(theory.fuss_catalan(factors, order), rel=1e-4)


def test_the_largest_singular_value_at_finite_width() -> None:
    rows, columns, draws = 60, 90, 300
    rng = np.random.default_rng(0)
    found = np.array(
        [np.linalg.norm(rng.normal(0, columns**-0.5, (rows, columns)), 2) for _ in range(draws)]
    )
    made = theory.largest_singular_value(rows, columns)
    # Johnstone's centering errs by about N^(-2/3) of a deviation
    by = made.deviation * (4 / draws**0.5 + rows ** (-2 / 3))
    assert found.mean() == pytest.approx(made.mean, abs=by)
    assert found.std() == pytest.approx(made.deviation, rel=4 / (2 * draws) ** 0.5 + 0.03)
    edge = theory.marchenko_pastur_edges(rows / columns).high
    assert abs(found.mean() - edge) > 3 * by  # the limit's edge is another number


@pytest.mark.parametrize("name", ["exponential", "power law", "stretched exponential"])
def test_the_law_that_made_the_norms_is_named(name: str) -> None:
    depth = np.arange(1, 31)
    made = theory.Fit(name, 0.3, 2.0, 0.0)
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=30))
    best, *others = theory.decay_fits(depth, made(depth) * noise)
    assert best.name == name
    assert best.rate == pytest.approx(0.3, abs=0.02)
    assert best.scale == pytest.approx(2, rel=0.05)
    assert best.error < 0.02 < min(fit.error for fit in others)


def test_what_cannot_be_fitted_is_refused() -> None:
    with refusal(BadInput, "a fit needs 3 depths and as many norms, got shapes (2,), (2,)"):
        theory.decay_fits([1, 2], [1, 1])
    with refusal(BadInput, "a fit needs depths from 1 on, and norms that are finite and above 0"):
        theory.decay_fits([0, 1, 2], [1, 1, 1])
    with refusal(BadInput, "ratio is rows over columns of the flat side, in (0, 1]; got 2"):
        theory.marchenko_pastur([1.0], 2)
