"""What sweeps of the tests call; importable, as a process of its own needs it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import nn

import sigprop


def train(depth: int, width: int, seed: int) -> sigprop.Records:
    """Train a few steps, and return what was recorded."""
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, seed=seed) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, width)).square().sum().backward()
            optimizer.step()
    return probe.records


def draw(a: int) -> dict[str, float]:
    """Return what torch's global generator gives."""
    return {"drawn": torch.rand(1).item(), "threads": torch.get_num_threads()}


def fail_at_two(a: int) -> dict[str, float]:
    if a == 2:
        raise ZeroDivisionError("two is\nnot allowed")
    return {"b": a / 4}


def count_calls(a: int, log: str) -> dict[str, int]:
    """Leave a line for each call; fail at a = 2 while there is no file "fixed"."""
    with Path(log).open("a") as file:
        file.write(f"{a}\n")
    if a == 2 and not Path(log).with_name("fixed").exists():
        raise ValueError("not fixed yet")
    return {"b": a}


def scaled(a: int, by: int) -> dict[str, int]:
    return {"b": a * by}


def both(seed: int) -> tuple[sigprop.Records, dict[str, float]]:
    return train(1, 4, seed), {"loss": 0.5}


def stream(a: int, directory: Path) -> dict[str, float]:
    """Write the cell's own run."""
    model = nn.Linear(3, 2)
    with sigprop.attach(model, directory=directory, resume="allow") as probe:
        model(torch.full((4, 3), float(a))).sum().backward()
        probe.step()
    return {"b": a}


def die(a: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
