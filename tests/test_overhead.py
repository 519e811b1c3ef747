"""What a probe says it costs, and a cadence that keeps to a budget, on a clock made by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

import sigprop
from sigprop import BadInput
from sigprop.capture.recording.stopwatch import Stopwatch
from sigprop.probing.overhead import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(budget: float, cost: float, bare: float, hidden: float = 0.0, steps: int = 400):
    """Train on a made-up clock: ``cost`` inside the probe's code, ``hidden`` outside of it."""
    clock = Clock()
    watch = Stopwatch(clock)
    cadence = Budget(budget, watch)
    recorded = 0
    for step in range(steps):
        on = cadence(step)
        watch.begin()
        clock.now += bare
        if on:
            recorded += 1
            assert watch.enter()
            assert not watch.enter()  # own code within own code is counted once
            clock.now += cost
            watch.leave()
            clock.now += hidden
        watch.end(on)
    return watch, cadence, recorded * (cost + hidden) / (steps * bare)


@pytest.mark.parametrize(("budget", "cost"), [(0.03, 0.5), (0.03, 3.0), (0.1, 0.02), (0.01, 0.095)])
def test_a_budget_is_kept_and_used(budget: float, cost: float) -> None:
    watch, cadence, spent = simulate(budget, cost, bare=1.0)
    assert cadence.every == max(2, math.ceil(cost / budget))
    # Step 0 is recorded whatever it costs; afterwards no step comes too early.
    assert spent <= budget + cost / 400
    assert watch.share == pytest.approx(spent)
    if cost / budget > 2:
        assert spent > 0.7 * budget, "a cadence that hardly records keeps any budget"


def test_cost_outside_of_the_probes_code_is_found_by_comparing_steps() -> None:
    """Hooks slow the framework down too, and an accelerator works on after the call returns."""
    watch, _, spent = simulate(0.5, cost=0.1, bare=1.0, hidden=0.3)
    assert watch.cost == pytest.approx(0.4)
    assert watch.share == pytest.approx(spent)


def test_a_slow_bare_step_now_and_then_does_not_pass_for_cheapness() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    watch.begin()
    for step in range(60):
        clock.now += 1.0 + 0.5 * (step % 2) + 30.0 * (step % 20 == 10)  # an evaluation
        watch.end(step % 2 == 1)
    assert watch.cost == pytest.approx(0.5)


def test_before_anything_was_timed_nothing_is_claimed() -> None:
    watch = Stopwatch()
    assert math.isnan(watch.share)
    assert math.isnan(watch.cost)
    watch.end(True)
    assert math.isnan(watch.share)


def test_a_probe_with_a_budget_says_what_it_chose() -> None:
    clock = Clock()

    def slow(x: torch.Tensor) -> torch.Tensor:
        clock.now += 0.1  # 3 leaves, in and out, forward and backward
        return x.sum()

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(
        model, optimizer, blocks="leaves", overhead=0.25, metrics={"slow": slow}
    ) as probe:
        probe._recorder.stopwatch.clock = clock
        for _ in range(40):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).sum().backward()
            clock.now += 1.0
            optimizer.step()
        steps = probe.records.signals["step"].unique().tolist()
        gaps = {b - a for a, b in itertools.pairwise(steps)}
        seen = len(probe.records.signals.query("step == 0")["name"])
        assert probe.every in gaps
        assert len(gaps) == 1
        assert probe.overhead <= 0.25 + 1 / 40
        assert probe.every > 2, seen
        assert f"every {probe.every}, overhead" in repr(probe)


def test_without_a_budget_the_cost_is_measured_too() -> None:
    model = nn.Linear(3, 2)
    with sigprop.attach(model, every=7) as probe:
        assert math.isnan(probe.overhead)
        for _ in range(3):
            model(torch.randn(5, 3)).sum().backward()
        assert probe.overhead > 0
        assert probe.every == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overhead": 0}, "a share of the step time such as 0.03, not 0"),
        ({"overhead": "3%"}, "a share of the step time such as 0.03, not '3%'"),
        ({"overhead": 0.03, "every": 10}, "chooses the cadence by itself; leave every=10 out"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        sigprop.attach(nn.Linear(3, 2), **options)
