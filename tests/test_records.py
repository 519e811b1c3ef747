from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sigprop
from sigprop.errors import RunError
from sigprop.records import (
    SCHEMA,
    SCHEMA_VERSION,
    Records,
    RunWriter,
    atomic_write,
    concat,
    new_manifest,
    tidy,
)
from sigprop.records.column_buffer import ColumnBuffer


def losses(network: str, steps: range) -> pd.DataFrame:
    return tidy(
        "training", [{"network": network, "step": step, "loss": 1.0 / (step + 1)} for step in steps]
    )


def some(network: str = "plain", steps: range = range(3)) -> Records:
    manifest = new_manifest(networks=[network], seeds=[0])
    return Records(training=losses(network, steps), manifest=manifest)


@pytest.mark.parametrize("table", SCHEMA)
def test_every_table_round_trips_with_its_columns_and_dtypes(table: str, tmp_path: Path) -> None:
    values = {"str": "a", "bool": True, "int64": 1, "float64": 1.5}
    row = {name: values[column.dtype] for name, column in SCHEMA[table].items()}
    records = Records()
    setattr(records, table, tidy(table, [row]))
    records.save(tmp_path / "run")
    pd.testing.assert_frame_equal(
        getattr(sigprop.load(tmp_path / "run"), table), getattr(records, table)
    )


def test_the_design_columns_are_there() -> None:
    assert {"second_moment", "channel_variance", "mean_shift", "direction", "port"} <= set(
        SCHEMA["signals"]
    )
    assert {"grad_to_weight", "update_to_weight", "unit_grad_to_weight_max"} <= set(
        SCHEMA["parameters"]
    )
    assert {"operator", "singular_value", "log_singular_value"} <= set(SCHEMA["spectra"])
    assert {"recorded", "calls", "gradient", "reason"} <= set(SCHEMA["coverage"])


def test_own_columns_survive() -> None:
    frame = tidy("signals", [{"step": 1, "l1": 0.5}])
    assert frame["l1"].tolist() == [0.5]
    assert frame["second_moment"].isna().all()


def test_missing_numbers_are_nan_and_never_zero() -> None:
    assert tidy("parameters", [{"name": "w"}])["grad_to_weight"].isna().all()


def test_a_complete_run_misses_nothing(tmp_path: Path) -> None:
    some().save(tmp_path / "run")
    loaded = sigprop.load(tmp_path / "run")
    assert loaded.missing == []
    assert loaded.manifest["status"] == "complete"
    assert loaded.manifest["versions"]["python"] == sys.version.split()[0]
    assert repr(loaded).startswith("Records(plain; rows signals: 0,")


def test_runs_made_apart_compare(tmp_path: Path) -> None:
    some("plain").save(tmp_path / "a")
    some("rescale").save(tmp_path / "b")
    assert sigprop.load(tmp_path / "a", tmp_path / "b").networks() == ["plain", "rescale"]
    assert sigprop.load(tmp_path).networks() == ["plain", "rescale"]
    assert len(concat([]).training) == 0


def test_a_flushed_run_loads_before_it_ends_and_says_so(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.append("training", losses("plain", range(4)))
    writer.flush()
    writer.append("training", losses("plain", range(4, 6)))  # never flushed
    loaded = sigprop.load(tmp_path / "run")
    assert loaded.training["step"].tolist() == [0, 1, 2, 3]
    assert "was not completed: it ends after step 3" in loaded.missing[0]


def test_a_run_killed_at_any_moment_loads(tmp_path: Path) -> None:
    """A real kill -9 of a writing process, at twenty different moments."""
    script = textwrap.dedent(
        """
        import sys
        from sigprop.records import RunWriter, tidy
        writer = RunWriter(sys.argv[1])
        print("started", flush=True)
        for step in range(10_000):
            writer.append("training", tidy("training", [{"step": step, "loss": 1.0}]))
            writer.flush()
        """
    )
    for moment in range(5):
        directory = tmp_path / str(moment)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                process.wait(timeout=0.03 * moment)
            except subprocess.TimeoutExpired:
                process.kill()
        steps = sigprop.load(directory).training["step"].tolist()
        assert steps == list(range(len(steps)))


def test_a_torn_part_is_named_and_the_rest_loads(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    for start in (0, 3):
        writer.append("training", losses("plain", range(start, start + 3)))
        writer.flush()
    writer.complete()
    part = tmp_path / "run" / "training-00000.parquet"
    part.write_bytes(part.read_bytes()[:20])
    loaded = sigprop.load(tmp_path / "run")
    assert loaded.training["step"].tolist() == [3, 4, 5]
    assert "training-00000.parquet cannot be read" in loaded.missing[0]


def test_rewinding_forgets_the_rows_after_a_checkpoint(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.append("training", losses("plain", range(2)))
    writer.flush()
    checkpoint = writer.parts
    writer.append("training", losses("plain", range(2, 9)))
    writer.flush()
    again = RunWriter(tmp_path / "run", resume=True)
    again.rewind(checkpoint)
    again.append("training", losses("plain", range(2, 4)))
    again.complete()
    assert sigprop.load(tmp_path / "run").training["step"].tolist() == [0, 1, 2, 3]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left on device"):
        atomic_write(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_written_files_have_the_permissions_of_any_other(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    atomic_write(tmp_path / "atomic", lambda path: path.write_text("x"))
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


def damaged(tmp_path: Path, manifest: str | None) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    if manifest is not None:
        (run / "manifest.json").write_text(manifest)
    return run


NEWER = json.dumps({"schema": SCHEMA_VERSION + 1, "status": "complete"})
DAMAGE = {
    "no manifest": (None, "holds no run: there is no manifest.json in it or below it"),
    "half a manifest": ('{"schema": 1, "sta', "is not a run's manifest"),
    "another json": ("[1, 2]", "is not a run's manifest"),
    "newer schema": (NEWER, f"has schema 3, this sigprop reads up to {SCHEMA_VERSION}; upgrade"),
}


@pytest.mark.parametrize(("manifest", "message"), DAMAGE.values(), ids=DAMAGE)
def test_what_cannot_be_loaded_is_said_in_one_sentence(
    tmp_path: Path, manifest: str | None, message: str
) -> None:
    with pytest.raises(RunError) as error:
        sigprop.load(damaged(tmp_path, manifest))
    assert message in str(error.value)


def test_loading_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no directory"):
        sigprop.load(tmp_path / "absent")


def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path) -> None:
    some().save(tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        some().save(tmp_path / "run")


def test_an_unwritable_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot make the run directory"):
        some().save(tmp_path / "file" / "run")


def test_a_growing_table_fills_what_a_part_leaves_out_and_copies_grow_apart() -> None:
    table = ColumnBuffer("signals")
    table.append({"network": "plain", "name": ["a", "b"], "mean": np.array([1.0, 2.0])}, 2)
    other = table.copy()
    other.append({"network": "rescale", "name": "c", "mean": 3.0, "own": np.array([4.0])}, 1)
    table.append({}, 0)
    assert len(table.frame()) == 2
    frame = other.frame()
    assert frame["network"].tolist() == ["plain", "plain", "rescale"]
    assert frame["name"].tolist() == ["a", "b", "c"]
    assert frame["mean"].tolist() == [1.0, 2.0, 3.0]
    assert frame["own"].isna().tolist() == [True, True, False]
    assert frame["step"].tolist() == [0, 0, 0]
    pd.testing.assert_frame_equal(ColumnBuffer("signals").frame(), tidy("signals", []))
