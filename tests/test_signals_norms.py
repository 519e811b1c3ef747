"""Norms and products of pairs of tensors, both ways, against exactly rounded sums (math.fsum)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sigprop.signals import native, ratios
from sigprop.signals.correlation import compute_products, interpret_products
from sigprop.signals.norms import angles, compute_norms, compute_updates, norms_plain, updates_plain


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test here reads both ways."""
    if request.param == "plain":
        monkeypatch.setattr(native, "LIBRARY", None)
    else:
        assert native.LIBRARY is not None, "not compiled: is there a C compiler? then `make setup`"
    return str(request.param)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def products(a: Tensor, b: Tensor) -> float:
    both = zip(a.double().flatten().tolist(), b.double().flatten().tolist(), strict=True)
    return math.fsum(x * y for x, y in both)


def norms_oracle(w: Tensor, g: Tensor) -> list[float]:
    units = list(zip(w, g, strict=True)) if w.squeeze().ndim > 1 else [(w, g)]
    worst = max(
        math.sqrt(products(gi, gi)) / max(math.sqrt(products(wi, wi)), 1e-3) for wi, gi in units
    )
    return [products(w, w), products(g, g), worst]


SHAPES = [(), (1,), (7,), (1000,), (5, 1), (1, 5), (16, 33), (8, 3, 3, 3), (4, 1, 1, 1), (3, 1025)]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", list(native.TYPES), ids=str)
def test_norms_of_many_parameters(dtype: torch.dtype, scale: float) -> None:
    scale = 1.0 if dtype == torch.float16 else scale  # its range ends at 65,504
    pairs = [
        ((normal(*s) * scale).to(dtype), (normal(*s, seed=1) * scale).to(dtype)) for s in SHAPES
    ]
    expected = [norms_oracle(w, g) for w, g in pairs]
    np.testing.assert_allclose(compute_norms(pairs), expected, rtol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("other", [torch.contiguous_format, torch.channels_last], ids=str)
def test_weights_and_gradients_lie_as_they_like(
    layout: torch.memory_format, other: torch.memory_format
) -> None:
    weight = normal(6, 5, 3, 3).to(memory_format=layout)
    grad = normal(6, 5, 3, 3, seed=1).to(memory_format=other)
    np.testing.assert_allclose(compute_norms([(weight, grad)]), [norms_oracle(weight, grad)])
    views = (normal(9, 8).T, normal(8, 9)), (normal(8, 18)[:, ::2], normal(8, 9))
    np.testing.assert_allclose(compute_norms(views), [norms_oracle(w, g) for w, g in views])


@pytest.mark.parametrize("dtype", list(native.TYPES), ids=str)
def test_weights_are_copied_on_the_way(dtype: torch.dtype) -> None:
    weights = [normal(*shape).to(dtype) for shape in SHAPES]
    weights += [normal(6, 5, 3, 3).to(dtype, memory_format=torch.channels_last)]
    weights += [normal(9, 8).to(dtype).T, normal(8, 18).to(dtype)[:, ::2]]
    weights[3][7] = math.nan
    asked = {i: torch.full_like(w, 7.0) for i, w in enumerate(weights) if i != 4}
    pairs = [(w, torch.ones_like(w)) for w in weights]
    np.testing.assert_array_equal(compute_norms(pairs, asked), compute_norms(pairs))
    for i, copy in asked.items():
        torch.testing.assert_close(copy, weights[i], rtol=0, atol=0, equal_nan=True)


def test_real_parameters_are_served(way: str) -> None:
    layer = nn.Linear(4, 3)
    layer(torch.ones(2, 4)).sum().backward()
    pairs = [(p, p.grad) for p in layer.parameters() if p.grad is not None]
    served = [native.supports_pair(p, g) for p, g in pairs]
    assert served == [way == "compiled"] * 2
    np.testing.assert_allclose(compute_norms(pairs), [norms_oracle(p, g) for p, g in pairs])


def test_types_that_differ_and_nothing_at_all() -> None:
    weight, grad = normal(4, 3), normal(4, 3, seed=1).bfloat16()
    np.testing.assert_allclose(compute_norms([(weight, grad)]), [norms_oracle(weight, grad)])
    assert compute_norms([]).shape == compute_updates([]).shape == (0, 3)


def test_a_broken_gradient_has_no_norms() -> None:
    grad = normal(4, 3)
    grad[1, 2] = math.nan
    _, gradient, worst = compute_norms([(normal(4, 3), grad)])[0]
    assert math.isnan(gradient)
    assert math.isnan(worst)


def test_the_floor_is_that_of_agc() -> None:
    weight, grad = torch.zeros(2, 3), torch.ones(2, 3)
    assert compute_norms([(weight, grad)])[0, 2] == pytest.approx(math.sqrt(3) / 1e-3, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_updates_and_their_angles(scale: float) -> None:
    pairs = [(normal(*s) * scale, normal(*s, seed=1) * scale) for s in SHAPES if math.prod(s) > 1]
    table = compute_updates(pairs)
    expected = [
        [products(a, a), products(b, b), products(b.double() - a.double(), b.double() - a.double())]
        for a, b in pairs
    ]
    np.testing.assert_allclose(table, expected, rtol=1e-12)
    truth = [
        math.acos(products(a, b) / math.sqrt(products(a, a) * products(b, b))) for a, b in pairs
    ]
    np.testing.assert_allclose(angles(table), truth, rtol=1e-6)


@pytest.mark.parametrize("radians", [0.0, 1e-7, 1e-4, 0.1, math.pi / 2, 3.0])
@pytest.mark.parametrize("length", [1.0, 1 + 1e-6, 5.0])
def test_turns_are_seen_however_small(radians: float, length: float) -> None:
    before = torch.tensor([1.0, 0.0], dtype=torch.float64)
    after = length * torch.tensor([math.cos(radians), math.sin(radians)], dtype=torch.float64)
    assert angles(compute_updates([(before, after)]))[0] == pytest.approx(
        radians, rel=1e-5, abs=1e-8
    )


def test_turns_agree_with_the_older_way() -> None:
    before, after = normal(30, 20), normal(30, 20) + 1e-3 * normal(30, 20, seed=1)
    expected = float(ratios.angle(before, after))
    assert angles(compute_updates([(before, after)]))[0] == pytest.approx(expected, rel=1e-5)


def test_the_angle_to_nothing_is_missing() -> None:
    zero = torch.zeros(3)
    assert np.isnan(
        angles(compute_updates([(zero, normal(3)), (normal(3), zero), (zero, zero)]))
    ).all()


@settings(max_examples=100, deadline=None)
@given(shape=st.lists(st.integers(1, 40), max_size=3), seed=st.integers(0, 99))
def test_both_ways_agree(shape: list[int], seed: int) -> None:
    pair = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    np.testing.assert_allclose(compute_norms([pair])[0], norms_plain(*pair), rtol=1e-12)
    np.testing.assert_allclose(compute_updates([pair])[0], updates_plain(*pair), rtol=1e-12)


@pytest.mark.parametrize("dtype", list(native.TYPES), ids=str)
@pytest.mark.parametrize("shape", [(1,), (15,), (16,), (17,), (3, 5, 7, 7), (2000,)], ids=str)
def test_products_leave_out_what_is_not_finite_in_either(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    a, b = normal(*shape).to(dtype), normal(*shape, seed=1).to(dtype)
    for broken in (False, True):
        if broken:
            a.view(-1)[0], b.view(-1)[-1], a.view(-1)[-1] = math.nan, math.inf, math.inf
        keep = a.isfinite() & b.isfinite()
        left, right = a[keep], b[keep]
        found = interpret_products(compute_products(a, b))
        expected = [products(left, left), products(right, right), products(left, right)]
        size = math.sqrt(expected[0] * expected[1])
        np.testing.assert_allclose([found.aa, found.bb], expected[:2], rtol=1e-6)
        assert found.ab == pytest.approx(expected[2], abs=1e-6 * size)


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1e30, 1e160])
def test_products_keep_their_correlation_at_any_scale(scale: float) -> None:
    a, b = normal(50).double() * scale, normal(50, seed=1).double() * scale
    expected = products(a / scale, b / scale) / math.sqrt(
        products(a / scale, a / scale) * products(b / scale, b / scale)
    )
    sums = compute_products(a, b)
    aa, bb, ab, *_ = sums.tolist()
    assert ab / math.sqrt(aa) / math.sqrt(bb) == pytest.approx(expected, rel=1e-6)


def test_products_of_operands_that_broadcast_or_lie_apart() -> None:
    a, b = normal(4, 6, 5, 5), normal(6, 1, 1, seed=1)
    last = a.to(memory_format=torch.channels_last)
    for x, y in ((a, b), (a, last), (last, last), (a[:, ::2], a[:, 1::2])):
        wide = torch.broadcast_tensors(x, y)
        found = interpret_products(compute_products(x, y))
        assert found.ab == pytest.approx(products(*wide), rel=1e-5)
        assert found.aa == pytest.approx(products(wide[0], wide[0]), rel=1e-5)
