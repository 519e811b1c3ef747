"""A plain training loop, interrupted and resumed by hand, has every step once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import sigprop
from sigprop.records import RunWriter


def run(directory: Path, first: int, last: int, interrupt: bool, drains: bool) -> None:
    """Train from step ``first``; when interrupted, in the middle of step ``last``."""
    torch.manual_seed(first)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writer = RunWriter(directory, resume=first > 0)
    with sigprop.attach(model, optimizer, blocks="leaves", step=first) as probe:
        try:
            for step in range(first, last + 1):
                loss = model(torch.randn(5, 3)).square().mean()
                probe.log(loss=loss.item())
                if interrupt and step == last:
                    raise KeyboardInterrupt
                loss.backward()
                optimizer.step()
                if drains and step % 3 == 2:
                    writer.extend(probe.drain())
                    writer.flush()
        finally:
            # The step in progress is in here too.
            writer.extend(probe.drain() if drains else probe.records)
            writer.flush()


@pytest.mark.parametrize("drains", [False, True])
@pytest.mark.parametrize("back", [0, 3], ids=["at the interruption", "from a checkpoint"])
def test_a_loop_that_was_interrupted_and_resumed_has_every_step_once(
    tmp_path: Path, back: int, drains: bool
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 0, 7, interrupt=True, drains=drains)
    run(tmp_path, 7 - back, 11, interrupt=False, drains=drains)
    records = sigprop.load(tmp_path)
    signals = records.signals
    assert signals["step"].unique().tolist() == list(range(12))
    assert not signals.duplicated(["mode", "name", "port", "direction", "step"]).any()
    assert signals.groupby("step").size().nunique() == 1
    assert records.training["step"].tolist() == list(range(12))
    assert records.parameters.groupby("step").size().tolist() == [4] * 12


def test_a_run_resumed_for_another_seed_keeps_the_first(tmp_path: Path) -> None:
    for seed in (0, 1):
        writer = RunWriter(tmp_path, resume=seed > 0)
        model = nn.Linear(3, 2)
        with sigprop.attach(model, seed=seed) as probe:
            model(torch.randn(5, 3)).sum().backward()
        writer.extend(probe.records)
        writer.flush()
    assert sigprop.load(tmp_path).signals["seed"].unique().tolist() == [0, 1]


def test_what_was_resumed_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 0, 4, interrupt=True, drains=False)
    run(tmp_path, 2, 3, interrupt=False, drains=False)
    records = sigprop.load(tmp_path)
    assert records.signals["step"].unique().tolist() == [0, 1, 2, 3]
    assert not [line for line in records.missing if "parquet" in line]
