"""A run directory that something happened to: said in a sentence, and no more lost than must be."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import sigprop
from sigprop import RunError
from sigprop.experiments import single_run
from sigprop.experiments.training import Progress, Training
from sigprop.records import RunWriter, atomic_write, new_manifest, tidy
from sigprop.records.spreadsheet import csv_text

SMALL = {"depth": 1, "width": 8}


def losses(steps: range) -> pd.DataFrame:
    return tidy("training", [{"network": "plain", "step": step, "loss": 0.5} for step in steps])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run of two parts of three rows."""
    writer = RunWriter(tmp_path / "run", new_manifest(networks=["plain"], seeds=[0]))
    for start in (0, 3):
        writer.append("training", losses(range(start, start + 3)))
        writer.flush()
    writer.complete()
    return writer.directory


def rewrite(run: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    part = run / "training-00001.parquet"
    change(pd.read_parquet(part)).to_parquet(part, index=False)
    return part


def test_the_manifest_lists_the_parts(run: Path) -> None:
    assert json.loads((run / "manifest.json").read_text())["parts"] == [
        {"name": "training-00000.parquet", "rows": 3},
        {"name": "training-00001.parquet", "rows": 3},
    ]
    assert sigprop.load(run).missing == []


def test_a_deleted_part_is_missed(run: Path) -> None:
    part = run / "training-00001.parquet"
    part.unlink()
    loaded = sigprop.load(run)
    assert loaded.missing == [f"{part} is gone; its 3 rows are lost"]
    assert loaded.training["step"].tolist() == [0, 1, 2]


def test_a_shortened_part_is_missed(run: Path) -> None:
    part = rewrite(run, lambda rows: rows.head(1))
    loaded = sigprop.load(run)
    assert loaded.missing == [f"{part} holds 1 rows, not the 3 that were written"]
    assert loaded.training["step"].tolist() == [0, 1, 2, 3]


def test_a_part_of_another_run_is_left_out(run: Path) -> None:
    stray = run / "training-00007.parquet"
    shutil.copy(run / "training-00000.parquet", stray)
    loaded = sigprop.load(run)
    assert loaded.missing == [f"{stray} is not listed in manifest.json; its rows are left out"]
    assert loaded.training["step"].tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows.drop(columns=["loss", "mode"]), "it lacks the columns loss, mode"),
        (
            lambda rows: rows[[]].assign(a=[1, 2, 3]),
            "it lacks the columns accuracy,",
        ),
        (
            lambda rows: rows.assign(step=rows["step"] + 0.5),
            "its column 'step' is of type float64, not int64",
        ),
        (lambda rows: rows.assign(loss="high"), "its column 'loss' is of type"),
        (lambda rows: rows.assign(network=1), "its column 'network' is of type int64, not str"),
    ],
    ids=["fewer columns", "other columns", "a fraction", "words", "a number"],
)
def test_foreign_columns_and_types_are_left_out(
    run: Path, change: Callable[[pd.DataFrame], pd.DataFrame], fault: str
) -> None:
    part = rewrite(run, change)
    loaded = sigprop.load(run)
    (missing,) = loaded.missing
    assert missing.startswith(f"{part} is no part of a run ({fault}")
    assert missing.endswith("); its rows are left out")
    assert loaded.training["step"].tolist() == [0, 1, 2]


def test_files_that_are_no_parts_do_not_matter(run: Path) -> None:
    for name in ("notes.parquet", "training-final.parquet", "other-00000.parquet"):
        (run / name).write_text("no part")
    assert sigprop.load(run).missing == []
    writer = RunWriter(run, resume=True)
    assert writer.parts == 2
    writer.rewind(0)
    assert (run / "other-00000.parquet").exists()


FAULTS = {
    "not a run": ({"name": "web app"}, "it has no schema"),
    "a list": ([1, 2], "it holds a list, not a mapping"),
    "a word": ({"schema": "two"}, "its schema is 'two', not a version number"),
    "a truth": ({"schema": True}, "its schema is True, not a version number"),
    "designs": ({"schema": 2, "designs": []}, "'designs' is a list, not a mapping"),
    "a design": ({"schema": 2, "designs": {"a": 3}}, "the design of 'a' is int, not a mapping"),
    "seeds": ({"schema": 2, "seeds": 3}, "'seeds' is int, not a list"),
    "status": ({"schema": 2, "status": None}, "'status' is NoneType, not text"),
    "parts": ({"schema": 2, "parts": ["a"]}, "the part 'a' has no name and number of rows"),
}


@pytest.mark.parametrize(("manifest", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_file_called_manifest_that_is_none(tmp_path: Path, manifest: object, fault: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for use in (sigprop.load, lambda folder: RunWriter(folder, resume=True)):
        with pytest.raises(RunError) as error:
            use(tmp_path)
        assert str(error.value) == f"{tmp_path / 'manifest.json'} is not a run's manifest ({fault})"


def test_a_stray_manifest_beside_runs_is_passed_over(run: Path) -> None:
    stray = run.parent / "node_modules" / "manifest.json"
    stray.parent.mkdir()
    stray.write_text('{"name": "web app"}')
    loaded = sigprop.load(run.parent)
    assert len(loaded.training) == 6
    assert loaded.missing == [
        f"{stray} is not a run's manifest (it has no schema); it is passed over"
    ]


class TestResuming:
    def test_leftovers_of_a_killed_write_are_removed(self, run: Path) -> None:
        names = (".training-00002.parquet.", ".manifest.json.", ".checkpoint.pt.")
        leftovers = [run / f"{name}{'0a' * 16}" for name in names]
        others = [run / ".hidden", run / ".name.xyz", run / f".folder.{'0a' * 16}"]
        for path in (*leftovers, *others[:2]):
            path.write_text("half")
        others[2].mkdir()
        sigprop.load(run)
        assert all(path.exists() for path in leftovers), "a load changes nothing"
        RunWriter(run, resume=True)
        assert not any(path.exists() for path in leftovers)
        assert all(path.exists() for path in others)

    def test_parts_of_a_flush_that_did_not_end_are_removed(self, run: Path) -> None:
        """It was killed between the last part and the manifest that lists it."""
        manifest = (run / "manifest.json").read_text()
        writer = RunWriter(run, resume=True)
        writer.append("training", losses(range(6, 9)))
        writer.flush()
        (run / "manifest.json").write_text(manifest)
        assert len(sigprop.load(run).training) == 6
        again = RunWriter(run, resume=True)
        again.append("training", losses(range(6, 8)))
        again.complete()
        loaded = sigprop.load(run)
        assert loaded.missing == []
        assert loaded.training["step"].tolist() == list(range(8))

    def test_a_resumed_run_is_running_until_it_completes(self, run: Path) -> None:
        writer = RunWriter(run, resume=True)
        assert writer.manifest["status"] == "complete"
        writer.append("training", losses(range(6, 7)))
        writer.flush()
        assert "was not completed: it ends after step 6" in sigprop.load(run).missing[0]
        writer.complete()
        assert sigprop.load(run).missing == []

    @pytest.mark.parametrize("parts", [0, 1, 2])
    def test_rewinding_deletes_the_part_of_that_number_and_all_after_it(
        self, run: Path, parts: int
    ) -> None:
        writer = RunWriter(run, resume=True)
        writer.rewind(parts)
        assert len(list(run.glob("*.parquet"))) == parts
        assert len(json.loads((run / "manifest.json").read_text())["parts"]) == parts
        loaded = sigprop.load(run)
        assert loaded.missing == []
        assert loaded.training["step"].tolist() == list(range(3 * parts))


def test_bytes_are_synced_before_the_file_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "file", []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        assert not path.exists()
        with os.fdopen(os.dup(descriptor), "rb") as file:
            synced.append(file.read())
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    atomic_write(path, lambda temporary: temporary.write_text("whole"))
    assert synced == [b"whole"]


def test_records_made_apart_keep_all_seeds_networks_and_designs() -> None:
    records = [
        sigprop.Records(manifest=new_manifest(networks=[n], seeds=[seed], designs={n: {}}))
        for n, seed in (("a", 3), ("b", 1), ("a", 1))
    ]
    joined = sigprop.concat(records).manifest
    assert joined["seeds"] == [1, 3]
    assert joined["networks"] == ["a", "b"]
    assert joined["designs"] == {"a": {}, "b": {}}


class _Stop(Exception):
    """Stands for a power cut."""


def compare(directory: Path, **options: object) -> sigprop.Records:
    return sigprop.compare(
        ["plain"],
        steps=10,
        seeds=1,
        options=SMALL,
        directory=directory,
        **options,  # type: ignore[arg-type]
    )


class TestComparisons:
    def test_a_complete_run_is_not_trained_again_and_has_no_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = compare(tmp_path)
        folder = tmp_path / "plain" / "seed-0"
        assert not (folder / "checkpoint.pt").exists()
        (folder / "checkpoint.pt").write_text("of a kill just before the end")

        def never(self: Training) -> None:
            raise AssertionError("it was trained again")

        monkeypatch.setattr(Training, "run", never)
        again = compare(tmp_path, resume=True)
        pd.testing.assert_frame_equal(again.training, first.training)
        assert not (folder / "checkpoint.pt").exists()

    def test_rows_after_the_checkpoint_are_recorded_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kill comes between the rows and the checkpoint that counts them."""
        original = atomic_write

        def write(path: Path, content: Callable[[Path], object]) -> None:
            if path.name == "checkpoint.pt" and path.exists():
                raise _Stop
            original(path, content)

        monkeypatch.setattr(single_run, "atomic_write", write)
        with pytest.raises(_Stop):
            compare(tmp_path)
        monkeypatch.undo()
        assert sigprop.load(tmp_path).training["step"].tolist() == [0, 1]
        resumed = compare(tmp_path, resume=True)
        steps = resumed.training.query("mode == 'train'")["step"]
        assert steps.tolist() == list(range(10))
        assert resumed.missing == []

    def test_leftovers_go_when_a_comparison_is_resumed(self, tmp_path: Path) -> None:
        def stop(label: str, seed: int, row: Progress) -> None:
            if row.step == 4:
                raise _Stop

        with pytest.raises(_Stop):
            compare(tmp_path, on_progress=stop)
        leftover = tmp_path / "plain" / "seed-0" / f".checkpoint.pt.{'ab' * 16}"
        leftover.write_text("half")
        compare(tmp_path, resume=True)
        assert not leftover.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="file sizes are limited by Unix")
@pytest.mark.parametrize(("bytes_", "name"), [(2_000, "-00000.parquet"), (40_000, "checkpoint.pt")])
def test_a_full_disk_ends_in_a_sentence_and_leaves_no_temporary_file(
    tmp_path: Path, bytes_: int, name: str
) -> None:
    """The operating system refuses to write beyond a size, as it does on a full disk."""
    script = textwrap.dedent(
        f"""
        import resource, signal, sigprop
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_}, {bytes_}))
        try:
            sigprop.compare(
                ["plain"], steps=10, seeds=1, options={{"depth": 1, "width": 64}},
                directory={str(tmp_path)!r}, every=9,
            )
        except sigprop.RunError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "plain" / "seed-0"
    assert done.stdout.startswith(f"cannot write {folder}")
    assert f"{name}: " in done.stdout
    assert done.stdout.endswith("File too large\n")
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert "was not completed: it ends " in sigprop.load(tmp_path).missing[0]


class TestSpreadsheets:
    @pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
    def test_text_is_no_formula(self, begin: str) -> None:
        text = csv_text(pd.DataFrame({f"{begin}head": [f"{begin}1+1", "plain"]}))
        rows = list(csv.reader(io.StringIO(text, newline="")))
        shown = begin.replace("\r", " ")
        assert rows == [[f"'{shown}head"], [f"'{shown}1+1"], ["plain"]]

    def test_numbers_stay_what_they_are(self) -> None:
        frame = pd.DataFrame({"loss": [-0.5, float("nan")], "step": [-1, 2], "name": ["a-b", None]})
        assert csv_text(frame) == "loss,step,name\n-0.5,-1,a-b\n,2,\n"
        pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(csv_text(frame))), frame)

    def test_an_index_is_written_when_asked_for(self) -> None:
        frame = pd.DataFrame({"a": [1]}, index=["=x"])
        assert csv_text(frame, index=True) == ",a\n'=x,1\n"
        assert frame.index.tolist() == ["=x"], "the frame itself is left alone"

    def test_categories_and_objects(self) -> None:
        frame = pd.DataFrame({"a": pd.Categorical(["=x"]), "b": pd.Series(["@y"], dtype=object)})
        assert csv_text(frame) == "a,b\n'=x,'@y\n"

    def test_the_tables_of_a_report_are_harmless(self, tmp_path: Path) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
        records = sigprop.measure(model, torch.randn(8, 4), network="=HYPERLINK(1)")
        page = sigprop.report(records, tmp_path / "report")
        cells = [
            cell
            for path in page.parent.rglob("*.csv")
            for row in csv.reader(path.read_text("utf-8").splitlines())
            for cell in row
        ]
        assert "'=HYPERLINK(1)" in cells
        assert not any(cell.startswith(("=", "@")) for cell in cells)
