"""A user's own network, from the first line to the report, on every path that leads there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import packages
import pandas as pd
import pytest
import torch
from own_networks import OWN, Own, images
from torch import nn

import sigprop
from sigprop.cli import main

#: One figure is drawn where the walk concerns the records; all are drawn once a network.
ONE_FIGURE = ["signal_propagation"]


@pytest.fixture(autouse=True)
def _no_figure_stays_open() -> Iterator[None]:
    yield
    assert plt.get_fignums() == []


@pytest.fixture(params=list(OWN))
def own(request: pytest.FixtureRequest) -> Own:
    _skip_without_its_package(request.param)
    return OWN[request.param]


def _skip_without_its_package(name: str) -> None:
    if name in ("gpt2", "bert"):
        packages.transformers()


def whole(page: Path, names: list[str]) -> None:
    """Check that a report is there, names its networks, and that its figures are images."""
    text = page.read_text("utf-8")
    assert all(name in text for name in names)
    figures = sorted((page.parent / "figures").glob("*.png"))
    assert figures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    assert "nan%" not in text
    assert "Traceback" not in text


def run(arguments: list[str]) -> None:
    """Run a command that must end well."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code


def test_attach_train_report(own: Own, tmp_path: Path) -> None:
    """The first path: a loop of one's own, with an optimizer, and every figure there is."""
    torch.manual_seed(0)
    model = own.factory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with sigprop.attach(model, optimizer, network="mine", strict=True) as probe:
        for step in range(3):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images()), torch.arange(24) % 10)
            loss.backward()
            optimizer.step()
            probe.log(loss=loss.item(), step=step)
    records = probe.records
    rows = records.by_block("second_moment", direction="forward", port="out", step="last")
    assert rows["block"].nunique() == own.blocks
    assert (rows["second_moment"] > 0).all()
    back = records.by_block("second_moment", direction="backward", port="out", step="last")
    assert back["block"].nunique() == own.blocks - own.without_gradient
    assert set(records.parameters["step"]) == {0, 1, 2}
    assert (records.parameters["update_to_weight"].dropna() >= 0).all()
    whole(sigprop.report(records, tmp_path / "report"), ["mine"])


def test_factory_measure_report(own: Own, tmp_path: Path) -> None:
    """The second path: a picture at initialization over seeds."""
    records = sigprop.measure(own.to_measure(), own.own_inputs(), seeds=2)
    assert set(records.signals["seed"]) == {0, 1}
    first = records.by_block("second_moment", step="first")
    assert first.groupby("seed")["block"].nunique().tolist() == [own.blocks] * 2
    page = sigprop.report(records, tmp_path / "report", figures=ONE_FIGURE)
    whole(page, ["model"])


@pytest.mark.parametrize("name", list(OWN))
def test_compare_load_report_at_the_command_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third path: ``module:factory``, trained on digits, loaded and shown again."""
    _skip_without_its_package(name)
    label = f"own_networks:{name}"
    first, second = tmp_path / "first", tmp_path / "second"
    small = ["--steps", "2", "--seeds", "1", "--batch-size", "16"]
    run(["compare", label, *small, "--output", str(first)])
    whole(first / "report.html", [name])
    loaded = sigprop.load(first / "run")
    assert loaded.missing == []
    assert set(loaded.training["mode"]) == {"train", "eval"}
    arguments = ["report", str(first / "run"), "--figure", *ONE_FIGURE, "--output", str(second)]
    run(arguments)
    whole(second / "report.html", [name])
    assert "report:" in capsys.readouterr().out


def test_check_sees_the_blocks(own: Own) -> None:
    seen = sigprop.check(own.to_measure()(), own.own_inputs())
    chosen = seen.table[seen.table["status"] == "block"]
    assert len(chosen) == own.blocks
    assert [name.rpartition(".")[2] for name in seen.blind["name"]] == own.blind


def test_verify_reaches_a_verdict(own: Own) -> None:
    """A wide tolerance: what is tested is the way there, not the law."""
    result = sigprop.verify(own.to_measure(), own.own_inputs(), seeds=3, tolerance=0.5)
    assert result.verdict in {"holds", "violated", "undecided"}
    assert (result.table["block"] >= 0).sum() == (own.units or own.blocks)
    assert str(result).startswith(result.verdict.upper())


def zoo() -> list[tuple[str, str]]:
    """Return every network of the zoo in every architecture that it has."""
    found = []
    for name in sigprop.networks.names():
        for architecture in ("mlp", "resnet", "transformer"):
            try:
                sigprop.networks.build(name, depth=2, width=8, architecture=architecture)
            except sigprop.BadInput:
                continue
            found.append((name, architecture))
    return found


@pytest.mark.parametrize(("name", "architecture"), zoo())
def test_every_network_of_the_zoo_alone(name: str, architecture: str, tmp_path: Path) -> None:
    options = {"depth": 2, "width": 8, "architecture": architecture}
    records = sigprop.measure(name, images(), network=name, spectra=False, options=options)
    assert isinstance(records.signals, pd.DataFrame)
    whole(sigprop.report(records, tmp_path / "report", figures=ONE_FIGURE), [name])
