"""Products of matrices, against 1500 decimal places and against the theory of random matrices."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from messages import refusal
from torch import nn

from sigprop import spectra, theory
from sigprop.errors import BadInput, UnknownName


def factors(size: int, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, size**-0.5, (size, size)) for _ in range(count)]


def exact(matrices: list[np.ndarray], places: int) -> np.ndarray:
    """Return the logarithms of the product's singular values, computed with many digits."""
    with mpmath.workdps(places):
        whole = mpmath.eye(matrices[0].shape[1])
        for matrix in matrices:
            whole = mpmath.matrix(matrix.tolist()) * whole
        found = sorted(mpmath.svd_r(whole, compute_uv=False), reverse=True)
        return np.array([float(mpmath.log(value)) for value in found])


@pytest.mark.parametrize(("count", "places"), [(1, 30), (4, 30), (60, 150), (600, 1500)])
def test_every_value_of_a_long_product_has_its_own_precision(count: int, places: int) -> None:
    matrices = factors(5, count)
    logs = exact(matrices, places)
    found = spectra.product(matrices)
    np.testing.assert_allclose(found["log_singular_value"], logs, atol=1e-10)
    tiny = logs < np.log(np.finfo(float).smallest_subnormal)
    assert found["beyond_float64"].tolist() == tiny.tolist()
    np.testing.assert_allclose(found["singular_value"], np.exp(logs), rtol=1e-9)


def test_a_product_that_is_multiplied_out_says_where_float64_ends() -> None:
    matrices = factors(5, 60)
    logs = exact(matrices, 150)
    found = spectra.product(matrices, "svd")
    wrong = np.abs(found["log_singular_value"] - logs) > 0.1
    assert wrong.any()
    assert found["beyond_float64"][wrong].all()
    assert not found["beyond_float64"].iloc[0]
    huge = spectra.product([1e200 * np.eye(2)] * 2, "svd")
    assert huge["singular_value"].isna().all()
    assert huge["beyond_float64"].all()
    logs = spectra.product([1e200 * np.eye(2)] * 2)["log_singular_value"].to_numpy()
    np.testing.assert_allclose(logs, 400 * np.log(10), rtol=1e-12)


def test_orthogonal_and_singular_factors() -> None:
    orthogonal = [np.linalg.qr(matrix)[0] for matrix in factors(30, 100)]
    found = spectra.product(orthogonal)
    np.testing.assert_allclose(found["log_singular_value"], 0, atol=1e-12)
    assert not found["beyond_float64"].any()
    zero = spectra.product([np.eye(3), np.zeros((3, 3))])
    assert (zero["singular_value"] == 0).all()
    projected = spectra.product([np.diag([2.0, 1.0, 0.0]), np.diag([3.0, 1.0, 1.0])])
    np.testing.assert_allclose(projected["singular_value"], [6, 1, 0], atol=1e-15)


@pytest.mark.parametrize("shapes", [[(5, 8), (3, 5), (7, 3)], [(8, 5), (9, 8), (4, 9)]])
def test_factors_that_are_not_square(shapes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=shape) for shape in shapes]
    whole = matrices[2] @ matrices[1] @ matrices[0]
    values = np.linalg.svd(whole, compute_uv=False)
    np.testing.assert_allclose(spectra.product(matrices)["singular_value"], values, atol=1e-12)


def test_lyapunov_exponents_are_those_of_theory() -> None:
    found = spectra.product(iter(factors(10, 1000)), "lyapunov")
    made = theory.lyapunov_exponents(10, 1000)
    assert (np.abs(found["log_singular_value"] - made.exponent) < 4 * made.deviation).all()
    # Factors whose entries have twice the variance stretch by ln 2 / 2 more.
    wide = spectra.product([2**0.5 * m for m in factors(10, 1000)], "lyapunov")
    assert (np.abs(wide["log_singular_value"] - made.exponent) > 4 * made.deviation).all()


def test_the_layers_of_a_linear_net() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.LayerNorm(4)).double()
    whole = (model.get_parameter("1.weight") @ model.get_parameter("0.weight")).detach()
    found = spectra.product(model)
    np.testing.assert_allclose(found["singular_value"], torch.linalg.svdvals(whole), rtol=1e-12)


@pytest.mark.parametrize(
    ("matrices", "estimator", "message"),
    [
        ([], "finite", "a product needs at least one matrix, and there is none"),
        (
            [np.ones((2, 3)), np.ones((2, 3))],
            "finite",
            "matrix 2 of shape (2, 3) takes 3 inputs, and matrix 1 of shape (2, 3) has 2 outputs; "
            "a product needs them to agree",
        ),
        (
            [np.ones((2, 3))],
            "lyapunov",
            "Lyapunov exponents are of square matrices; one of shape (2, 3) is not: take "
            "estimator='finite'",
        ),
        ([np.full((2, 2), np.inf)], "svd", "matrix 1 of shape (2, 2) holds non-finite values"),
        (
            nn.Conv2d(3, 3, 3),
            "finite",
            "weight of shape (3, 3, 3, 3) is no matrix; for convolutions and what lies between "
            "layers, see sigprop.spectra.jacobian",
        ),
    ],
)
def test_products_that_do_not_exist_are_refused(
    matrices: object, estimator: str, message: str
) -> None:
    with refusal(BadInput, message):
        spectra.product(matrices, estimator)  # type: ignore[arg-type]


def test_an_unknown_estimator_is_named() -> None:
    with refusal(
        UnknownName, "no estimator of products is called 'qr'; known: finite, lyapunov, svd"
    ):
        spectra.product([np.eye(2)], "qr")  # type: ignore[arg-type]
