"""The benchmarks' own parts: clocks, ratios, counts, tables and figures. No peer, no race."""

from __future__ import annotations

import itertools
import math
import re
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import figure, limit, memory, overhead, page, rows, spectra
from benchmarks.handwritten import NUMBERS, all_numbers
from benchmarks.measure import affordable, cpu_seconds, interleave, median_interval, ratios
from benchmarks.subjects import SUBJECTS, Training, mlp
from benchmarks.tools import PARAMETER_NUMBERS, SIGNAL_NUMBERS, TOOLS, Tool, Watch
from sigprop.signals import QUANTITIES
from sigprop.signals.channel_statistics import compute
from sigprop.signals.signal import pool

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def tiny(device: torch.device = CPU) -> Training:
    return mlp(device, depth=2, width=8, batch=16)


# --- time ---------------------------------------------------------------------------------


def test_a_round_takes_every_step_once_in_an_order_of_its_own() -> None:
    taken = []
    steps = {name: lambda name=name: taken.append(name) for name in "abcd"}
    table = interleave(steps, 20, clock=lambda step: (step(), len(taken))[1])
    rounds = [tuple(taken[at : at + 4]) for at in range(0, 80, 4)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 5
    # What the clock said stands under the step it was said of.
    assert table.loc[3, rounds[3][0]] == 13


def test_the_clock_sees_work_and_not_waiting() -> None:
    assert cpu_seconds(lambda: time.sleep(0.2)) < 0.1
    assert cpu_seconds(lambda: sum(range(3_000_000))) > 0.005


def test_ratios_see_through_a_machine_that_slows_down() -> None:
    drift = [1.0, 1.5, 2.0, 4.0, 8.0, 16.0]
    times = pd.DataFrame({"bare": drift, "tool": [1.25 * d for d in drift]})
    row = ratios(times, {"tool": "bare"}).iloc[0]
    assert (row["ratio"], row["low"], row["high"]) == (1.25, 1.25, 1.25)
    assert row["ms"] == 1000 * 1.25 * 3.0
    assert row["added ms"] == 1000 * 0.25 * 3.0


@pytest.mark.parametrize("n", [6, 9, 10, 25, 60])
def test_the_interval_covers_the_median_as_often_as_it_says(n: int) -> None:
    low, high = map(int, median_interval(range(n)))
    # P(x_low <= median <= x_high) counted over all ways values can fall about the median.
    covered = sum(math.comb(n, below) for below in range(low + 1, high + 1)) / 2**n
    assert covered >= 0.95
    narrower = sum(math.comb(n, below) for below in range(low + 2, high)) / 2**n
    assert narrower < 0.95


def test_few_values_give_their_range() -> None:
    assert median_interval([3, 1, 2]) == (1, 3)


def test_rounds_fit_the_budget_within_bounds() -> None:
    assert [affordable(s, 10) for s in (0.001, 0.5, 100)] == [200, 20, 5]


# --- what is compared ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 7, 3), (16, 8)])
def test_equal_numbers_are_sigprops_numbers(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).relu() + 0.5
    pooled = pool([compute(x, 1 if x.ndim == 4 else -1).numpy()])
    for name, quantity in QUANTITIES.items():
        assert float(NUMBERS[name](x)) == pytest.approx(quantity(pooled).item(), rel=1e-9), name
    assert [float(n) for n in all_numbers(x)] == pytest.approx(
        [float(f(x)) for f in NUMBERS.values()]
    )


def test_the_numbers_counted_are_the_columns_of_the_records() -> None:
    from sigprop.records import SCHEMA

    assert set(SIGNAL_NUMBERS) <= set(SCHEMA["signals"])
    assert set(PARAMETER_NUMBERS) <= set(SCHEMA["parameters"])


AT_HOME = [name for name in TOOLS if TOOLS[name].package in ("", "sigprop")]


@pytest.mark.parametrize("name", [name for name in AT_HOME if not TOOLS[name].compiled])
def test_tools_at_home_record_what_they_say_and_leave_nothing(name: str) -> None:
    training = tiny()
    with TOOLS[name].attach(training) as watch:
        watch.step()
        watch.step()
        assert watch.numbers() > 0 or not TOOLS[name].passes
    modules = list(training.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_the_hook_by_hand_counts_every_number_it_takes() -> None:
    training = tiny()
    with TOOLS["hook by hand, naive"].attach(training) as watch:
        watch.step()
        outputs = len(training.leaves())
        assert watch.numbers() == 4 * (2 * outputs - 1)  # the flattened input has no gradient


def test_a_probe_that_sees_nothing_is_not_called_free(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def elsewhere(training: Training) -> Iterator[Watch]:
        with TOOLS["sigprop, leaves"].attach(training) as watch:
            training.forward = tiny().model  # as compiled code does that runs without hooks
            yield watch

    def failing(training: Training) -> AbstractContextManager[Watch]:
        raise ValueError("no such\nthing") from KeyError("cause")

    facts: dict[str, Any] = {
        "records": "x",
        "passes": "forward",
        "covers": ("mean",),
        "against": "sigprop, leaves",
    }
    planted = {
        "blind": Tool("blind", elsewhere, **facts),
        "broken": Tool("broken", failing, **facts),
    }
    for name, tool in planted.items():
        monkeypatch.setitem(TOOLS, name, tool)
    monkeypatch.setitem(SUBJECTS, "tiny", tiny)
    table = overhead.survey("tiny", ["bare", "sigprop, leaves", *planted], CPU, 0.0)
    assert list(table["status"]) == [
        "measured",
        "measured",
        "it recorded nothing",
        "KeyError: 'cause'",
    ]
    assert table["ratio"].notna().tolist() == [True, True, False, False]
    assert table["ratio"][1] > 1


def test_costs_are_compared_with_those_of_as_much() -> None:
    rows = [("sigprop, leaves", 2.0, 100), ("fastai ActivationStats", 1.0, 10), ("delve", 3.0, 5)]
    table = pd.DataFrame(rows, columns=["tool", "added ms", "numbers"]).assign(subject="s")
    costs = overhead.with_costs(table).set_index("tool")
    assert costs["µs a number"].tolist() == [20.0, 100.0, 600.0]
    assert costs["over sigprop"]["fastai ActivationStats"] == 0.5
    assert costs["per number"]["fastai ActivationStats"] == 5.0
    # A covariance is not one of sigprop's numbers: it has a cost, and no price in them.
    assert costs.loc["delve", "over sigprop"] == 1.5
    assert math.isnan(costs["per number"]["delve"])


def test_every_tool_says_what_it_is() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    installed = {re.split(r"[<>=]", need)[0] for need in groups["benchmarks"]}
    bare_installs = re.findall(
        r"--no-deps -c constraints.txt (.*)", (ROOT / "Makefile").read_text()
    )
    installed |= {name for line in bare_installs for name in line.split()} | {"", "sigprop"}
    for name, tool in TOOLS.items():
        assert tool.records, name
        assert tool.package in installed, name
        assert set(tool.covers) <= {*SIGNAL_NUMBERS, *PARAMETER_NUMBERS}, name
        assert tool.against in {"", *TOOLS}, name
        assert tool.baseline in TOOLS, name


# --- memory -------------------------------------------------------------------------------


def test_the_highest_total_is_that_of_the_worst_moment() -> None:
    sizes = [+100, +50, -100, +70, -50, +20]  # 100, 150, 50, 120, 70, 90
    events = [
        {"name": "[memory]", "ts": at, "args": {"Bytes": size, "Device Type": 0}}
        for at, size in enumerate(sizes)
    ]
    others = [{"name": "aten::add", "ts": 0}]
    other_device = {"name": "[memory]", "ts": 0, "args": {"Bytes": 10**9, "Device Type": 1}}
    assert memory.highest_total([*reversed(events), *others, other_device]) == 150


@pytest.mark.filterwarnings("ignore:.*[Pp]rofiler")
def test_memory_that_is_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUBJECTS, "tiny", lambda device: mlp(device, 4, 16, 4096))
    bare, keeping = (memory.tensors("tiny", name) for name in ("bare", "keeps every output"))
    assert keeping > 1.3 * bare
    assert memory.tensors("tiny", "bare") == bare


# --- a long run, and spectra --------------------------------------------------------------


def test_a_long_run_repeats_what_a_probe_read_as_a_probe_keeps_it() -> None:
    step = rows.recorded_step(blocks=2)
    many = rows.repeated("signals", step.signals, range(3, 7), np.random.default_rng(0)).frame()
    assert many["step"].tolist() == [s for s in range(3, 7) for _ in range(len(step.signals))]
    again = many[many["step"] == 5].reset_index(drop=True)
    floats = list(step.signals.select_dtypes("float64"))
    others = [name for name in step.signals if name not in [*floats, "step"]]
    pd.testing.assert_frame_equal(again[others], step.signals[others])
    factors = (again[floats] / step.signals[floats]).to_numpy().ravel()
    factors = factors[np.isfinite(factors)]  # 0 and what is undefined stay as they are
    assert len(set(factors)) == len(factors) > 50
    assert ((factors > 0.5) & (factors < 2)).all()
    for name in floats:
        blank = step.signals[name].isin([0]) | step.signals[name].isna()
        pd.testing.assert_series_equal(again[name][blank], step.signals[name][blank])


def test_a_stage_that_comes_again_goes_on() -> None:
    watch = rows.Stopwatch()
    for _ in range(2):
        with watch.stage("waiting"):
            time.sleep(0.05)
    stage = watch.stages["waiting"]
    assert stage["seconds"] >= 0.1
    assert stage["processor s"] < 0.05
    if memory.RESET.exists():
        assert stage["peak MB"] > 10


def test_memory_held_only_between_stages_is_in_none() -> None:
    if not memory.RESET.exists():
        pytest.skip("the system keeps no high-water mark that can be reset")
    watch, size = rows.Stopwatch(), 300_000_000
    with watch.stage("before"):
        pass
    np.ones(size, np.uint8)
    with watch.stage("after"):
        pass
    with watch.stage("within"):
        np.ones(size, np.uint8)
    held = {name: stage["peak MB"] for name, stage in watch.stages.items()}
    assert held["after"] < held["before"] + 100
    assert held["within"] > held["after"] + 250


def test_a_spectrum_that_is_off_is_called_so() -> None:
    exact = [np.array([4.0, 1.0]), np.array([2.0, 1.0])]
    near = [torch.tensor([4.0, 1.0]), torch.tensor([2.0, 1.5])]
    assert spectra.error([torch.tensor(e) for e in exact], exact) == 0
    assert spectra.error(near, exact) == 0.25


def test_every_way_to_a_spectrum_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 4)]
    monkeypatch.setattr(spectra, "resnet50_layers", lambda: layers)
    monkeypatch.setitem(sys.modules, "weightwatcher", None)  # as where it is not installed
    table = spectra.main(quick=True).set_index("way")
    assert (table["singular values"] == 8 + 4).all()
    watched = table.index.str.startswith("weightwatcher")
    assert table.loc[watched, "status"].str.startswith("ModuleNotFoundError").all()
    assert watched.sum() == 3
    assert (table.loc[~watched, "status"] == "measured").all()
    assert table["error"][spectra.OURS] < 1e-12
    assert table["error"]["torch.linalg.svdvals, float32"] > 1e-9


# --- the table, drawn ---------------------------------------------------------------------

OVERHEAD = pd.DataFrame(
    [
        ("net, small", "sigprop, leaves", 1.5, 1.4, 1.6, 100.0, "measured"),
        ("net, small", "hook by hand, naive", 3.0, 2.5, 3.5, 10.0, "measured"),
        ("net, small", "delve", *[math.nan] * 4, "TypeError: why it does not"),
    ],
    columns=["subject", "tool", "ratio", "low", "high", "numbers", "status"],
)
GROWTH = pd.DataFrame(
    [
        {"axis": axis, "value": value, "tool": tool, "ms": value * cost, "ratio": cost}
        for axis, tool in itertools.product(("depth", "width"), ("bare", "sigprop, leaves"))
        for value, cost in ((10, 1.0), (100, 1.0 if tool == "bare" else 2.0))
    ]
)


def test_the_figure_shows_every_tool_and_says_which_does_not_run() -> None:
    tools = list(OVERHEAD["tool"])
    axes = figure.overhead(OVERHEAD, tools).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == tools
    markers = [line for line in axes.lines if str(line.get_marker()) in "oD"]
    points = [np.asarray(line.get_xydata())[0].tolist() for line in markers]
    assert points == [[1.5, 0], [3.0, 1]]
    assert [text.get_text() for text in axes.texts] == ["1.50", "3.00", "× does not run"]
    assert axes.get_xscale() == "log"


def test_the_growth_figure_draws_its_table() -> None:
    sheet = figure.growth(GROWTH)
    assert len(sheet.axes) == 4
    time_of_depth, ratio_of_depth = sheet.axes[0], sheet.axes[2]
    assert [np.asarray(line.get_ydata()).tolist() for line in time_of_depth.lines] == [
        [10, 100],
        [10, 200],
    ]
    assert np.asarray(ratio_of_depth.lines[0].get_ydata()).tolist() == [1, 2]
    assert {text.get_text() for text in sheet.legends[0].get_texts()} == {"bare", "sigprop, leaves"}


def test_the_page_names_the_machine_and_what_does_not_run(tmp_path: Path) -> None:
    costs = OVERHEAD.assign(**{"added ms": OVERHEAD["ratio"]})
    figures = ["ms", "ratio", "low", "high", "MB", "limit", "rounds", "threads"]
    alone = pd.DataFrame([dict.fromkeys(figures, 1.0)])
    tables = {
        "overhead": overhead.with_costs(costs),
        "alone": alone.assign(subject="net, small", tool="off-step"),
        "threads": alone.assign(subject="net, small", tool="off-step", limit=1.125),
        "memory": pd.DataFrame(
            {"subject": "net", "tool": ["bare", "x"], "measure": "tensors", "ratio": [1, 1.25]}
        ),
        "taps": pd.DataFrame(
            [{"tensor": "t", "MB": 4.0, "call": "compute(x)", "ms": 1, "ratio": 3.0}]
        ),
    }
    stages = pd.DataFrame({"stage": ["report", "report.html"], "seconds": [12.34, math.nan]})
    tables["rows"] = stages.assign(**{"signal rows": 1_000_000, "parameter rows": 5})
    facts = {"layers": 54, "weights": 10**6, "singular values": 99, "ms": 1.5, "ratio": 1.0}
    tables["spectra"] = pd.DataFrame(
        [{**facts, "way": "svdvals", "low": 1, "high": 1, "error": 3e-6, "status": "measured"}]
    )
    tables["machine"] = page.machine(CPU)
    page.write(tmp_path, tables)
    text = (tmp_path / "README.md").read_text()
    assert all(fact in text for fact in tables["machine"]["value"])
    assert f"torch: {torch.__version__}" in text
    assert "| delve | net, small | TypeError: why it does not |" in text
    assert "| sigprop, leaves | 1.5 |" in text
    assert "| net, tensors | 1 | 1.25 |" in text
    assert "| 1 | net, small | off-step | 1 | 1 | 1 | 1 | 1 | 1.125 | 1 |" in text
    assert "1,000,000 rows of signals" in text
    assert "this one took 12.3 s" in text
    assert "| svdvals | 1.5 | 1 | 1 | 1 | 3e-06 | measured |" in text


def test_the_page_says_who_is_beaten_by_less_than_the_aim() -> None:
    rows = [("a", "net, small", 2.96), ("a", "other", 3.0), ("b", "net, small", math.nan)]
    table = pd.DataFrame(rows, columns=["tool", "subject", "per number"])
    assert page.short_of_aim(table) == "a (net 2.96)"
    assert page.short_of_aim(table[1:]) == "none"


def test_the_bytes_that_numbers_depend_on_are_counted() -> None:
    """A matrix, a rectifier and a matrix: their tensors once each, forward and backward."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    training = Training(net, torch.randn(16, 4), lambda y: y.square().mean())
    weights = 3 * (4 * 8 + 8 + 8 * 2 + 2)
    forward, backward = 16 * (4 + 8 + 8 + 2), 16 * (8 + 8 + 2)  # the input needs no gradient
    assert limit.bytes_needed(training, "leaves") == 4 * (weights + forward + backward)
    assert limit.bytes_needed(training, None) == 4 * weights


def test_bandwidth_is_that_of_a_read() -> None:
    assert 1e8 < limit.bandwidth(CPU, rounds=1) < 1e13
