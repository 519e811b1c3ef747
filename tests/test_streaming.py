"""A probe that writes to a run directory while a model trains, and what may happen to it."""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
import streamed
import torch
from messages import refusal
from torch import nn

import sigprop
from sigprop import BadInput, ProbeWarning, RunError
from sigprop.probing import streaming
from sigprop.records import RunWriter
from sigprop.records.lock import LOCK, RunLock, Writer

TESTS = Path(__file__).parent


def in_memory(last: int = 10) -> sigprop.Records:
    """The same training, kept in memory."""
    return streamed.train(None, last=last, resume="never").records


def assert_same_rows(found: sigprop.Records, wanted: sigprop.Records) -> None:
    for table, frame in wanted.tables().items():
        pd.testing.assert_frame_equal(found.tables()[table], frame)


class TestWriting:
    def test_what_is_streamed_is_what_is_kept_in_memory(self, tmp_path: Path) -> None:
        probe = streamed.train(tmp_path)
        wanted = in_memory()
        assert_same_rows(sigprop.load(tmp_path), wanted)
        assert_same_rows(probe.records, wanted)
        assert sigprop.load(tmp_path).missing == probe.records.missing == []

    def test_each_flush_makes_one_part_a_table(self, tmp_path: Path) -> None:
        streamed.train(tmp_path)
        parts = json.loads((tmp_path / "manifest.json").read_text())["parts"]
        signals = [part["rows"] for part in parts if part["name"].startswith("signals")]
        assert signals == [33, 33, 33, 11]
        assert sum(part["name"].startswith("coverage") for part in parts) == 1
        assert sorted(path.name for path in tmp_path.glob("*.parquet")) == sorted(
            part["name"] for part in parts
        )

    def test_rows_leave_memory_with_a_flush(self, tmp_path: Path) -> None:
        model = streamed.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with sigprop.attach(model, optimizer, directory=tmp_path, flush_every=4) as probe:
            kept = []
            for _ in range(9):
                streamed.advance(probe, model, optimizer, 1)
                kept.append(len(probe._tables._tables["signals"]._parts))
        assert kept == [1, 2, 3, 0, 1, 2, 3, 0, 1]

    def test_records_hold_what_was_flushed_what_waits_and_the_step_in_progress(
        self, tmp_path: Path
    ) -> None:
        model = streamed.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with sigprop.attach(model, optimizer, directory=tmp_path, flush_every=2) as probe:
            streamed.advance(probe, model, optimizer, 3)
            model(torch.randn(5, 3))
            assert probe.records.signals["step"].unique().tolist() == [0, 1, 2, 3]
            assert sigprop.load(tmp_path).signals["step"].unique().tolist() == [0, 1]
            assert "was not completed: it ends after step 1" in sigprop.load(tmp_path).missing[0]
            assert probe.records.missing == []

    def test_the_manifest_says_what_was_recorded(self, tmp_path: Path) -> None:
        streamed.train(tmp_path, network="net", seed=3)
        manifest = sigprop.load(tmp_path).manifest
        assert manifest["status"] == "complete"
        assert (manifest["networks"], manifest["seeds"], manifest["steps"]) == (["net"], [3], 10)

    def test_only_recorded_steps_count(self, tmp_path: Path) -> None:
        streamed.train(tmp_path, last=20, every=5)
        parts = json.loads((tmp_path / "manifest.json").read_text())["parts"]
        assert [p["rows"] for p in parts if p["name"].startswith("signals")] == [33, 11]

    def test_an_exception_leaves_the_run_incomplete_and_all_rows_written(
        self, tmp_path: Path
    ) -> None:
        def train() -> None:
            model = streamed.network()
            with sigprop.attach(model, blocks="leaves", directory=tmp_path) as probe:
                model(torch.ones(5, 3)).sum().backward()
                probe.step()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train()
        loaded = sigprop.load(tmp_path)
        assert loaded.signals["step"].tolist() == [0] * 11
        assert "was not completed" in loaded.missing[0]
        assert not (tmp_path / LOCK).exists()

    def test_a_model_that_is_gone_leaves_its_rows(self, tmp_path: Path) -> None:
        model = streamed.network()
        probe = sigprop.attach(model, blocks="leaves", directory=tmp_path)
        model(torch.ones(5, 3)).sum().backward()
        probe.step()
        del model, probe
        gc.collect()
        assert len(sigprop.load(tmp_path).signals) == 11
        assert not (tmp_path / LOCK).exists()

    def test_draining_is_refused(self, tmp_path: Path) -> None:
        with sigprop.attach(streamed.network(), directory=tmp_path) as probe:
            message = (
                f"the rows of this probe are written to {tmp_path}; drain is for a probe without a "
                "directory"
            )
            with refusal(BadInput, message):
                probe.drain()

    def test_an_attachment_that_fails_lets_go_of_the_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(sigprop.Probe, "_install", fail)
        with pytest.raises(ZeroDivisionError):
            sigprop.attach(streamed.network(), directory=tmp_path)
        assert not (tmp_path / LOCK).exists()


class TestResuming:
    @pytest.mark.parametrize("back", [0, 2])
    def test_a_resumed_run_has_every_step_once(self, tmp_path: Path, back: int) -> None:
        streamed.train(tmp_path, last=7)
        streamed.train(tmp_path, first=7 - back, last=12, resume="must")
        loaded = sigprop.load(tmp_path)
        assert loaded.missing == []
        steps = loaded.signals.groupby("step").size()
        assert steps.index.tolist() == list(range(12))
        assert set(steps) == {11}
        assert loaded.training["step"].tolist() == list(range(12))
        assert len(loaded.coverage) == 4, "one row a module, not one a part of the run"

    def test_records_of_a_resumed_run_have_no_step_twice_before_the_first_flush(
        self, tmp_path: Path
    ) -> None:
        streamed.train(tmp_path, last=7)
        model = streamed.network()
        given = {"directory": tmp_path, "step": 5, "resume": "must", "blocks": "leaves"}
        with sigprop.attach(model, **given) as probe:  # type: ignore[arg-type]
            model(torch.ones(5, 3)).sum().backward()
            probe.step()
            signals = probe.records.signals
        assert signals["step"].unique().tolist() == list(range(6))
        assert (signals["step"] == 5).sum() == 11

    def test_a_run_of_another_seed_keeps_the_first(self, tmp_path: Path) -> None:
        streamed.train(tmp_path)
        streamed.train(tmp_path, seed=1, resume="must")
        loaded = sigprop.load(tmp_path)
        assert loaded.signals.groupby("seed").size().to_dict() == {0: 110, 1: 110}
        assert loaded.coverage.groupby("seed").size().to_dict() == {0: 4, 1: 4}
        assert loaded.manifest["seeds"] == [0, 1]

    def test_a_step_that_was_forgotten_is_warned_of(self, tmp_path: Path) -> None:
        streamed.train(tmp_path)
        with pytest.warns(ProbeWarning) as told:
            streamed.train(tmp_path, last=2)
        assert str(told[0].message) == (
            f"{tmp_path} holds steps up to 9, and recording resumes at step 0: they go when the "
            "first rows are written. Say step= where training resumes to keep what came before"
        )
        assert told[0].filename == streamed.__file__
        assert sigprop.load(tmp_path).signals["step"].max() == 1

    def test_what_is_there_is_not_written_over(self, tmp_path: Path) -> None:
        streamed.train(tmp_path)
        message = (
            f"{tmp_path} holds a run already; choose another directory, or resume='allow' to go on "
            "with it"
        )
        with refusal(RunError, message):
            streamed.train(tmp_path, resume="never")
        assert len(sigprop.load(tmp_path).signals) == 110

    def test_there_is_nothing_to_resume(self, tmp_path: Path) -> None:
        absent = tmp_path / "absent"
        message = (
            f"{absent} holds no run to go on with; resume='allow' begins one where there is none"
        )
        with refusal(RunError, message):
            streamed.train(absent, resume="must")
        assert not absent.exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"flush_every": 0},
                "flush_every is a whole number of recorded steps from 1, not 0",
            ),
            ({"resume": "yes"}, "resume is 'never', 'allow' or 'must', not 'yes'"),
            (
                {"resume": "must", "directory": None},
                "resume='must' goes on with the run in a directory; say directory= too",
            ),
        ],
    )
    def test_options(self, tmp_path: Path, options: dict[str, object], message: str) -> None:
        with refusal(BadInput, message):
            streamed.train(**{"directory": tmp_path, **options})  # type: ignore[arg-type]


class TestLock:
    def test_a_second_writer_of_this_process(self, tmp_path: Path) -> None:
        message = (
            f"{tmp_path} is being written by this process ({os.getpid()} on "
            f"{socket.gethostname()}); choose another directory, or delete {tmp_path / LOCK} if "
            "that process has ended"
        )
        model = streamed.network()
        with sigprop.attach(model, directory=tmp_path), refusal(RunError, message):
            streamed.train(tmp_path)
        streamed.train(tmp_path / "other")

    def test_a_second_process_is_told_of_the_first(self, tmp_path: Path) -> None:
        lock = RunLock(tmp_path)
        script = f"from sigprop.records.lock import RunLock; RunLock({str(tmp_path)!r})"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert (
            f"is being written by process {os.getpid()} on {socket.gethostname()};" in done.stderr
        )
        lock.release()

    def test_the_lock_of_a_dead_process_is_taken_over(self, tmp_path: Path) -> None:
        done = subprocess.Popen([sys.executable, "-c", ""])
        done.wait()
        plant(tmp_path, pid=done.pid)
        assert RunLock(tmp_path).held

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
    def test_a_number_that_another_process_has_now_is_no_lock(self, tmp_path: Path) -> None:
        """In a container that was started again, training has the number it had before."""
        plant(tmp_path, pid=os.getpid(), started=1)
        assert RunLock(tmp_path).held

    def test_a_process_of_another_machine_may_be_alive(self, tmp_path: Path) -> None:
        plant(tmp_path, pid=2**22 + 1, host="elsewhere")
        with pytest.raises(RunError, match=f"is being written by process {2**22 + 1} on elsewhere"):
            RunLock(tmp_path)

    def test_a_lock_that_says_nothing_is_no_ones_to_take(self, tmp_path: Path) -> None:
        (tmp_path / LOCK).write_text("")
        with pytest.raises(RunError, match="is being written by another process"):
            RunLock(tmp_path)

    def test_of_two_that_take_over_one_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other one has it between this one's look and its move."""
        plant(tmp_path, pid=2**22 + 1)
        other: list[RunLock] = []
        rename = Path.rename

        def late(path: Path, target: Path) -> Path:
            if not other:
                other.append(object.__new__(RunLock))
                monkeypatch.setattr(Path, "rename", rename)
                other[0].__init__(tmp_path)  # type: ignore[misc]
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", late)
        with pytest.raises(RunError, match="is being written by this process"):
            RunLock(tmp_path)
        assert other[0].held
        assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]

    def test_a_fork_writes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the processes of a DataLoader do not."""
        model = streamed.network()
        with sigprop.attach(model, blocks="leaves", directory=tmp_path) as probe:
            model(torch.ones(5, 3)).sum().backward()
            probe.step()
            monkeypatch.setattr(os, "getpid", lambda: 1)
            probe._tables.abandon()
            monkeypatch.undo()
            assert not list(tmp_path.glob("*.parquet"))
            assert (tmp_path / LOCK).exists()


def plant(directory: Path, **facts: object) -> None:
    writer = {"host": socket.gethostname(), "started": None, "token": "", **facts}
    (directory / LOCK).write_text(json.dumps(writer))


def test_a_writer_that_cannot_be_asked_is_alive() -> None:
    assert not Writer(socket.gethostname(), 1).dead, "another user's, or ours"


class TestFailures:
    def test_a_folder_that_is_gone_is_said_once_and_made_again(self, tmp_path: Path) -> None:
        directory = tmp_path / "runs" / "x"
        model = streamed.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        given = {"directory": directory, "flush_every": 2, "blocks": "leaves"}
        with sigprop.attach(model, optimizer, **given) as probe:  # type: ignore[arg-type]
            streamed.advance(probe, model, optimizer, 2)
            shutil.rmtree(directory.parent)
            directory.parent.write_text("a file is where the folder was")
            with pytest.warns(ProbeWarning) as told:
                streamed.advance(probe, model, optimizer, 5)
            assert probe.records.signals["step"].unique().tolist() == [2, 3, 4, 5, 6]
            directory.parent.unlink()
            streamed.advance(probe, model, optimizer, 3)
        (one,) = told
        assert str(one.message) == (
            f"cannot write to {directory}: Not a directory: training goes on; the last 1,000,000 "
            "rows are kept in memory, and written when that is possible again"
        )
        loaded = sigprop.load(directory)
        assert loaded.signals["step"].unique().tolist() == list(range(2, 10))
        assert loaded.manifest["status"] == "complete"
        assert [line for line in loaded.missing if "is gone; its 22 rows are lost" in line]

    def test_it_tries_again_more_and_more_seldom(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each try makes a file of all rows that wait, which takes time of training's."""
        tried: list[int] = []
        model = streamed.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with sigprop.attach(model, optimizer, directory=tmp_path, flush_every=1) as probe:

            def fail(self: RunWriter) -> None:
                tried.append(probe.step_index)
                raise RunError("no")

            monkeypatch.setattr(RunWriter, "flush", fail)
            with pytest.warns(ProbeWarning, match="no: training goes on"):
                streamed.advance(probe, model, optimizer, 30)
            monkeypatch.undo()
        assert tried == [0, 1, 4, 11, 26]
        assert sigprop.load(tmp_path).signals["step"].nunique() == 30

    def test_a_directory_that_another_took_meanwhile_is_left_to_it(self, tmp_path: Path) -> None:
        directory = tmp_path / "x"
        model = streamed.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = sigprop.attach(model, optimizer, directory=directory, flush_every=2)
        shutil.rmtree(directory)
        with (
            sigprop.attach(streamed.network(), directory=directory),
            pytest.warns(ProbeWarning, match="is being written by this process"),
        ):
            streamed.advance(probe, model, optimizer, 2)
        (directory / LOCK).write_text("")
        with pytest.warns(ProbeWarning, match="rows were not written, and are in probe.records"):
            probe.detach()
        assert len(probe.records.parameters) == 8
        assert sigprop.load(directory).parameters.empty

    def test_the_oldest_rows_go_first_and_are_counted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streaming, "KEPT", 60)
        directory = tmp_path / "x"
        model = streamed.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        given = {"directory": directory, "flush_every": 1, "blocks": "leaves"}
        with sigprop.attach(model, optimizer, **given) as probe:  # type: ignore[arg-type]
            shutil.rmtree(directory)
            directory.write_text("")
            with pytest.warns(ProbeWarning, match="the last 60 rows are kept"):
                streamed.advance(probe, model, optimizer, 20)
            directory.unlink()
        loaded = sigprop.load(directory)
        kept = sum(len(frame) for table, frame in loaded.tables().items() if table != "coverage")
        assert kept <= 60
        assert loaded.missing == [
            f"{directory} lacks {20 * (11 + 4 + 1) - kept} rows that could not be written"
        ]
        assert loaded.signals["step"].max() == 19

    @pytest.mark.skipif(sys.platform == "win32", reason="file sizes are limited by Unix")
    def test_a_full_disk_that_is_emptied(self, tmp_path: Path) -> None:
        """The operating system refuses to write beyond a size, as it does on a full disk."""
        script = textwrap.dedent(
            f"""
            import resource, signal, sys, warnings
            sys.path.insert(0, {str(TESTS)!r})
            import streamed, sigprop, torch
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            model = streamed.network()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            given = dict(directory={str(tmp_path)!r}, flush_every=2, blocks="leaves")
            with sigprop.attach(model, optimizer, **given) as probe:
                streamed.advance(probe, model, optimizer, 2)
                resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    streamed.advance(probe, model, optimizer, 6)
                print(len(told), told[0].message)
                print(len(sigprop.load({str(tmp_path)!r}).signals))
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        warned, loaded = done.stdout.splitlines()
        assert warned.startswith("1 cannot write ")
        assert "File too large: training goes on; " in warned
        assert loaded == "22"
        whole = sigprop.load(tmp_path)
        assert whole.missing == []
        assert whole.signals.groupby("step").size().to_dict() == dict.fromkeys(range(8), 11)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_loads_and_loses_at_most_the_last_flush(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TESTS / "streamed.py"), str(tmp_path), "6"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_reading_while_parts_are_replaced_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coverage table is written anew between the manifest and the part that it lists."""
    streamed.train(tmp_path)
    read, coverage = pd.read_parquet, sigprop.load(tmp_path).coverage
    writers: list[RunWriter] = []

    def slow(path: Path) -> pd.DataFrame:
        if not writers:
            writers.append(RunWriter(tmp_path, resume=True))
            writers[0].replace("coverage", coverage)
            writers[0].complete()
        return read(path)

    monkeypatch.setattr(pd, "read_parquet", slow)
    loaded = sigprop.load(tmp_path)
    assert loaded.missing == []
    pd.testing.assert_frame_equal(loaded.coverage, coverage)


def test_a_model_without_forward_passes_writes_an_empty_run(tmp_path: Path) -> None:
    with sigprop.attach(nn.Linear(2, 2), directory=tmp_path):
        pass
    loaded = sigprop.load(tmp_path)
    assert loaded.missing == []
    assert loaded.signals.empty
