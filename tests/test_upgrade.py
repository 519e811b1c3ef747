"""Runs of schema 1: loaded, upgraded, and the same as what is recorded of the same models today."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import old_run
import pandas as pd
import pytest
import torch

import sigprop
from sigprop.errors import RunError
from sigprop.records import SCHEMA, Records, RunWriter, tidy
from sigprop.records.schema_1 import upgraded_manifest
from sigprop.records.upgrade import upgraded
from sigprop.verification.predictions import predictions

OLD = Path(__file__).parent / "data" / "schema-1"
LOCATION = ["seed", "step", "mode", "block", "name", "call", "port", "direction"]
#: The order of sums may differ between machines and versions.
assert_close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)


def located(records: Records, network: str) -> pd.DataFrame:
    rows = records.signals[records.signals["network"] == network]
    return rows.sort_values(LOCATION).reset_index(drop=True)


def statuses(records: Records, network: str) -> list[tuple[str, str]]:
    coverage = records.coverage[records.coverage["network"] == network]
    return list(zip(coverage["name"], coverage["status"], strict=True))


def compare_with_today(old: Records, new: Records, network: str, kinds: dict[str, str]) -> None:
    """Compare everything that schema 1 lacked, and a number."""
    was, now = located(old, network), located(new, network)
    pd.testing.assert_frame_equal(was[[*LOCATION, "module"]], now[[*LOCATION, "module"]])
    assert was["kind"].tolist() == now["kind"].replace(kinds).tolist()
    assert_close(was["second_moment"], now["second_moment"])
    assert statuses(old, network) == statuses(new, network)
    ndims = [
        r.parameters[r.parameters["network"] == network].groupby("name")["ndim"].max()
        for r in (old, new)
    ]
    assert (ndims[0] == ndims[1].clip(1, 2)).all(), "a vector is one output unit, a matrix several"


@pytest.mark.parametrize("blocks", ["auto", "leaves"])
def test_a_run_of_ones_own_network(blocks: str) -> None:
    old = sigprop.load(OLD / blocks)
    assert old.missing == []
    assert old.manifest["schema"] == 2
    assert (
        set(old.signals["kind"])
        == {
            "auto": {"block", "rectifier", "addition"},
            "leaves": {"leaf", "rectifier", "attention"},
        }[blocks]
    )
    compare_with_today(old, old_run.own(blocks), f"own {blocks}", {})


def test_a_comparison_of_networks_of_the_zoo() -> None:
    old, new = sigprop.load(OLD / "compared"), old_run.compared()
    for network in old_run.NETWORKS:
        compare_with_today(old, new, network, {})
    assert set(old.networks()) == set(old_run.NETWORKS)
    as_json = json.loads(json.dumps(new.manifest["designs"]))
    assert old.manifest["designs"] == as_json, "with every option of the zoo at its default"
    was, now = (
        predictions(r).sort_values(["network", "direction", "quantity", "block"], ignore_index=True)
        for r in (old, new)
    )
    pd.testing.assert_frame_equal(
        was.drop(columns="value"), now.drop(columns="value"), check_dtype=False
    )
    assert_close(was["value"], now["value"])
    first = old.by_block("second_moment", step="first")
    assert first.groupby("network")["block"].agg(list).to_dict() == {
        "residual": [0, 1],
        "rescaled": [0, 1],
    }


def test_a_report_of_old_runs_is_written(tmp_path: Path) -> None:
    page = sigprop.report(sigprop.load(OLD / "compared"), tmp_path)
    assert "rescaled" in page.read_text("utf-8")


def test_old_rows_have_the_types_of_new_ones() -> None:
    old = sigprop.load(OLD)
    for table, frame in old.tables().items():
        pd.testing.assert_frame_equal(frame, tidy(table, frame))
        assert list(frame.columns)[: len(SCHEMA[table])] == list(SCHEMA[table])


def mixed(tmp_path: Path) -> Path:
    """Return a run that schema 1 began and schema 2 goes on with."""
    run = tmp_path / "run"
    shutil.copytree(OLD / "auto", run)
    writer = RunWriter(run, resume=True)
    torch.manual_seed(0)
    model = old_run.Net()
    with sigprop.attach(model, network="own auto", step=2) as probe:
        for _ in range(2):
            model(torch.randn(2, 3, 4)).sum().backward()
    writer.extend(probe.records)
    writer.complete()
    return run


def test_half_of_each_schema_in_one_directory_loads(tmp_path: Path) -> None:
    run = mixed(tmp_path)
    assert json.loads((run / "manifest.json").read_text())["schema"] == 2
    loaded = sigprop.load(run)
    assert loaded.missing == []
    assert loaded.signals["step"].unique().tolist() == [0, 1, 2, 3]
    before, after = (
        rows.groupby(["kind", "module", "name"]).size().index.tolist()
        for rows in (loaded.signals.query("step < 2"), loaded.signals.query("step >= 2"))
    )
    assert before == after


def test_a_part_of_schema_2_under_a_manifest_of_schema_1_loads(tmp_path: Path) -> None:
    run = mixed(tmp_path)
    shutil.copy(OLD / "auto" / "manifest.json", run)
    loaded = sigprop.load(run)
    assert loaded.manifest["schema"] == 2
    assert loaded.signals["step"].unique().tolist() == [0, 1, 2, 3]


def test_schema_3_is_refused(tmp_path: Path) -> None:
    shutil.copytree(OLD / "auto", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({**manifest, "schema": 3}))
    with pytest.raises(RunError) as error:
        sigprop.load(tmp_path / "run")
    assert str(error.value) == (
        f"{tmp_path / 'run'} has schema 3, this sigprop reads up to 2; upgrade sigprop to read it"
    )
    shutil.copytree(OLD / "leaves", tmp_path / "other")
    with pytest.raises(RunError, match="has schema 3"):
        sigprop.load(tmp_path)


class TestWithoutCoverage:
    """Rows that were drained and saved without the coverage table, and cases no zoo shows."""

    def signals(self, *rows: dict[str, object]) -> pd.DataFrame:
        base = {"network": "n", "call": 0, "port": "out"}
        old = tidy("signals", [{**base, **row} for row in rows]).drop(columns=["kind", "module"])
        return upgraded("signals", old, tidy("coverage", []))[["kind", "module"]]

    def test_names_alone_are_read_as_far_as_they_go(self) -> None:
        found = self.signals(
            {"block": 0, "name": "b.0", "port": "in"},
            {"block": 0, "name": "b.0#2[1][0]", "call": 2},
            {"block": 0, "name": "b.0.act"},
            {"block": 0, "name": "b.0.act:relu#1", "call": 1},
            {"block": 1, "name": "attention:sdpa"},
        )
        assert list(found.itertuples(index=False, name=None)) == [
            ("leaf", "b.0"),
            ("leaf", "b.0"),
            ("rectifier", "b.0.act"),
            ("rectifier", "b.0.act"),
            ("attention", "attention"),
        ]

    def test_a_block_whose_input_cannot_be_read_has_the_shortest_name(self) -> None:
        found = self.signals({"block": 0, "name": "embed.act"}, {"block": 0, "name": "embed"})
        assert found["kind"].tolist() == ["rectifier", "leaf"]

    def test_no_rows(self) -> None:
        assert len(self.signals()) == 0


def test_names_with_brackets_of_their_own_stay_whole() -> None:
    coverage = tidy("coverage", [{"network": "n", "name": name} for name in ("a[0]", "a[0].b")])
    old = tidy("signals", [{"network": "n", "name": "a[0]", "port": "in"}])
    found = upgraded("signals", old.drop(columns=["kind", "module"]), coverage)
    assert found[["kind", "module"]].to_numpy().tolist() == [["block", "a[0]"]]


@pytest.mark.parametrize(
    ("weight", "grad", "unit", "ndim"),
    [
        (2.0, 1.0, 0.5, 1),  # one output unit: the ratio is that of the whole
        (2.0, 1.0, 0.5 * (1 + 1e-6), 1),  # up to rounding
        (2.0, 1.0, 0.7, 2),
        (0.0, 1.0, 1000.0, 1),  # a vector of zeros, over the floor of 0.001
        (0.0, 1.0, 800.0, 2),
        (2.0, float("nan"), float("nan"), -1),
    ],
)
def test_axes_are_found_from_the_ratios(weight: float, grad: float, unit: float, ndim: int) -> None:
    row = {"name": "w", "weight_norm": weight, "grad_norm": grad, "unit_grad_to_weight_max": unit}
    old = tidy("parameters", [row]).drop(columns=["shape", "ndim", "skipped"])
    assert upgraded("parameters", old, tidy("coverage", []))["ndim"].tolist() == [ndim]


@pytest.mark.parametrize(
    ("recorded", "gradient", "reason", "status"),
    [
        (True, "recorded", "", "recorded"),
        (True, "not asked: a rectifier inside", "", "recorded"),
        (True, "none by design: nothing before it", "", "no_gradient"),
        (True, "none seen", "", "no_gradient"),
        (True, "none seen", "the probe failed and is off: X", "failed"),
        (False, "", "a ScriptModule cannot be hooked; probe", "scripted"),
        (False, "", "not called: PyTorch ran the whole", "fused"),
        (False, "", "never called in a recorded step", "never_called"),
        (False, "", "never called as a module, yet its", "called_directly"),
        (False, "", "compiled, and no graph was traced; use", "unsupported"),
        (False, "", "words of nobody", ""),
    ],
)
def test_statuses_are_found_from_the_reasons(
    recorded: bool, gradient: str, reason: str, status: str
) -> None:
    row = {"recorded": recorded, "gradient": gradient, "reason": reason}
    old = tidy("coverage", [row]).drop(columns="status")
    assert upgraded("coverage", old, old)["status"].tolist() == [status]


def test_designs_of_others_stay_as_they_are() -> None:
    old = {"schema": 1, "designs": {"mine": {}, "theirs": {"network": "pkg:make"}}}
    assert upgraded_manifest(old) == {**old, "schema": 2}
    new = {"schema": 2, "designs": {"a": {"network": "plain"}}}
    assert upgraded_manifest(new) == new
