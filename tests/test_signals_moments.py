from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sigprop.signals import DeadUnits, Moments, Signal
from sigprop.signals.activity import Activity
from sigprop.signals.signal import alive

rows = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(-100, 100, width=32),
)


def signal(moments: Moments) -> Signal:
    """The moments with an activity that says nothing more."""
    zero = np.zeros_like(moments.count)
    return Signal(moments, Activity(moments.count, zero, zero, zero, zero))


def number(moments: Moments, name: str) -> float:
    return signal(moments).number(name)


def assert_close(a: Moments, b: Moments, scale: float) -> None:
    """Equal to float64 rounding, which in a power sum grows with the scale to that power."""
    np.testing.assert_allclose(a.count, b.count)
    for power, name in ((1, "mean"), (2, "m2"), (3, "m3"), (4, "m4")):
        np.testing.assert_allclose(
            getattr(a, name),
            getattr(b, name),
            rtol=1e-9,
            atol=1e-11 * max(scale, 1e-3) ** power * max(a.count.max(), 1),
        )


@settings(deadline=None)
@given(rows, st.data())
def test_merging_any_split_gives_the_whole(x: np.ndarray, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, x.shape[1] - 1)), max_size=3)))
    parts = [part for part in np.split(x, cuts, axis=1) if part.shape[1]]
    merged = Moments.of(parts[0])
    for part in parts[1:]:
        merged = merged.merge(Moments.of(part))
    assert_close(merged, Moments.of(x), float(np.abs(x).max()))


@settings(deadline=None)
@given(rows)
def test_second_moment_is_channel_variance_plus_mean_shift(x: np.ndarray) -> None:
    moments = Moments.of(x)
    second = number(moments, "second_moment")
    apart = number(moments, "channel_variance") + number(moments, "mean_shift")
    assert apart == pytest.approx(second)
    assert second == pytest.approx(float((x**2).mean()), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(rows)
def test_pooling_equals_reading_all_channels_as_one(x: np.ndarray) -> None:
    pooled, whole = signal(Moments.of(x)).pooled(), Moments.of(x.reshape(1, -1))
    scale = max(float(np.abs(x).max()), 1e-3)
    for power, found in ((1, pooled.mean), (2, pooled.m2), (4, pooled.m4)):
        name = {1: "mean", 2: "m2", 4: "m4"}[power]
        atol = 1e-11 * scale**power * x.size
        np.testing.assert_allclose(found, getattr(whole, name), rtol=1e-9, atol=atol)


def test_averaging_variances_instead_of_merging_would_be_wrong() -> None:
    """The saboteur: what a probe without counts and means would report over unequal batches."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (1, 10)), rng.normal(2, 1, (1, 90))
    merged = number(Moments.of(a).merge(Moments.of(b)), "channel_variance")
    assert merged == pytest.approx(float(np.concatenate([a, b], axis=1).var()))
    averaged = sum(number(Moments.of(x), "channel_variance") for x in (a, b)) / 2
    assert abs(averaged - merged) > 0.1 * merged


def test_variance_is_biased_and_not_unbiased() -> None:
    assert number(Moments.of([[0.0, 2.0]]), "channel_variance") == 1.0  # unbiased would be 2


def test_a_two_point_channel_has_kurtosis_one_and_a_constant_has_none() -> None:
    assert number(Moments.of([[-1.0, 1.0, -1.0, 1.0]]), "kurtosis") == 1.0
    assert math.isnan(number(Moments.of([[5.0, 5.0]]), "kurtosis"))


def test_merging_with_an_empty_channel_changes_nothing() -> None:
    zero = np.zeros(1)
    full, empty = Moments.of([[1.0, 3.0]]), Moments(zero, zero, zero, zero, zero)
    assert_close(full.merge(empty), full, 3)
    assert_close(empty.merge(full), full, 3)
    assert math.isnan(number(empty, "second_moment"))


def unit(count: float, nonfinite: float, highest: float) -> Signal:
    read = (count, nonfinite, 0.0, -abs(highest), highest)
    nothing = np.zeros(1)
    moments = Moments(np.array([count - nonfinite]), *[nothing] * 4)
    return Signal(moments, Activity(*(np.array([v]) for v in read)))


def test_a_unit_that_holds_nan_is_not_dead() -> None:
    assert not alive([unit(4, 0, 0.0).table])[0]
    assert alive([unit(4, 1, 0.0).table])[0]
    assert alive([unit(4, 0, 1e-30).table])[0]


def test_max_abs_is_missing_when_nothing_is_finite() -> None:
    assert math.isnan(unit(2, 2, 0.0).number("max_abs"))
    assert unit(2, 0, 0.5).number("max_abs") == 0.5


def test_dead_units_over_all_steps_and_over_a_sliding_window() -> None:
    on, off = np.array([True]), np.array([False])
    forever, recent = DeadUnits(None), DeadUnits(2)
    history = [
        (*forever.update({"a": 1}, unit), *recent.update({"a": 1}, unit))
        for unit in (off, on, off, off)
    ]
    assert history == [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0)]


def dead_by_loops(steps: list[dict[str, list[bool]]], window: int | None) -> dict[str, float]:
    """Return the dead shares after the last step: a unit at a time, from all its history."""
    shares = {}
    for key, last in steps[-1].items():
        history = [step[key] for step in steps if key in step]
        while any(len(units) != len(last) for units in history):  # another width begins anew
            history.pop(0)
        seen = history[-window:] if window else history
        dead = [not any(step[unit] for step in seen) for unit in range(len(last))]
        shares[key] = sum(dead) / len(dead)
    return shares


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"), st.lists(st.booleans(), min_size=2, max_size=3), min_size=1
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([None, 1, 2, 4]),
)
def test_dead_units_of_several_tensors_that_come_and_go(steps, window: int | None) -> None:
    units = DeadUnits(window)
    for step in range(len(steps)):
        now = steps[step]
        counts = {key: len(alive) for key, alive in now.items()}
        found = units.update(counts, np.array([on for alive in now.values() for on in alive]))
        truth = dead_by_loops(steps[: step + 1], window)
        assert dict(zip(now, found.tolist(), strict=True)) == pytest.approx(truth)
