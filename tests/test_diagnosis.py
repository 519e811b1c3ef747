"""Findings: each fault is named at its place, healthy networks are left alone, remedies help."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import refusal
from torch import nn

import sigprop
from benchmarks.diagnosis_cases import BROKEN, HEALTHY, WIDTH, Case, measured, wired
from sigprop.cli.app import main
from sigprop.diagnosis.finders import FINDERS
from sigprop.diagnosis.finding import SEVERITIES, Finding, Findings, Measured, Severity, Where
from sigprop.diagnosis.profile import Profile, by_chance, change

pytestmark = pytest.mark.filterwarnings("ignore::sigprop.ProbeWarning")


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case.id}: {case.name}")
def test_a_fault_is_found_where_it_is(case: Case) -> None:
    found = sigprop.diagnose(*case.make(0))
    assert case.found_in(found), f"{case.id} at {case.block}; found:\n{found}"


@pytest.mark.parametrize("family", HEALTHY)
def test_a_healthy_network_is_left_alone(family: str) -> None:
    found = sigprop.diagnose(*HEALTHY[family](0)).at_least("warning")
    assert not found, str(found)


def test_every_finding_is_provoked_or_said_to_be_not() -> None:
    # worth knowing only, and not provoked by a network of a few layers
    unprovoked = {"massive-activations", "lost-law", "heavy-tailed-gradients"}
    unprovoked |= {"effective-learning-rate", "unused-parameters"}
    assert {case.id for case in BROKEN} | unprovoked == set(FINDERS)


def of_id(found: Findings, name: str) -> Finding:
    return next(one for one in found if one.id == name)


@pytest.mark.parametrize("gain", [0.6, 1.6])
def test_the_remedy_of_a_wrong_gain_helps(gain: float) -> None:
    records, model = measured(lambda: wired(gain=gain), seed=0)
    before = sigprop.diagnose(records)
    bad = [one for one in before if one.id.endswith("-forward")]
    assert bad
    exec(bad[0].code, {"model": model, "torch": torch})
    after = sigprop.diagnose(sigprop.measure(model, torch.randn(128, WIDTH)))
    assert not after.at_least("warning"), str(after)


def test_the_remedy_of_branches_without_scale_helps() -> None:
    case = next(case for case in BROKEN if case.name == "an addition without scale")
    records, model = case.make(0)
    code = of_id(sigprop.diagnose(records), "exploding-forward").code
    exec(code, {"model": model, "torch": torch})
    after = sigprop.diagnose(sigprop.measure(model, torch.randn(128, WIDTH)))
    assert not after.at_least("warning"), str(after)


def test_the_remedy_of_one_block_helps() -> None:
    case = next(case for case in BROKEN if case.name == "one layer of gain 100")
    records, model = case.make(0)
    code = of_id(sigprop.diagnose(records), "exploding-forward").code
    assert "layers.7.0.weight" in code
    exec(code, {"model": model, "torch": torch})
    after = sigprop.diagnose(sigprop.measure(model, torch.randn(128, WIDTH)))
    assert not after.at_least("warning"), str(after)


def test_the_rate_and_its_interval_are_those_of_the_weights() -> None:
    def doubling() -> nn.Module:  # a linear layer of gain √2 doubles the second moment
        parts = []
        for _ in range(12):
            linear = nn.Linear(256, 256, bias=False)
            nn.init.normal_(linear.weight, std=math.sqrt(2 / 256))
            parts.append(nn.Sequential(linear))
        return nn.Sequential(*parts)

    records = sigprop.measure(doubling, torch.randn(64, 256), seeds=6)
    one = of_id(sigprop.diagnose(records), "exploding-forward")
    rate = one.evidence["factor_per_block"]
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low < 2.0 < rate.high
    assert rate.high - rate.low < 0.2
    assert one.where.blocks[0] == 0
    assert one.severity == "error"


def test_the_first_producer_of_a_nan_is_named_and_not_those_behind_it() -> None:
    case = next(case for case in BROKEN if case.name == "a weight that became NaN")
    one = of_id(sigprop.diagnose(*case.make(0)), "not-finite")
    assert one.where.steps == (2,)
    assert one.cause == (
        "layers.6.0.weight is not finite before this step: an earlier update broke it"
    )


def logs(*values: float) -> Profile:
    array = np.array([values], dtype=float)
    return Profile("", tuple(range(len(values) - 1)), array, 64.0)


def test_a_departure_that_returns_is_found() -> None:
    found = change(logs(0, 14, 14, 0))
    assert found is not None
    assert (found.log, found.crossed, found.responsible, found.alone) == (14, 1, (0,), False)


def test_a_signal_that_is_gone_is_gone_from_its_first_zero_on() -> None:
    found = change(logs(0, 0, -math.inf, -math.inf))
    assert found is not None
    assert (found.log, found.responsible) == (-math.inf, (1,))


def test_growth_along_a_line_is_told_from_growth_by_a_factor() -> None:
    line = change(logs(*np.log(np.arange(1, 40))))
    curve = change(logs(*(0.3 * np.arange(40))))
    assert line is not None
    assert curve is not None
    assert (line.linear, curve.linear) == (True, False)


def test_chance_is_that_of_simulated_he_networks() -> None:
    # the log of the second moment over 20 ReLU layers of 50 units, 400 draws: mean -5L/(2n),
    # variance 5L/n at leading order; the bound is 4 standard deviations from 0
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(400):
        x = torch.randn(1, 50, generator=generator, dtype=torch.float64)
        start = x.square().mean()
        for _ in range(20):
            w = torch.randn(50, 50, generator=generator, dtype=torch.float64)
            x = torch.relu(x @ w * math.sqrt(2 / 50))
        values.append(float((x.square().mean() / start).log()))
    spread = 5 * 20 / 50
    assert np.mean(values) == pytest.approx(-spread / 2, abs=4 * math.sqrt(spread / 400) + 0.1)
    assert (np.abs(values) > by_chance(20, 50)).mean() <= 0.01


def test_findings_are_sorted_filtered_and_written() -> None:
    def make(severity: Severity, network: str) -> Finding:
        where = Where((1,), ("b",), (0,))
        evidence = {"x": Measured(math.inf)}
        return Finding("id", severity, network, "s", where, evidence, "c", "r")

    found = Findings(make(severity, "n") for severity in SEVERITIES)
    assert [len(found.at_least(severity)) for severity in SEVERITIES] == [1, 2, 3]
    assert found.of("other") == ()
    assert repr(found) == "Findings(error: 1, warning: 1, info: 1)"
    first = json.loads(found.to_json())[0]
    assert first["evidence"]["x"]["value"] is None
    assert first["where"] == {"blocks": [1], "modules": ["b"], "steps": [0]}


def test_empty_records_are_refused() -> None:
    message = (
        "the records are empty, there is nothing to diagnose; measure something first, "
        "for example records = sigprop.measure(model, inputs)"
    )
    with refusal(sigprop.BadInput, message):
        sigprop.diagnose(sigprop.Records())


@pytest.mark.parametrize("table", ["signals", "parameters", "coverage", "training"])
def test_a_table_that_is_missing_ends_in_fewer_findings_and_no_error(table: str) -> None:
    case = next(case for case in BROKEN if case.id == "loss-diverged")
    records, _ = case.make(0)
    setattr(records, table, getattr(records, table).iloc[:0])
    sigprop.diagnose(records)


def test_one_block_and_no_gradient_end_in_no_finding() -> None:
    records = sigprop.measure(nn.Linear(4, 4), torch.randn(8, 4))
    records.signals = records.signals[records.signals["direction"] == "forward"]
    assert sigprop.diagnose(records) == ()


def test_assert_healthy_passes_and_fails() -> None:
    inputs = torch.randn(128, WIDTH)
    sigprop.assert_healthy(lambda: wired(depth=6), inputs)
    with pytest.raises(AssertionError, match="vanishing-forward"):
        sigprop.assert_healthy(lambda: wired(gain=0.5), inputs)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", *arguments])
    return int(str(ended.value.code))


def test_the_command_prints_findings_and_ends_with_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("plain", "--seeds", "1", "--depth", "30") == 1
    printed = capsys.readouterr().out
    assert "exploding-forward" in printed
    assert "remedy:" in printed
    assert run("rescale", "--seeds", "1", "--depth", "8") == 0
    assert capsys.readouterr().out == "no findings\n"
    assert run("plain", "--fail-on", "wrong") == 2


def test_the_command_reads_a_run_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, _ = measured(lambda: wired(gain=0.5), seed=0)
    records.save(tmp_path / "run")
    assert run(str(tmp_path / "run"), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert {one["id"] for one in found} >= {"vanishing-forward"}
