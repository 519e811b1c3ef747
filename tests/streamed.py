"""A training loop that streams to a run directory, and a parent that kills it at random moments."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import sigprop

FLUSH_EVERY = 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def train(
    directory: Path | None, first: int = 0, last: int = 10, **options: object
) -> sigprop.Probe:
    """Train from step ``first`` to before ``last``, and return the probe, detached."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"directory": directory, "flush_every": FLUSH_EVERY, "resume": "allow", **options}
    with sigprop.attach(model, optimizer, blocks="leaves", step=first, **given) as probe:  # type: ignore[arg-type]
        advance(probe, model, optimizer, last - first)
    return probe


def advance(
    probe: sigprop.Probe, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
) -> None:
    for _ in range(steps):
        torch.manual_seed(probe.step_index)
        loss = model(torch.randn(5, 3)).square().mean()
        probe.log(loss=loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _train_and_tell(directory: Path, first: int, pipe: int) -> None:
    """Train for ever, and write a byte to a pipe after each step."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = sigprop.attach(
        model,
        optimizer,
        blocks="leaves",
        step=first,
        directory=directory,
        flush_every=FLUSH_EVERY,
        resume="allow",
    )
    while True:
        advance(probe, model, optimizer, 1)
        os.write(pipe, b".")


def faults(directory: Path, first: int, done: int) -> list[str]:
    """Return what is wrong with a run that was killed when ``done`` steps were over."""
    found = []
    records = sigprop.load(directory)
    steps = sorted(records.signals["step"].unique())
    if steps != list(range(len(steps))):
        found.append(f"steps have holes: {steps}")
    if len(steps) < first + done - FLUSH_EVERY - 1:  # one more: it may be flushing
        found.append(f"{len(steps)} steps of {first + done} are there")
    for table, rows in (("signals", 11), ("parameters", 4)):
        sizes = getattr(records, table).groupby("step").size()
        if (sizes != rows).any() or len(sizes) != len(steps):
            found.append(f"{table} has steps of other sizes: {sizes.to_dict()}")
    if steps and records.coverage.empty:
        found.append("no coverage")
    found += [line for line in records.missing if "cannot" in line or "gone" in line]
    return found


def kill_at_random(root: Path, kills: int, seed: int = 0) -> list[str]:
    """Kill a training loop again and again; every other time it resumes the run before.

    Returns:
        What was wrong after each kill.
    """
    draw = random.Random(seed)
    found, first = [], 0
    train(root / "first", last=4)  # everything is imported before the first fork
    for kill in range(kills):
        directory = root / f"run-{kill // 2}"
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _train_and_tell(directory, first, writer)
        os.close(writer)
        os.read(reader, 1)  # it trains
        time.sleep(draw.uniform(0, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = 1
        while told := os.read(reader, 4096):
            done += len(told)
        os.close(reader)
        found += [f"kill {kill}: {fault}" for fault in faults(directory, first, done)]
        steps = sigprop.load(directory).signals["step"]
        first = 0 if kill % 2 or steps.empty else int(steps.max()) + 1 - draw.randrange(2)
    return found


if __name__ == "__main__":
    wrong = kill_at_random(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write("\n".join([*wrong, f"{sys.argv[2]} kills, {len(wrong)} faults\n"]))
    sys.exit(len(wrong) > 0)
