from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import sigprop
from sigprop import BadInput, RunError, UnknownName
from sigprop.experiments.training import Plan, Progress
from sigprop.records import atomic_write

SMALL = {"depth": 2, "width": 8}
PLAN = Plan(steps=20, batch_size=16, evaluate_every=10)


def small(**options: Any) -> sigprop.Records:
    return sigprop.compare(["plain", "rescale"], plan=PLAN, seeds=2, options=SMALL, **options)


@pytest.fixture(scope="module")
def records() -> sigprop.Records:
    return small()


def test_every_network_and_seed_is_there(records: sigprop.Records) -> None:
    for table in ("signals", "parameters", "spectra", "coverage", "training"):
        frame = records.tables()[table]
        assert set(zip(frame["network"], frame["seed"], strict=True)) == {
            (network, seed) for network in ("plain", "rescale") for seed in (0, 1)
        }
    assert records.manifest["settings"]["options"] == SMALL


def test_the_steps_recorded_are_those_of_the_schedule(records: sigprop.Records) -> None:
    assert sorted(records.signals["step"].unique()) == list(range(20))
    assert sorted(records.spectra["step"].unique()) == [0, 20]
    assert sorted(records.training.query("mode == 'eval'")["step"].unique()) == [9, 19]


def test_long_runs_record_the_first_steps_and_about_forty_more() -> None:
    from sigprop.experiments.compare import _schedule

    due = [step for step in range(1000) if _schedule(1000)(step)]
    assert due[:11] == [*range(10), 25]
    assert due[-1] == 999
    assert len(due) == 9 + 40 + 1


def test_networks_see_the_same_batches(records: sigprop.Records) -> None:
    """Same seed, same order: a linear probe on the input would see the same numbers."""
    losses = {}
    for label in ("a", "b"):
        run = sigprop.compare({label: "plain"}, plan=PLAN, seeds=1, options=SMALL)
        losses[label] = run.training["loss"].tolist()
    assert losses["a"] == losses["b"]
    again = records.training.query("network == 'plain' and seed == 0")["loss"].tolist()
    assert again == losses["a"]


def test_on_disk_equals_in_memory(records: sigprop.Records, tmp_path: Path) -> None:
    written = small(directory=tmp_path / "run")
    keys = ["network", "seed"]
    for table, frame in records.tables().items():
        mine, theirs = (
            f.sort_values(keys, kind="stable") for f in (frame, written.tables()[table])
        )
        pd.testing.assert_frame_equal(
            mine.reset_index(drop=True), theirs.reset_index(drop=True), check_exact=True
        )
    assert written.missing == []


class _Stop(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize("stop_at", [("plain", 0, 1), ("plain", 1, 7), ("rescale", 0, 19)])
def test_an_interrupted_comparison_resumes_to_the_same_records(
    records: sigprop.Records, tmp_path: Path, stop_at: tuple[str, int, int]
) -> None:
    def stop(label: str, seed: int, row: Progress) -> None:
        if (label, seed, row.step) == stop_at:
            raise _Stop

    with pytest.raises(_Stop):
        small(directory=tmp_path, on_progress=stop)
    assert "was not completed" in " ".join(sigprop.load(tmp_path).missing)
    with pytest.raises(RunError, match="holds a run already"):
        small(directory=tmp_path)
    resumed = small(directory=tmp_path, resume=True)
    assert resumed.missing == []
    keys = ["network", "seed", "step"]
    for table in ("training", "spectra", "parameters"):
        whole = records.tables()[table].sort_values(keys, kind="stable").reset_index(drop=True)
        mine = resumed.tables()[table].sort_values(keys, kind="stable").reset_index(drop=True)
        pd.testing.assert_frame_equal(whole, mine, check_exact=True)
    # The window of dead units starts afresh where training resumed; every other number agrees.
    whole = records.signals.drop(columns="dead_fraction").sort_values(keys, kind="stable")
    mine = resumed.signals.drop(columns="dead_fraction").sort_values(keys, kind="stable")
    pd.testing.assert_frame_equal(
        whole.reset_index(drop=True), mine.reset_index(drop=True), check_exact=True
    )


def test_resuming_with_another_plan_is_refused(tmp_path: Path) -> None:
    small(directory=tmp_path)
    with pytest.raises(RunError, match=r"was run with .*; choose another directory"):
        sigprop.compare(
            ["plain"], plan=Plan(steps=9), directory=tmp_path, resume=True, options=SMALL
        )


def test_a_torn_checkpoint_is_said(tmp_path: Path) -> None:
    def stop(label: str, seed: int, row: Progress) -> None:
        if row.step == 7:
            raise _Stop

    with pytest.raises(_Stop):
        small(directory=tmp_path, on_progress=stop)
    checkpoint = tmp_path / "plain" / "seed-0" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot be resumed from"):
        small(directory=tmp_path, resume=True)


def test_divergence_is_recorded_and_not_raised() -> None:
    records = sigprop.compare(
        ["plain"], seeds=1, plan=Plan(steps=40, learning_rate=10.0), options={"depth": 12}
    )
    losses = records.training["loss"]
    assert not losses.iloc[-1] < float("inf")
    assert len(losses) < 40
    last = records.signals["step"].max()
    assert records.signals.query("step == @last")["nonfinite"].max() > 0
    assert last == records.training["step"].max()


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(12345)
    torch.rand(3)  # a state that no seed alone leads to
    state = torch.get_rng_state()
    sigprop.compare(["plain"], steps=1, seeds=1, options=SMALL)
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_draws_from_the_seed_of_the_run() -> None:
    options = {**SMALL, "drop": 0.5}
    losses = []
    for before in (1, 2):
        torch.manual_seed(before)
        run = sigprop.compare({"a": "rescale"}, steps=3, seeds=[0, 1], options=options)
        losses.append(run.training.groupby("seed")["loss"].agg(list).to_dict())
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


def test_own_factories_and_data() -> None:
    def mine() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))

    data = torch.randn(40, 5), torch.arange(40) % 2
    records = sigprop.compare({"mine": mine}, data, steps=3, seeds=1)
    assert records.networks() == ["mine"]
    assert set(records.signals["name"]) == {"0", "1", "2"}


BAD = {
    "unknown network": ((["plane"],), {}, UnknownName, "did you mean 'plain'?"),
    "a model": (({"m": nn.Linear(1, 1)},), {}, BadInput, "a callable that builds one anew"),
    "nothing": (([],), {}, BadInput, "at least one network and one seed"),
    "twice": ((["plain"], "digits", 3), {"plan": PLAN}, BadInput, "both say how long"),
    "option": ((["plain"],), {"options": {"dept": 3}, "seeds": 1}, BadInput, "'depth'"),
}


@pytest.mark.parametrize(("given", "options", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input(
    given: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        sigprop.compare(*given, **options)
    assert message in str(error.value)


# --- what a run draws, keeps and leaves ----------------------------------------------------------


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(), nn.Linear(16, 10))


def losses(records: sigprop.Records, seed: int) -> list[float]:
    return records.training.query("seed == @seed")["loss"].tolist()


def test_what_a_network_draws_while_training_depends_on_the_seed_alone() -> None:
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(sigprop.compare({"d": with_dropout}, steps=3, seeds=2))
    assert losses(found[0], 0) == losses(found[1], 0)
    assert losses(found[0], 1) == losses(found[1], 1)
    assert losses(found[0], 0) != losses(found[0], 1)


def one(directory: Path, **options: Any) -> sigprop.Records:
    return sigprop.compare(
        ["plain"], plan=PLAN, seeds=1, options=SMALL, directory=directory, **options
    )


@pytest.mark.parametrize("saves", [0, 3])
def test_rows_that_were_flushed_after_the_checkpoint_are_recorded_once(
    saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the flush and the checkpoint that speaks of it: first, or after three."""
    done: list[Path] = []

    def torn(path: Path, write: Any) -> None:
        if len(done) == saves:
            raise _Stop
        done.append(path)
        atomic_write(path, write)

    monkeypatch.setattr("sigprop.experiments.single_run.atomic_write", torn)
    with pytest.raises(_Stop):
        one(tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "plain" / "seed-0" / "checkpoint.pt").exists() == (saves > 0)
    resumed = one(tmp_path, resume=True)
    assert resumed.training.query("mode == 'train'")["step"].tolist() == list(range(20))
    assert not resumed.parameters.duplicated(["step", "name"]).any()
    assert not resumed.spectra.duplicated(["step", "name", "index"]).any()


def test_a_complete_run_is_not_trained_again_and_keeps_no_checkpoint(tmp_path: Path) -> None:
    first = one(tmp_path)
    assert not list(tmp_path.rglob("checkpoint.pt"))

    def fail(*_: object) -> None:
        raise AssertionError("a step was trained")

    again = one(tmp_path, resume=True, on_progress=fail)
    assert again.training["loss"].tolist() == first.training["loss"].tolist()


LABELS = {
    "empty": (["plain", ""], "a label names a folder and the lines of a figure; '' cannot"),
    "dots": ({"..": "plain"}, "a label names a folder and the lines of a figure; '..' cannot"),
    "blank": ({" ": "plain"}, "a label names a folder and the lines of a figure; ' ' cannot"),
    "backslash": (
        {"a\\b": "plain"},
        "a label names a folder; 'a\\\\b' holds a character that none may have",
    ),
    "twice": (
        ["plain", "plain"],
        "'plain' is given twice; give each network a label of its own: "
        "{'first': 'plain', 'second': 'plain'}",
    ),
    "one folder": (
        {"a/b": "plain", "A_b": "plain"},
        "the labels 'a/b' and 'A_b' would share one folder",
    ),
    "a name alone": ("plain", "networks are a list of names or a dict, not 'plain'; try ['plain']"),
}


@pytest.mark.parametrize(("networks", "message"), LABELS.values(), ids=LABELS)
def test_a_label_is_the_name_of_a_folder(networks: Any, message: str) -> None:
    with pytest.raises(BadInput) as error:
        sigprop.compare(networks, steps=1, seeds=1)
    assert str(error.value) == message


def test_a_seed_twice_and_a_batch_of_one_are_said() -> None:
    with pytest.raises(BadInput) as error:
        sigprop.compare(["plain"], steps=1, seeds=[3, 3])
    assert str(error.value) == "a seed is given twice: [3, 3]"
    with pytest.raises(BadInput) as error:
        sigprop.compare(["batchnorm"], plan=Plan(steps=1, batch_size=1), seeds=1, options=SMALL)
    assert str(error.value) == (
        "'batchnorm' normalizes over the batch, and a batch of one sample has no variance; choose "
        "batch_size=2 or more"
    )
    one_by_one = sigprop.compare(
        ["plain"], plan=Plan(steps=1, batch_size=1), seeds=1, options=SMALL
    )
    assert len(one_by_one.training) == 2


def test_a_callable_is_labeled_by_its_name() -> None:
    assert sigprop.compare([with_dropout], steps=1, seeds=1).networks() == ["with_dropout"]
