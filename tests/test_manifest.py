"""Rows by step, the manifest of a run, and what a killed write leaves."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from messages import refusal

from sigprop.errors import BadInput, RunError
from sigprop.records.atomic import remove_leftovers
from sigprop.records.manifest import NotARun, new_manifest, read_manifest, write_manifest
from sigprop.records.queries import at_first_step, at_last_step, at_step

# --- rows by step -----------------------------------------------------------------------------

ROWS = pd.DataFrame(
    {
        "run": "r",
        "network": ["a", "a", "a", "b", "b"],
        "seed": 0,
        "step": [0, 5, 9, 2, 7],
    }
)


def test_first_and_last_are_those_of_each_draw() -> None:
    assert at_step(ROWS, "first")["step"].tolist() == [0, 2]
    assert at_step(ROWS, "last")["step"].tolist() == [9, 7]
    assert at_step(ROWS, "first").equals(at_first_step(ROWS))
    assert at_step(ROWS, "last").equals(at_last_step(ROWS))
    assert at_step(ROWS, 5)["network"].tolist() == ["a"]
    assert at_step(ROWS, None) is ROWS
    assert at_step(ROWS[:0], 3).empty


@pytest.mark.parametrize("step", [4, "middle"])
def test_a_step_that_was_not_recorded_is_refused(step: Any) -> None:
    with refusal(BadInput, f"step is 'first', 'last', None or one of 0, 2, 5, 7, 9, not {step!r}"):
        at_step(ROWS, step)


def test_of_many_steps_the_ends_are_named() -> None:
    many = pd.DataFrame({"run": "r", "network": "n", "seed": 0, "step": range(100)})
    with refusal(
        BadInput, "step is 'first', 'last', None or one of 0, 1, 2, 3, ..., 97, 98, 99, not 100"
    ):
        at_step(many, 100)


# --- the manifest -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[1]", "it holds a list, not a mapping"),
        ("{}", "it has no schema"),
        ('{"schema": "2"}', "its schema is '2', not a version number"),
        ('{"schema": true}', "its schema is True, not a version number"),
        ('{"schema": 2, "seeds": 3}', "'seeds' is int, not a list"),
        ('{"schema": 2, "designs": {"a": []}}', "the design of 'a' is a list, not a mapping"),
        (
            '{"schema": 2, "parts": [{"name": "x"}]}',
            "the part {'name': 'x'} has no name and number of rows",
        ),
    ],
)
def test_what_is_no_manifest_is_said(tmp_path: Any, text: str, fault: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with refusal(NotARun, f"{path} is not a run's manifest ({fault})"):
        read_manifest(tmp_path)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Any) -> None:
    manifest = new_manifest(["sigprop", "compare"], seeds=[0, 1], networks=["plain"])
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    write_manifest(tmp_path, {**manifest, "schema": 99})
    with refusal(
        RunError,
        f"{tmp_path} has schema 99, this sigprop reads up to {manifest['schema']}; upgrade sigprop "
        "to read it",
    ):
        read_manifest(tmp_path)


def test_only_the_leftovers_of_a_killed_write_are_removed(tmp_path: Any) -> None:
    kept = [
        "manifest.json",
        ".hidden",
        f".part.{'0' * 31}",
        f".part.{'g' * 32}",
        f"part.{'0' * 32}",
    ]
    for name in [*kept, f".signals-00001.parquet.{'0af' * 10}12"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
