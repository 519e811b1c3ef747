"""Axes of blocks, ends of vertical axes and smoothed curves, from tables alone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sigprop.records.sequence import common_parent, with_stack
from sigprop.reporting.axis import (
    MOST_LONG,
    MOST_ROWS,
    MOST_SHORT,
    BlockAxis,
    label_blocks,
    mark_stacks,
)
from sigprop.reporting.curves import limits
from sigprop.reporting.figures.loss import smoothed

# --- an axis of blocks ------------------------------------------------------------------------


def panel() -> Axes:
    axes = Figure().subplots()
    axes.plot([0, 1], [0, 1])
    return axes


def of(names: list[str], **facts: Any) -> BlockAxis:
    return BlockAxis(
        dict(enumerate(names)), stacks={"n": dict.fromkeys(range(len(names)), 0)}, **facts
    )


def ticks(axes: Axes, vertical: bool = False) -> list[tuple[float, str]]:
    scale = axes.yaxis if vertical else axes.xaxis
    places = scale.get_major_locator().tick_values(-math.inf, math.inf)
    texts = scale.get_major_formatter().format_ticks(list(places))
    return list(zip(map(float, places), texts, strict=True))


@pytest.mark.parametrize("count", [1, 2, 8, 12, 13, 16, 17, 50, 333])
@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("length", [2, 9])
def test_names_are_thinned_evenly_until_they_can_be_read(
    count: int, vertical: bool, length: int
) -> None:
    names = [f"{number:x}".rjust(length, "b") for number in range(count)]
    axes = panel()
    label_blocks(axes, of(names), vertical)
    shown = ticks(axes, vertical)
    most = MOST_ROWS if vertical else MOST_SHORT if length <= 3 else MOST_LONG
    assert 1 <= len(shown) <= most
    assert shown[0] == (0.0, names[0])
    steps = {b - a for (a, _), (b, _) in itertools.pairwise(shown)}
    assert len(steps) <= 1
    assert len(shown) > most // 2 or len(shown) == count
    assert all(text == names[int(at)] for at, text in shown)


def test_numbers_need_no_names() -> None:
    axes = panel()
    label_blocks(axes, of(["0", "1", "2", "3"]))
    assert axes.get_xlabel() == "block  (execution order)"
    assert not ticks(axes) or all(at == int(at) for at, _ in ticks(axes))


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        (BlockAxis(), "block index  (execution order)"),
        (of(["first", "last"]), "block  (execution order)"),
        (of(["first", "last"], parent="model.h"), "block  model.h.*  (execution order)"),
        (of(["a.0", "b.0"], inside={0: "0", 1: "0"}), "block of each stack  (execution order)"),
    ],
)
def test_the_axis_says_what_stands_on_it(axis: BlockAxis, words: str) -> None:
    axes = panel()
    label_blocks(axes, axis)
    assert axes.get_xlabel() == words


def test_the_axis_has_a_margin_around_its_blocks() -> None:
    axes = panel()
    label_blocks(axes, of([f"block {k}" for k in range(41)]))
    assert axes.get_xlim() == (-2.0, 42.0)
    label_blocks(axes, of(["only"]))
    assert axes.get_xlim() == (-0.5, 0.5)
    assert BlockAxis().span is None


def test_a_line_stands_where_another_stack_begins() -> None:
    axes = panel()
    axes.set_xlim(-0.5, 9.5)
    before = len(axes.lines)
    mark_stacks(axes, BlockAxis(starts={6: "decoder", 0: "encoder", 8: ""}))
    lines = [line.get_xdata()[0] for line in axes.lines[before:]]  # type: ignore[index]
    assert lines == [5.5, 7.5]
    texts = {text.get_gid(): text.get_text() for text in axes.texts}
    assert texts == {"stack:0": "encoder", "stack:1": "decoder", "stack:2": "(root)"}
    mark_stacks(panel(), BlockAxis())


@pytest.mark.parametrize(
    ("modules", "parent"),
    [
        ([], ""),
        (["a"], ""),
        (["m.a.0"], "m.a"),
        (["m.a.0", "m.a.1", "m.b"], "m"),
        (["layer1.0", "layer10.0"], ""),  # whole segments, not letters
        (["m.a", "m.a.b"], "m"),
    ],
)
def test_the_module_above_all(modules: list[str], parent: str) -> None:
    assert common_parent(modules) == parent


def test_blocks_that_an_order_lacks_are_of_the_first_stack() -> None:
    order = pd.DataFrame(
        {"network": "n", "block": [0, 1], "stack": [0, 1], "stack_name": ["a", "b"]}
    )
    rows = pd.DataFrame({"network": ["n", "n", "m"], "block": [1, 2, 0], "value": [1.0, 2.0, 3.0]})
    placed = with_stack(rows, order)
    assert placed["stack"].tolist() == [1, 0, 0]
    assert placed["stack_name"].tolist() == ["b", "", ""]
    assert placed["value"].tolist() == [1.0, 2.0, 3.0]


# --- ends of a vertical axis ------------------------------------------------------------------

SPANS = [(0.0, 0.0), (1.0, 1.0), (1e-9, 1e9), (0.2, 0.9), (0.0, 1.0), (3.0, 3.0001)]


@pytest.mark.parametrize(("low", "high"), SPANS)
@pytest.mark.parametrize("kind", ["scale", "share", "signed", "cost"])
def test_all_data_lie_inside_the_axis(low: float, high: float, kind: Any) -> None:
    bottom, top = limits(low, high, kind, False)
    assert bottom < low <= high <= top
    assert top - bottom >= 0.1 * abs(high)


@pytest.mark.parametrize(("low", "high"), [span for span in SPANS if span[0] > 0])
def test_a_logarithmic_axis_has_the_same_margin_on_either_side(low: float, high: float) -> None:
    bottom, top = limits(low, high, "scale", True)
    assert bottom <= low <= high <= top
    assert math.log(low / bottom) == pytest.approx(math.log(top / high), abs=1e-9)


def test_numbers_at_the_end_of_float64_have_an_axis() -> None:
    bottom, top = limits(5e-324, 1.7e308, "scale", True)
    assert 0 < bottom < top < math.inf


def test_a_share_starts_at_zero_and_a_signed_number_is_centered() -> None:
    assert limits(0.3, 0.9, "share", False)[1] <= 1.04
    bottom, top = limits(-0.2, 0.7, "signed", False)
    assert bottom == -top


# --- smoothed losses --------------------------------------------------------------------------


def test_a_running_mean_is_that_of_each_draw_alone() -> None:
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame(
            {"run": "r", "network": "n", "seed": seed, "step": range(60), "loss": rng.random(60)}
        )
        for seed in (0, 1)
    ]
    frames[1].loc[7, "loss"] = math.inf
    found = smoothed(pd.concat(frames))
    for seed, frame in enumerate(frames):
        values = [x for x in frame["loss"] if math.isfinite(x)]
        window = max(1, len(values) // 20)
        expected = []
        for at in range(len(values)):
            begin = at - window // 2
            expected.append(float(np.mean(values[max(begin, 0) : begin + window])))
        mine = found[found["seed"] == seed]
        assert mine["loss"].tolist() == pytest.approx(expected)
        assert (7 in mine["step"].tolist()) == (seed == 0)


def test_nothing_finite_is_nothing_smoothed() -> None:
    loss = pd.DataFrame(
        {"run": ["r"], "network": ["n"], "seed": [0], "step": [0], "loss": [math.nan]}
    )
    assert smoothed(loss).empty
