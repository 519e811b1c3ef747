from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch
from torch import nn

from sigprop.errors import BadInput
from sigprop.signals import ratios, singular_values
from sigprop.signals.correlation import compute_products, interpret_products


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norm_keeps_its_range(scale: float) -> None:
    x = normal(5, 7) * scale
    value, size = ratios.norm(x).tolist()
    assert value * size == pytest.approx(oracles.norm(x), rel=1e-6)


def test_plain_norm_would_lose_a_vanishing_gradient() -> None:
    """The saboteur: squares of 1e-30 are 0 in float32."""
    assert float((normal(5, 7) * 1e-30).square().sum().sqrt()) == 0


@pytest.mark.parametrize(
    "weight",
    [nn.Linear(6, 4).weight, nn.Conv2d(64, 256, 3).weight, nn.Conv2d(8, 8, 3, groups=4).weight],
    ids=["linear", "conv", "grouped"],
)
def test_unit_ratio_is_the_worst_output_unit(weight: nn.Parameter) -> None:
    grad = normal(*weight.shape)
    with torch.no_grad():
        weight[0] *= 1e-9  # below the floor: the floor is what divides
    worst = max(
        float(g.double().norm()) / max(float(w.double().norm()), 1e-3)
        for w, g in zip(weight.detach(), grad, strict=True)
    )
    value, size = ratios.unit_ratio_max(weight, grad).tolist()
    assert value * size == pytest.approx(worst, rel=1e-5)


def test_a_gain_counts_as_one_unit() -> None:
    """DeepMind squeezes (C, 1, 1, 1) to a vector; timm takes each element as a unit."""
    weight, grad = torch.ones(16, 1, 1, 1), torch.ones(16, 1, 1, 1)
    grad[0] = 4.0
    value, size = ratios.unit_ratio_max(weight, grad).tolist()
    assert value * size == pytest.approx(math.sqrt(15 + 16) / 4)


def test_transposed_convolutions_have_their_units_on_axis_one() -> None:
    weight, grad = torch.ones(2, 3), torch.zeros(2, 3)
    grad[:, 1] = 1.0
    value, size = ratios.unit_ratio_max(weight, grad, unit_dim=1).tolist()
    assert value * size == pytest.approx(1.0)


@pytest.mark.parametrize("radians", [1e-6, 1e-4, 0.1, math.pi / 2, 3.0])
def test_angle_sees_small_turns(radians: float) -> None:
    a = torch.tensor([1.0, 0.0])
    b = 5 * torch.tensor([math.cos(radians), math.sin(radians)])
    assert float(ratios.angle(a, b)) == pytest.approx(radians, rel=1e-5)


def test_the_angle_to_nothing_is_missing() -> None:
    assert math.isnan(float(ratios.angle(torch.zeros(3), torch.ones(3))))


def test_a_ratio_to_zero_is_missing_and_never_infinite() -> None:
    assert math.isnan(ratios.ratio(1.0, 0.0))
    assert math.isnan(ratios.ratio(1.0, math.nan))
    assert ratios.ratio(0.0, 2.0) == 0


def test_correlation_is_the_cross_term_of_a_sum() -> None:
    a, b = normal(6, 5), normal(6, 5, seed=1) + 0.3
    products = interpret_products(compute_products(a, b))
    assert products.correlation == pytest.approx(oracles.correlation(a, b), rel=1e-5)
    total = (
        products.aa + products.bb + 2 * products.correlation * math.sqrt(products.aa * products.bb)
    )
    assert total == pytest.approx(float((a + b).double().square().sum()), rel=1e-5)


def test_correlation_of_parts_merges_to_the_whole() -> None:
    a, b = normal(8, 5), normal(8, 5, seed=1)
    parts = [interpret_products(compute_products(a[s], b[s])) for s in (slice(3), slice(3, 8))]
    assert parts[0].merge(parts[1]).correlation == pytest.approx(
        oracles.correlation(a, b), rel=1e-5
    )


def test_correlation_with_a_silent_branch_is_missing() -> None:
    assert math.isnan(interpret_products(compute_products(normal(4), torch.zeros(4))).correlation)


def test_correlation_leaves_nonfinite_pairs_out() -> None:
    a, b = normal(10), normal(10, seed=1)
    broken = a.clone()
    broken[3] = math.nan
    keep = torch.arange(10) != 3
    assert interpret_products(compute_products(broken, b)).correlation == pytest.approx(
        oracles.correlation(a[keep], b[keep]), rel=1e-5
    )


def test_singular_values_square_to_the_eigenvalues_of_the_gram_matrix() -> None:
    weight = nn.Conv2d(3, 8, 3).weight
    matrix = weight.detach().double().reshape(8, 27)
    eigenvalues = torch.linalg.eigvalsh(matrix @ matrix.T).flip(0)
    torch.testing.assert_close(singular_values(weight), eigenvalues.sqrt())


def weight_with(values: torch.Tensor, columns: int) -> torch.Tensor:
    """A float64 matrix of ``columns`` columns with these singular values."""
    rows = len(values)
    left, right = (torch.linalg.qr(normal(n, n).double()).Q for n in (rows, columns))
    return left * values @ right[:rows]


@pytest.mark.parametrize("shape", [(20, 24), (12, 96), (96, 12), (40, 81)])
@pytest.mark.parametrize("condition", [1.0, 10.0, 300.0, 1e4, 1e7])
def test_singular_values_of_rounded_weights_are_those_of_svd(
    shape: tuple[int, int], condition: float
) -> None:
    short, long = sorted(shape)
    weight = weight_with(torch.logspace(0, -math.log10(condition), short).double(), long).float()
    weight = weight if shape[0] == short else weight.T
    exact = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    # 1e-9 of itself, or a few dozen float64 roundings of the largest, which is 1
    np.testing.assert_allclose(singular_values(weight).numpy(), exact, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("columns", [24, 96])
def test_small_singular_values_of_float64_weights_are_not_lost(columns: int) -> None:
    values = torch.logspace(0, -12, 24, dtype=torch.float64)
    found = singular_values(weight_with(values, columns))
    torch.testing.assert_close(found, values, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("columns", [4, 64])
def test_singular_values_keep_their_scale(columns: int, scale: float) -> None:
    weight = torch.eye(4, columns) * scale
    assert singular_values(weight).tolist() == pytest.approx([float(weight.max())] * 4, rel=1e-14)


@pytest.mark.parametrize("shape", [(8, 10), (8, 64)])
def test_a_weight_of_rank_one_has_one_singular_value(shape: tuple[int, int]) -> None:
    found = singular_values(torch.ones(shape))
    assert found[0].item() == pytest.approx(math.sqrt(math.prod(shape)), rel=1e-14)
    assert found[1:].abs().max() < 1e-14 * found[0]


def test_a_weight_of_zeros_and_an_empty_one_have_their_singular_values() -> None:
    assert singular_values(torch.zeros(2, 9)).tolist() == [0.0, 0.0]
    assert singular_values(torch.zeros(0, 9)).tolist() == []


def test_autocast_does_not_reach_singular_values() -> None:
    weight = normal(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = singular_values(weight)
    torch.testing.assert_close(found, singular_values(weight), rtol=0, atol=0)


def test_singular_values_of_a_broken_weight_are_missing() -> None:
    weight = torch.ones(3, 5)
    weight[0, 0] = math.nan
    assert singular_values(weight).isnan().tolist() == [True] * 3


def test_singular_values_need_two_axes() -> None:
    with pytest.raises(BadInput, match=r"need a matrix, not a tensor of shape \(4,\)"):
        singular_values(torch.ones(4))


def test_half_weights_have_singular_values() -> None:
    assert singular_values(torch.eye(3, dtype=torch.bfloat16)).tolist() == [1.0, 1.0, 1.0]
