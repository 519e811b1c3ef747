"""Sweeps: the same bits wherever cells run, and what becomes of cells that fail or are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pytest
import swept
import torch
from messages import refusal

import sigprop
from sigprop import BadInput, RunError
from sigprop.cli.app import main
from sigprop.experiments.cells import Cell, cells
from sigprop.experiments.run_cell import LOCKED, Outcome
from sigprop.records.lock import RunLock

GRID = {"depth": [1, 3], "width": [4, 6], "seed": [0, 1]}


@pytest.fixture(scope="module")
def serial() -> sigprop.SweepResult:
    return sigprop.sweep(GRID, swept.train)


def assert_same(found: sigprop.SweepResult, wanted: sigprop.SweepResult) -> None:
    pd.testing.assert_frame_equal(
        found.cells.drop(columns="folder"), wanted.cells.drop(columns="folder")
    )
    for table, frame in wanted.records.tables().items():
        pd.testing.assert_frame_equal(found.records.tables()[table], frame, check_exact=True)


class TestCells:
    def test_the_last_axis_is_fastest(self) -> None:
        found = [tuple(cell.values.values()) for cell in cells({"a": [1, 2], "b": ["x", "y"]})]
        assert found == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]

    def test_seeds_depend_on_values_alone(self) -> None:
        few, many = cells({"a": [2]}), cells({"a": [1, 2, 3]})
        assert few[0].seed == many[1].seed
        assert len({cell.seed for cell in [*many, *cells({"a": [2]}, seed=1)]}) == 4

    def test_values_with_labels(self) -> None:
        (cell,) = cells({"network": {"mine": swept.train}})
        assert (cell.labels, cell.values) == ({"network": "mine"}, {"network": swept.train})
        (named,) = cells({"network": [swept.train]})
        assert named.labels == {"network": "train"}

    def test_names_are_folders_and_differ(self) -> None:
        names = [Cell({"a": label}, {}, 0).name for label in ("x/y", "x\\y", "x" * 300, "y" * 300)]
        assert len(set(names)) == 4
        assert all(len(name) <= 100 and not {"/", "\\"} & set(name) for name in names)

    @pytest.mark.parametrize(
        ("grid", "message"),
        [
            ({}, "a sweep needs at least one axis: {'depth': [4, 16]}"),
            ({"a": []}, "axis 'a' of the grid has no values"),
            ({"a": [1, 2, 1]}, "axis 'a' of the grid has 1 twice"),
            ({"a": 3}, "axis 'a' of a grid is a list of values, not 3"),
            ({"a": "abc"}, "axis 'a' of a grid is a list of values, not 'abc'"),
            (
                {"a": [(1, 2)]},
                "axis 'a' of the grid has a value without a name, (1, 2); give label -> value: "
                "{'a': {'first': ...}}",
            ),
        ],
    )
    def test_grids_that_are_none(self, grid: Any, message: str) -> None:
        with refusal(BadInput, message):
            cells(grid)


class TestTheSameBits:
    def test_rows_are_those_of_a_loop(self, serial: sigprop.SweepResult) -> None:
        assert len(serial.cells) == 8
        one = serial.records.signals.query("run == 'depth=3,width=6,seed=1'")
        torch.manual_seed(12345)  # the weights and batches are drawn from the seed that it is given
        own = swept.train(3, 6, 1).signals
        for column in own.columns.drop("run"):
            assert one[column].tolist() == pytest.approx(own[column].tolist(), nan_ok=True, abs=0)

    def test_processes(self, serial: sigprop.SweepResult) -> None:
        assert_same(sigprop.sweep(GRID, swept.train, jobs=2), serial)

    def test_a_directory(self, serial: sigprop.SweepResult, tmp_path: Path) -> None:
        assert_same(sigprop.sweep(GRID, swept.train, tmp_path), serial)
        loaded = sigprop.load(tmp_path)
        assert loaded.missing == []
        assert len(loaded.signals) == len(serial.records.signals)

    def test_dask(self, serial: sigprop.SweepResult, dask: Any) -> None:
        with joblib.parallel_config(backend="dask"):
            assert_same(sigprop.sweep(GRID, swept.train), serial)
        pids = set(dask.run(os.getpid).values())
        assert os.getpid() not in pids, "cells ran in other processes"

    def test_what_the_global_generator_gives_does_not_depend_on_order(self) -> None:
        whole = sigprop.sweep({"a": [1, 2, 3]}, swept.draw).cells
        alone = sigprop.sweep({"a": [3]}, swept.draw).cells
        assert whole["drawn"].nunique() == 3
        assert whole["drawn"][2] == alone["drawn"][0]
        assert set(whole["threads"]) == {1}

    def test_the_generator_and_the_threads_of_this_process_stay(self) -> None:
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        sigprop.sweep({"a": [1]}, swept.draw, threads=threads + 1)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads


@pytest.fixture(scope="module")
def dask() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True
    )
    path = str(Path(swept.__file__).parent)
    with cluster, distributed.Client(cluster) as client:
        client.run(lambda: __import__("sys").path.insert(0, path))
        yield client


class TestFailures:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_cell_that_raises_is_listed_and_the_others_go_on(self, jobs: int) -> None:
        result = sigprop.sweep({"a": [1, 2, 3]}, swept.fail_at_two, jobs=jobs)
        assert result.cells["status"].tolist() == ["complete", "failed", "complete"]
        assert result.cells["b"].tolist() == pytest.approx([0.25, float("nan"), 0.75], nan_ok=True)
        assert result.failed["error"].tolist() == ["ZeroDivisionError: two is"]
        assert "in fail_at_two" in result.traces["a=2"]
        assert repr(result) == "SweepResult(3 cells: 2 complete, 1 failed)"

    def test_complete_cells_are_not_run_again_and_failed_ones_are(self, tmp_path: Path) -> None:
        log = tmp_path / "log"

        def run() -> sigprop.SweepResult:
            grid: dict[str, Any] = {"a": [1, 2, 3], "log": {"it": str(log)}}
            return sigprop.sweep(grid, swept.count_calls, tmp_path / "runs")

        assert run().cells["status"].tolist() == ["complete", "failed", "complete"]
        log.with_name("fixed").touch()
        again = run()
        assert again.cells["status"].tolist() == ["complete"] * 3
        assert again.cells["b"].tolist() == [1, 2, 3]
        assert log.read_text().split() == ["1", "2", "3", "2"]

    @pytest.mark.parametrize(
        ("function", "seed"), [(partial(swept.scaled, by=3), 0), (partial(swept.scaled, by=2), 1)]
    )
    def test_a_folder_of_another_function_or_seed_is_not_taken_for_this_one(
        self, tmp_path: Path, function: Any, seed: int
    ) -> None:
        sigprop.sweep({"a": [1]}, partial(swept.scaled, by=2), tmp_path)
        with pytest.raises(RunError, match=r"is of swept.scaled.by=2. and seed .*; choose another"):
            sigprop.sweep({"a": [1]}, function, tmp_path, seed=seed)

    def test_what_a_killed_cell_left_is_written_over(self, tmp_path: Path) -> None:
        grid = {"depth": [1], "width": [4], "seed": [0]}
        first = sigprop.sweep(grid, swept.train, tmp_path)
        (folder,) = tmp_path.iterdir()
        (folder / "cell.json").write_text("{")
        (folder / "signals-00007.parquet").write_text("half")
        assert_same(sigprop.sweep(grid, swept.train, tmp_path), first)
        assert sigprop.load(tmp_path).missing == []

    def test_a_cell_that_another_process_has_is_left_to_it(self, tmp_path: Path) -> None:
        lock = RunLock(tmp_path / "a=2", LOCKED)
        result = sigprop.sweep({"a": [1, 2]}, swept.draw, tmp_path)
        assert result.cells["status"].tolist() == ["complete", "running"]
        assert "is being written by this process" in result.cells["error"][1]
        lock.release()
        again = sigprop.sweep({"a": [1, 2]}, swept.draw, tmp_path)
        assert again.cells["status"].tolist() == ["complete"] * 2

    def test_a_killed_process_is_said(self, tmp_path: Path) -> None:
        message = (
            "a process of the sweep was killed, perhaps for want of memory; complete cells are "
            "kept: start it again with fewer jobs"
        )
        with refusal(RunError, message):
            sigprop.sweep({"a": [1, 2]}, swept.die, tmp_path, jobs=2)

    @pytest.mark.parametrize(
        ("function", "error"),
        [
            (
                lambda a: 3,
                "BadInput: the function of a sweep returns Records, numbers by name, both, or "
                "None, not int",
            ),
            (
                lambda a: {"b": [1]},
                "BadInput: 'b' of a sweep's result is a number or text, not [1]",
            ),
            (
                lambda a: {"a": 1},
                "BadInput: 'a' of a sweep's result is a column already; give it another name",
            ),
            (lambda b: {}, "TypeError: TestFailures.<lambda>() got an unexpected keyword argument"),
        ],
    )
    def test_what_is_no_result(self, function: Any, error: str) -> None:
        (found,) = sigprop.sweep({"a": [1]}, function).cells["error"]
        assert found.startswith(error)

    def test_no_function(self) -> None:
        message = "function is called with each cell's values; 3 cannot be called"
        with refusal(BadInput, message):
            sigprop.sweep({"a": [1]}, 3)  # type: ignore[arg-type]


def test_a_function_that_writes_its_own_run(tmp_path: Path) -> None:
    result = sigprop.sweep({"a": [1, 2]}, swept.stream, tmp_path)
    assert result.cells["status"].tolist() == ["complete"] * 2
    assert result.records.signals.groupby("step").size().tolist()
    assert result.records.manifest["status"] == "complete"
    assert [Path(folder).name for folder in result.cells["folder"]] == ["a=1", "a=2"]


def test_numbers_and_records_together(tmp_path: Path) -> None:
    result = sigprop.sweep({"seed": [0]}, swept.both, tmp_path)
    assert result.cells["loss"].tolist() == [0.5]
    assert set(result.records.signals["run"]) == {"seed=0"}


def test_the_command_trains_networks_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", "plain", "--depths", "2,3", "--widths", "8", "--steps", "2"]
    arguments += ["--output", str(tmp_path)]
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code
        assert "accuracy" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "cells.csv")
    assert found["depth"].tolist() == [2, 3]
    assert found["status"].tolist() == ["complete"] * 2
    assert found["loss"].between(0.1, 10).all()
    assert sigprop.load(tmp_path).networks() == ["plain, 2 x 8", "plain, 3 x 8"]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--depths", "2,x"], 2, "--depths are whole numbers such as 4,16,64, not '2,x'"),
        (["--depths", "2,0"], 1, "depth=0"),
    ],
)
def test_the_command_says_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "plain", "--widths", "8", "--steps", "1", "--output", str(tmp_path), *more])
    assert stop.value.code == code
    assert said in capsys.readouterr().err


def test_outcomes_are_told_as_they_come() -> None:
    told: list[Outcome] = []
    sigprop.sweep({"a": [1, 2]}, swept.draw, on_cell=told.append)
    assert sorted(outcome.labels["a"] for outcome in told) == [1, 2]
