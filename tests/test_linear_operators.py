"""Linear maps by their products: largest values and densities against dense float64 matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from messages import refusal
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sigprop.errors import BadInput
from sigprop.linear_operators import (
    Flattened,
    Operator,
    Stateless,
    largest_eigenvalues,
    largest_singular_values,
    require_deterministic,
    spectral_density,
    tridiagonal,
)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operator_of(matrix: Tensor) -> Operator:
    symmetric = matrix.shape[0] == matrix.shape[1] and bool((matrix == matrix.T).all())
    shape = (matrix.shape[0], matrix.shape[1])
    transposed = None if symmetric else matrix.T.mv
    return Operator("this map", shape, matrix.mv, transposed, torch.float64)


def counted(operator: Operator) -> tuple[Operator, list[int]]:
    """Return a symmetric map that counts its products."""
    products: list[int] = []

    def product(v: Tensor) -> Tensor:
        products.append(1)
        return operator.product(v)

    return Operator(operator.name, operator.shape, product, None, operator.dtype), products


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 7), (7, 1)])
def test_a_map_is_its_matrix(shape: tuple[int, int]) -> None:
    matrix = gaussian(*shape)
    operator = operator_of(matrix)
    assert torch.equal(operator.dense(), matrix)
    smaller = matrix @ matrix.T if shape[0] <= shape[1] else matrix.T @ matrix
    torch.testing.assert_close(operator.gram().dense(), smaller)
    scipys = operator.scipy()
    np.testing.assert_allclose(scipys.rmatvec(np.ones(shape[0])), matrix.T.sum(1))


def test_a_map_that_is_too_large_is_not_written_out() -> None:
    large = Operator("the Jacobian of conv1", (20_000, 30_000), lambda v: v, lambda u: u)
    with refusal(
        BadInput,
        "the Jacobian of conv1 has 20000 x 30000 = 600,000,000 elements, more than the 16,777,216 "
        "that are written out; ask for its k largest values: k=10",
    ):
        large.dense()


@pytest.mark.parametrize("shape", [(300, 200), (150, 400), (90, 90), (12, 9)])
@pytest.mark.parametrize("k", [1, 5])
def test_the_largest_singular_values_are_those_of_the_matrix(
    shape: tuple[int, int], k: int
) -> None:
    matrix = gaussian(*shape)
    exact = np.linalg.svd(matrix.numpy(), compute_uv=False)[:k]
    found = largest_singular_values(operator_of(matrix), k)
    np.testing.assert_allclose(found.values, exact, rtol=1e-8)
    smaller = matrix @ matrix.T if shape[0] <= shape[1] else matrix.T @ matrix
    images = smaller.numpy() @ found.vectors
    np.testing.assert_allclose(images, found.vectors * exact**2, atol=1e-6 * exact[0] ** 2)


def test_eigenvalues_by_magnitude_and_by_size() -> None:
    basis = torch.linalg.qr(gaussian(200, 200))[0]
    spectrum = torch.linspace(-3, 2, 200, dtype=torch.float64)
    matrix = basis * spectrum @ basis.T
    operator = Operator("h", (200, 200), matrix.mv, None, torch.float64)
    by_size = largest_eigenvalues(operator, 3, by="algebraic").values
    np.testing.assert_allclose(by_size, spectrum.flip(0)[:3], rtol=1e-8)
    np.testing.assert_allclose(largest_eigenvalues(operator, 3).values, spectrum[:3], rtol=1e-8)


def test_a_start_near_the_answer_saves_products() -> None:
    matrix = gaussian(400, 400)
    operator = operator_of(matrix @ matrix.T)
    cold, cold_products = counted(operator)
    start = largest_eigenvalues(cold, 2).start
    moved = matrix + 1e-3 * gaussian(400, 400, seed=1)
    warm, warm_products = counted(operator_of(moved @ moved.T))
    found = largest_eigenvalues(warm, 2, start=start)
    np.testing.assert_allclose(
        found.values, np.linalg.eigvalsh((moved @ moved.T).numpy())[::-1][:2], rtol=1e-8
    )
    assert len(warm_products) < 0.8 * len(cold_products)


def test_what_has_no_spectrum_is_refused() -> None:
    operator = operator_of(torch.full((100, 100), torch.nan, dtype=torch.float64))
    expected = "this map holds numbers that are not finite, so it has no spectrum"
    with refusal(BadInput, expected):
        largest_singular_values(operator)
    with refusal(BadInput, expected):
        spectral_density(operator)
    with refusal(BadInput, "this map has 3 values; k is a whole number from 1 to 3, not 4"):
        largest_singular_values(operator_of(gaussian(3, 4)), 4)


def error_of_mass(spectrum: Tensor, **how: int) -> float:
    """Return the largest error of the share of eigenvalues below a gap of the spectrum."""
    basis = torch.linalg.qr(gaussian(len(spectrum), len(spectrum)))[0]
    matrix = basis * spectrum @ basis.T
    operator = Operator("h", (len(spectrum),) * 2, matrix.mv, None, torch.float64)
    found = spectral_density(operator, **how)
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    borders = np.array([-0.5, 1.5, 3.5])
    shares = [(spectrum.numpy() < border).mean() for border in borders]
    estimated = [found.weights[found.nodes < border].sum() for border in borders]
    return float(np.abs(np.array(shares) - estimated).max())


def test_the_mass_of_a_density_is_within_two_percent() -> None:
    parts = [(-1.0, 100), (0.0, 150), (2.0, 200), (5.0, 50)]
    spectrum = torch.cat([center + 0.2 * gaussian(count).tanh() for center, count in parts])
    assert error_of_mass(spectrum) < 0.02
    # Four steps of one vector cannot tell four clusters from each other to that accuracy.
    assert error_of_mass(spectrum, steps=3, probes=1) > 0.02


def test_no_eigenvalue_is_found_twice() -> None:
    spectrum = torch.cat([torch.tensor([100.0, 50.0]), torch.linspace(0, 1, 198)]).double()
    operator = Operator("h", (200, 200), lambda v: spectrum * v, None, torch.float64)
    diagonal, beside = tridiagonal(operator, torch.ones(200, dtype=torch.float64), 120)
    matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    values = np.linalg.eigvalsh(matrix)
    assert (values > 2).sum() == 2  # without reorthogonalization there are ghosts of 100 and 50


def test_lanczos_stops_where_the_vectors_span_an_invariant_subspace() -> None:
    spectrum = torch.tensor([1.0, 2.0, 3.0] * 20, dtype=torch.float64)
    operator = Operator("h", (60, 60), lambda v: spectrum * v, None, torch.float64)
    diagonal, beside = tridiagonal(operator, gaussian(60), 40)
    assert len(diagonal) == 3
    assert len(beside) == 2


def test_tensors_as_a_vector_and_back() -> None:
    tensors = [gaussian(2, 3), gaussian(4), gaussian(1, 1, 2)]
    order = Flattened(tensors)
    vector = order.vector(tensors)
    assert vector.shape == (order.size,) == (12,)
    for part, original in zip(order.tensors(vector), tensors, strict=True):
        assert torch.equal(part, original)


# --- what is not deterministic --------------------------------------------------------------------


class Counter(nn.Module):
    """Counts its calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def net(middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), middle, nn.Linear(4, 2))


def check(model: nn.Module, **how: object) -> None:
    function = Stateless(model)
    x = torch.ones(6, 4) * torch.arange(6.0)[:, None]
    require_deterministic(lambda: function(x), function, "the map", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (
            nn.Dropout(0.2),
            "the map differs from one evaluation to the next: 1 (Dropout) draws random numbers in "
            "training mode; call model.eval() first",
        ),
        (
            nn.BatchNorm1d(4),
            "the map is not that of one function: 1 (BatchNorm1d) normalizes by the batch and "
            "keeps running statistics in training mode; call model.eval() first, or pass "
            "batch_statistics=True for the map of the whole batch",
        ),
        (
            Counter(),
            "the map is not that of one function: 1 (Counter) changes its own buffers when it is "
            "called; call model.eval() first",
        ),
        (
            Noise(),
            "the map differs from one evaluation to the next: its forward pass draws random "
            "numbers; call model.eval(), or seed them in it",
        ),
    ],
    ids=["dropout", "batch norm", "counter", "noise"],
)
def test_what_is_not_deterministic_is_named(middle: nn.Module, message: str) -> None:
    model = net(middle)
    state, buffers = torch.get_rng_state(), [b.clone() for b in model.buffers()]
    with refusal(BadInput, message):
        check(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(model.buffers(), buffers, strict=True))


def test_what_is_deterministic_passes() -> None:
    for middle in (nn.Dropout(0.2), nn.BatchNorm1d(4), Noise()):
        if not isinstance(middle, Noise):
            check(net(middle).eval())
    check(net(nn.Dropout(0.0)))
    check(net(nn.BatchNorm1d(4)), batch_statistics=True)


def test_a_loader_that_shuffles_is_named() -> None:
    function = Stateless(nn.Linear(4, 2))
    data = TensorDataset(gaussian(64, 4).float())
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(data, batch_size=8, shuffle=True)

    with refusal(
        BadInput,
        "the Hessian differs from one evaluation to the next: its DataLoader shuffles; pass "
        "shuffle=False, or one batch",
    ):
        require_deterministic(
            lambda: function(next(iter(loader))[0]), function, "the Hessian", data=loader
        )


def test_calling_a_model_statelessly_changes_nothing_of_it() -> None:
    model = net(nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = gaussian(6, 4).float()
    function = Stateless(nn.DataParallel(model))
    out = function(x)
    assert not out.requires_grad
    assert function.changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(out, model(x).detach())
