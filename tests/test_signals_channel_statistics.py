from __future__ import annotations

import math

import oracles
import pytest
import torch
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.signals import Signal, measure_signal, native
from sigprop.signals.channel_statistics import compute
from sigprop.signals.columns import COLUMNS
from sigprop.signals.signal import alive, interpret


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test here reads both ways."""
    if request.param == "plain":
        monkeypatch.setattr(native, "LIBRARY", None)
    else:
        assert native.LIBRARY is not None, "not compiled: is there a C compiler? then `make setup`"
    return str(request.param)


def normal(*shape: int, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> Tensor:
    return torch.empty(shape).normal_(mean, std, generator=torch.Generator().manual_seed(seed))


LAYOUTS = {
    "features": (normal(32, 6, mean=0.3), -1),
    "images": (normal(4, 3, 5, 5, mean=-1.0), 1),
    "images, channels last": (
        normal(4, 3, 5, 5, mean=-1.0).to(memory_format=torch.channels_last),
        1,
    ),
    "channel axis last": (normal(4, 5, 5, 3), -1),
    "tokens": (normal(2, 7, 6, std=3.0), -1),
    "time first": (normal(7, 2, 6), 2),
    "rectified": (normal(16, 8).relu(), 1),
    "one sample": (normal(1, 4), 1),
    "a vector": (normal(9), 0),
    "float64": (normal(8, 3).double(), 1),
    "a view with strides": (normal(8, 12)[::2, ::3], 1),
}


@pytest.mark.parametrize(("x", "axis"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_number_equals_a_float64_loop(x: Tensor, axis: int) -> None:
    signal = measure_signal(x, axis)
    # float32 rounding of each of the three passes is 6e-8; 1e-6 leaves room for their sum.
    assert signal.number("second_moment") == pytest.approx(oracles.second_moment(x), rel=1e-6)
    assert signal.number("channel_variance") == pytest.approx(
        oracles.channel_variance(x, axis), rel=1e-6, abs=1e-12
    )
    assert signal.number("mean_shift") == pytest.approx(oracles.mean_shift(x, axis), rel=1e-6)
    assert signal.number("kurtosis") == pytest.approx(oracles.kurtosis(x), rel=2e-6)
    assert signal.number("mean") == pytest.approx(float(x.double().mean()), rel=1e-6, abs=1e-7)
    assert signal.number("zero_fraction") == oracles.zero_fraction(x)
    assert signal.number("max_abs") == float(x.abs().max())
    assert signal.number("channel_variance") + signal.number("mean_shift") == pytest.approx(
        signal.number("second_moment"), rel=1e-12
    )


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e2, 1e4])
def test_nothing_cancels_when_the_mean_is_far_larger_than_the_spread(mean: float) -> None:
    x = normal(4096, 4, mean=mean)
    assert measure_signal(x).number("channel_variance") == pytest.approx(
        float(x.double().var(dim=0, correction=0).mean()), rel=1e-5
    )


def test_the_one_pass_formula_would_fail_at_a_large_mean() -> None:
    """The saboteur: E[x²] - E[x]² in float32, as many hooks do it."""
    x = normal(4096, 4, mean=1e4)
    naive = float(((x * x).mean(0) - x.mean(0) ** 2).mean())
    assert abs(naive - 1) > 0.5


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-10, 1e10, 1e19, 1e30, 1e37])
def test_powers_neither_overflow_nor_underflow(scale: float) -> None:
    x = normal(256, 4) * scale
    signal = measure_signal(x)
    truth = float(x.double().square().mean())
    assert signal.number("second_moment") == pytest.approx(truth, rel=1e-5)
    assert signal.number("kurtosis") == pytest.approx(oracles.kurtosis(x / scale), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_in_single(dtype: torch.dtype) -> None:
    x = normal(512, 4, mean=300.0, std=100.0).to(dtype)
    signal = measure_signal(x)
    assert signal.number("channel_variance") == pytest.approx(
        float(x.double().var(dim=0, correction=0).mean()), rel=1e-5
    )


def test_autocast_does_not_reach_the_statistics(way: str) -> None:
    x = normal(64, 8, mean=5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compute(x)
    assert inside.dtype == {"compiled": torch.float64, "plain": torch.float32}[way]
    assert torch.equal(inside, compute(x))


def test_nonfinite_values_are_counted_and_left_out() -> None:
    x = normal(64, 3)
    broken = x.clone()
    broken[0, 0], broken[1, 0], broken[2, 1] = math.nan, math.inf, -math.inf
    signal = measure_signal(broken)
    assert signal.activity.nonfinite.tolist() == [2, 1, 0]
    left = [broken[broken[:, c].isfinite(), c].double() for c in range(3)]
    expected = [float(channel.var(correction=0)) for channel in left]
    got = (signal.moments.m2 / signal.moments.count).tolist()
    assert got == pytest.approx(expected, rel=1e-5)
    assert signal.number("channel_variance") + signal.number("mean_shift") == pytest.approx(
        signal.number("second_moment"), rel=1e-12
    )


def test_a_tensor_of_nothing_finite_gives_missing_numbers_and_no_zeros() -> None:
    signal = measure_signal(torch.full((4, 2), math.nan))
    assert math.isnan(signal.number("second_moment"))
    assert math.isnan(signal.number("max_abs"))
    assert signal.number("zero_fraction") == 0
    assert alive([signal.table]).all()


def test_micro_batches_merge_to_the_whole_batch() -> None:
    x = normal(60, 5, mean=2.0)
    whole, parts = measure_signal(x), [measure_signal(p) for p in x.split([10, 20, 30])]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    for name in ("second_moment", "channel_variance", "mean_shift", "kurtosis"):
        assert merged.number(name) == pytest.approx(whole.number(name), rel=1e-6)
    assert merged.number("max_abs") == whole.number("max_abs")


def test_signals_of_different_widths_do_not_merge() -> None:
    with pytest.raises(BadInput, match="cannot merge a signal of 3 channels with one of 4"):
        measure_signal(normal(2, 3)).merge(measure_signal(normal(2, 4)))


@pytest.mark.parametrize(
    "x",
    [torch.ones(2, 2, dtype=torch.long), torch.ones(2, dtype=torch.complex64), torch.empty(0, 3)],
    ids=["integers", "complex", "empty"],
)
def test_what_cannot_be_read_is_refused(x: Tensor) -> None:
    with pytest.raises(BadInput, match="a signal is read from a non-empty real floating-point"):
        measure_signal(x)


def test_a_channel_axis_outside_the_tensor_is_refused() -> None:
    with pytest.raises(BadInput, match=r"channel_dim 3 is outside a tensor of shape \(2, 2\)"):
        measure_signal(torch.ones(2, 2), 3)


def test_a_reading_has_one_row_a_channel_and_changes_nothing() -> None:
    x = normal(8, 5)
    before = x.clone()
    statistics = compute(x)
    assert statistics.shape == (5, len(COLUMNS))
    assert torch.equal(x, before)
    assert isinstance(interpret(statistics.numpy()), Signal)


def test_the_definitions_on_a_tensor_counted_by_hand() -> None:
    """One image of two channels: (0, 2) and (1, 1). Signal-propagation plots, Brock et al. 2021."""
    x = torch.tensor([[[[0.0, 2.0]], [[1.0, 1.0]]]])
    signal = measure_signal(x, 1)
    assert signal.number("second_moment") == (0 + 4 + 1 + 1) / 4
    assert signal.number("channel_variance") == (1 + 0) / 2  # biased; unbiased would be (2 + 0) / 2
    assert signal.number("mean_shift") == (1 + 1) / 2
    assert measure_signal(x.permute(0, 2, 3, 1), -1).number("channel_variance") == 0.5
    assert measure_signal(x.reshape(2, 2).T, 1).number("mean_shift") == 1.0
