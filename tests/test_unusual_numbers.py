"""Types and magnitudes at the edge of what has numbers: a right number, or none, and a reason."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, nn

import sigprop
from sigprop.signals.channel_statistics import compute, compute_plain
from sigprop.signals.correlation import compute_products_plain, interpret_products
from sigprop.signals.pooled import QUANTITIES
from sigprop.signals.signal import interpret, pool, pool_plain

EIGHT_BITS = [
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
]


class Returns(nn.Module):
    """A layer whose output is turned into something else."""

    def __init__(self, turned: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, x: Tensor) -> Tensor:
        return self.turned(x)


class Around(nn.Module):
    """Calls such a layer, and goes on without what it returned."""

    def __init__(self, turned: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.odd, self.head = Returns(turned), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.odd(x)
        return self.head(x)


def recorded(turned: Callable[[Tensor], Tensor]) -> sigprop.Records:
    model = Around(turned)
    with sigprop.attach(model, blocks=["odd", "head"], strict=True) as probe:
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        model(x).sum().backward()
    return probe.records


@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
def test_an_output_of_eight_bits_is_read(dtype: torch.dtype) -> None:
    records = recorded(lambda x: x.to(dtype))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    row = records.signals.query("name == 'odd' and port == 'out'").iloc[0]
    for name in ("second_moment", "kurtosis"):
        assert row[name] == pytest.approx(getattr(oracles, name)(x.float()), rel=1e-5)
    assert row["zero_fraction"] == oracles.zero_fraction(x.float())


UNREADABLE = {
    "complex": lambda x: torch.complex(x, x),
    "integer": lambda x: x.long(),
    "boolean": lambda x: x > 0,
    "sparse": lambda x: x.to_sparse(),
    "empty": lambda x: x[:0],
    "none": lambda x: None,
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
}
if hasattr(torch, "float4_e2m1fn_x2"):
    UNREADABLE["four bits"] = lambda x: x.to(torch.uint8).view(torch.float4_e2m1fn_x2)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("turned", UNREADABLE.values(), ids=UNREADABLE)
def test_an_output_without_numbers_is_unsupported(turned: Callable[[Tensor], Tensor]) -> None:
    records = recorded(turned)
    row = records.coverage.set_index("name").loc["odd"]
    assert row["status"] == "unsupported"
    assert row["reason"] == "returned no non-empty real floating-point tensor"
    assert records.coverage.set_index("name").loc["head", "status"] == "recorded"
    assert set(records.signals.query("module == 'odd'")["port"]) == {"in"}


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))
        self.bias = nn.Parameter(torch.randn(3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight + self.bias).abs()


def test_complex_parameters_have_the_norms_of_complex_numbers() -> None:
    torch.manual_seed(0)
    model = Complex()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    with sigprop.attach(model, optimizer, strict=True) as probe:
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()
    rows = probe.records.parameters.set_index("name")
    assert rows["shape"].to_dict() == {"weight": "4x3", "bias": "3"}
    for old, (name, parameter) in zip(before, model.named_parameters(), strict=True):
        w, g, d = old, parameter.grad, parameter.detach() - old
        assert g is not None
        truth = [math.sqrt(sum(abs(v) ** 2 for v in t.flatten().tolist())) for t in (w, g, d)]
        row = rows.loc[name]
        assert row["weight_norm"] == pytest.approx(truth[0], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(truth[1], rel=1e-5)
        assert row["update_to_weight"] == pytest.approx(truth[2] / truth[0], rel=1e-4)
    assert rows.loc["bias", "unit_grad_to_weight_max"] == pytest.approx(
        rows.loc["bias", "grad_to_weight"], rel=1e-6
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_plain_torch_counts_zeros_beside_very_different_channels(axis: int) -> None:
    x = torch.tensor([[0.0, 1e30], [1e-30, 0.0], [-1e-30, -2e30], [3e-30, 1e-30]])
    x = x if axis == 1 else x.T.contiguous()
    for table in (compute_plain(x, axis).numpy(), compute(x, axis).numpy()):
        signal = interpret(table)
        assert signal.number("zero_fraction") == oracles.zero_fraction(x)
        small = oracles.channels(x, axis)[0]
        assert signal.moments.mean[0] == pytest.approx(oracles.mean(small), rel=1e-5)
        assert signal.moments.m2[0] == pytest.approx(
            sum((v - oracles.mean(small)) ** 2 for v in small), rel=1e-5
        )


SQUARES = ("second_moment", "channel_variance", "mean_shift")


@pytest.mark.parametrize("way", [compute, compute_plain])
@pytest.mark.parametrize("pooled", [pool, pool_plain])
@pytest.mark.parametrize("power", [*range(-300, 301, 20), -150, -145, -72, 72, 77, 153, 155])
def test_no_magnitude_gives_a_wrong_finite_number(way, pooled, power: int) -> None:
    """In units of the scale the numbers are known; at the scale they are those, or not finite."""
    unit = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    scale = 10.0**power
    sums = pooled([way(unit * scale, 1).numpy()])
    found = {name: float(QUANTITIES[name](sums)[0]) for name in QUANTITIES}
    truth = {name: float(QUANTITIES[name](pool([compute(unit, 1).numpy()]))[0]) for name in found}
    assert found["zero_fraction"] == 0
    assert found["mean"] == pytest.approx(truth["mean"] * scale, rel=1e-9)
    if math.isfinite(found["kurtosis"]):
        assert found["kurtosis"] == pytest.approx(truth["kurtosis"], rel=1e-9)
    else:
        assert abs(power) > 70
    for name in SQUARES:
        if math.isfinite(found[name]):
            assert found[name] == pytest.approx(truth[name] * scale * scale, rel=1e-9)
        else:
            assert abs(power) > 140


@pytest.mark.parametrize("power", [-300, -160, -150, -140, 0, 140, 150, 160, 300])
def test_a_correlation_beyond_the_range_is_undefined(power: int) -> None:
    torch.manual_seed(0)
    a = torch.randn(50, dtype=torch.float64)
    b = a + torch.randn(50, dtype=torch.float64)
    products = interpret_products(compute_products_plain(a * 10.0**power, b))
    if abs(power) < 150:
        assert products.correlation == pytest.approx(oracles.correlation(a, b), rel=1e-9)
    else:
        assert math.isnan(products.correlation) or np.isclose(
            products.correlation, oracles.correlation(a, b)
        )
