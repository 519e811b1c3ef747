"""Many ranks: the first one's records are those of one process that had the whole batch."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rank_cases
import torch
from rank_cases import CASES, TROUBLES, train

import sigprop

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs gloo",
)

#: The cases that three ranks do as well.
OF_THREE = [n for n in ("ddp", "ddp, a block on one rank", "fsdp2", "fsdp1") if n in CASES]
#: A float64 sum over ranks rounds otherwise than one over samples; cancellation in small means
#: costs a few digits. Float32 weights are the sums of other gradients after a step.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Return by number of ranks what each rank found."""
    found = {}
    for size, names in ((2, [*CASES, *TROUBLES]), (3, OF_THREE)):
        file = tmp_path_factory.mktemp("ranks") / "found"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={size}", rank_cases.__file__, str(file), *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        parts = [Path(f"{file}.{rank}") for rank in range(size)]
        found[size] = [pickle.loads(part.read_bytes()) for part in parts]
        if "streamed" in names:
            found[size][0]["streamed"]["loaded"] = sigprop.load(f"{file}.run")
    return found


@cache
def whole(name: str, size: int) -> dict[str, Any]:
    """Return what one process records of the same training as ranks do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what compiled code does not show
        return train(CASES[name], plain=rank_cases.ENDS[size][-2])


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, tolerance: float) -> None:
    """Check that two frames have the same rows, and numbers that differ by rounding only."""
    keys = [c for c in ("step", "mode", "name", "port", "direction") if c in expected]
    found, expected = (f.set_index(keys).sort_index() for f in (found, expected))
    assert list(found.index) == list(expected.index)
    for column in expected:
        mine, theirs = found[column].to_numpy(), expected[column].to_numpy()
        if expected[column].dtype.kind == "f":
            scale = np.nanmax(np.abs(theirs), initial=1e-30)
            np.testing.assert_allclose(
                mine, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=str(column)
            )
        elif column not in ("shape", "ndim"):  # of a flat piece they are those of the piece
            assert list(mine) == list(theirs), column


@pytest.mark.parametrize(
    ("size", "name"), [(2, name) for name in CASES] + [(3, name) for name in OF_THREE]
)
def test_the_first_rank_records_the_whole_batch(
    runs: dict[int, list[dict[str, Any]]], size: int, name: str
) -> None:
    first, *others = (found[name] for found in runs[size])
    expected, tolerance = whole(name, size), TOLERANCES[CASES[name].dtype]
    signals, parameters = first["signals"], first["parameters"]
    if name == "ddp, own metric":  # in float32, and of gradients as they are
        forward = signals["direction"] == "forward"
        frames = signals, expected["signals"]
        mine, theirs = (f["mean_abs"][forward] for f in frames)
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
        signals, expected["signals"] = (f.drop(columns="mean_abs") for f in frames)
    if name == "ddp, summed loss":
        backward = signals["direction"] == "backward"
        for column, power in (("second_moment", 2), ("mean", 1), ("max_abs", 1)):
            # in the single run the loss was not multiplied by the number of ranks
            signals.loc[backward, column] /= size**power
            if column == "second_moment":
                signals.loc[backward, ["channel_variance", "mean_shift"]] /= size**power
    assert_same(signals, expected["signals"], tolerance)
    if CASES[name].wrap == "fsdp1":  # the units of flat pieces are not known
        assert parameters["unit_grad_to_weight_max"].isna().all()
        column = expected["parameters"]["unit_grad_to_weight_max"]
        parameters = parameters.assign(unit_grad_to_weight_max=column.to_numpy())
    assert_same(parameters, expected["parameters"], tolerance)
    for other in others:
        assert other["signals"].empty
        assert other["parameters"].empty
    scale = 0.25 if name == "ddp, summed loss" else 1 / size
    assert first["manifest"] == {"ranks": size, "grad_scale": scale}


@pytest.mark.parametrize(
    ("size", "name"), [(2, name) for name in CASES] + [(3, name) for name in OF_THREE]
)
def test_training_is_bit_identical(
    runs: dict[int, list[dict[str, Any]]], size: int, name: str
) -> None:
    for found in runs[size]:
        for mine, bare in zip(found[name]["weights"], found[name]["bare"], strict=True):
            assert torch.equal(mine, bare)


def test_bytes_and_collectives_are_those_of_the_formula(
    runs: dict[int, list[dict[str, Any]]],
) -> None:
    """Four reductions a recorded step: 72 bytes a channel and 48 a tap; and one meeting."""
    found = runs[2][0]["ddp"]
    taps = found["signals"].query("step == 0")
    channels = len(taps) * 8 - 6 * (taps["channels"] == 2).sum()
    channels += (taps["channels"] - 8).where(taps["channels"] > 8, 0).sum()
    collectives, sent = found["traffic"]
    known = 2 * (16 + 0)  # the sizes of two gathers
    assert collectives == 4 * rank_cases.STEPS + 2 * 1
    per_step = 6 * 8 + 72 * taps["channels"].sum() + 48 * len(taps)
    described = sent - rank_cases.STEPS * per_step
    assert known < described < 400 * len(taps)


def assert_training_went_on(runs: dict[int, list[dict[str, Any]]], name: str) -> None:
    for found in runs[2]:
        for mine, bare in zip(found[name]["weights"], found["no probe"]["weights"], strict=True):
            assert torch.equal(mine, bare)


class TestTrouble:
    def test_a_probe_on_one_rank_only(self, runs: dict[int, list[dict[str, Any]]]) -> None:
        assert_training_went_on(runs, "one rank only")
        (warning,) = runs[2][0]["one rank only"]["warnings"]
        assert warning == (
            "this probe records this rank alone: rank 1 of 2 attached no probe. Attach on every "
            "rank, or say ranks='own' here"
        )
        assert runs[2][0]["one rank only"]["steps"] == [0, 1, 2, 3]

    def test_a_rank_that_records_its_own(self, runs: dict[int, list[dict[str, Any]]]) -> None:
        assert_training_went_on(runs, "own")
        assert runs[2][1]["own"]["warnings"] == []
        assert runs[2][1]["own"]["steps"] == [0, 1, 2, 3]

    def test_ranks_that_disagree_are_told_so_on_all(
        self, runs: dict[int, list[dict[str, Any]]]
    ) -> None:
        assert_training_went_on(runs, "other blocks")
        said = {found["other blocks"]["error"] for found in runs[2]}
        assert len(said) == 1
        assert said.pop().startswith("the probes of rank 0 and rank 1 differ in blocks: ['blocks.0")
        assert [found["other blocks"]["hooks"] for found in runs[2]] == [0, 0]

    def test_a_budget_records_the_same_steps_on_all(
        self, runs: dict[int, list[dict[str, Any]]]
    ) -> None:
        assert_training_went_on(runs, "overhead")
        first, other = (found["overhead"] for found in runs[2])
        assert first["warnings"] == other["warnings"] == []
        assert first["steps"][0] == 0
        assert all(b - a >= 2 for a, b in zip(first["steps"], first["steps"][1:], strict=False))

    def test_the_first_rank_writes_the_run(self, runs: dict[int, list[dict[str, Any]]]) -> None:
        assert_training_went_on(runs, "streamed")
        first, other = (found["streamed"] for found in runs[2])
        assert first["warnings"] == other["warnings"] == []
        assert (first["steps"], other["steps"]) == ([0, 1, 2, 3], [])
        assert len(first["loaded"].signals) == first["rows"]
        assert first["loaded"].manifest["ranks"] == 2
        assert first["loaded"].missing == []

    def test_one_rank_may_measure_by_itself(self, runs: dict[int, list[dict[str, Any]]]) -> None:
        assert runs[2][0]["measures alone"]["rows"] > 0

    @pytest.mark.parametrize(
        ("name", "said_first"),
        [
            ("fails before", "RankError: the probe of another rank failed"),
            ("fails in the middle", "the probe failed and is now off; training goes on"),
        ],
    )
    def test_a_probe_that_fails_is_off_on_all(
        self, runs: dict[int, list[dict[str, Any]]], name: str, said_first: str
    ) -> None:
        assert_training_went_on(runs, name)
        first, last = (found[name]["warnings"] for found in runs[2])
        assert len(first) == len(last) == 1
        assert said_first in first[0]
        assert "ValueError: broken on purpose" in last[0]
