"""What a probe says it costs, and a cadence that keeps to a budget, on a clock made by hand."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

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


def simulate(
    budget: float,
    cost: float,
    bare: float,
    hidden: float = 0.0,
    steps: int = 400,
    first: float | None = None,
):
    """Train on a made-up clock: ``cost`` inside the probe's code, ``hidden`` outside of it.

    Returns the stopwatch, the cadence, what was spent over the bare time, and after each step the
    same and whether it was recorded.
    """
    clock = Clock()
    watch = Stopwatch(clock)
    cadence = Budget(budget, watch)
    spent, trajectory = 0.0, []
    for step in range(steps):
        on = cadence(step)
        watch.begin()
        clock.now += bare
        if on:
            own = first if first is not None and step == 0 else cost
            spent += own + hidden
            assert watch.enter()
            assert not watch.enter()  # own code within own code is counted once
            clock.now += own
            watch.leave()
            clock.now += hidden
        watch.end(on)
        trajectory.append((on, spent / (bare * (step + 1))))
    return watch, cadence, trajectory[-1][1], trajectory


@pytest.mark.parametrize(("budget", "cost"), [(0.03, 0.5), (0.03, 3.0), (0.1, 0.02), (0.01, 0.095)])
def test_a_budget_is_kept_and_used(budget: float, cost: float) -> None:
    watch, cadence, spent, _ = simulate(budget, cost, bare=1.0)
    assert cadence.every == max(2, math.ceil(cost / budget))
    # Step 0 is recorded whatever it costs; afterwards no step comes too early.
    assert spent <= budget + cost / 400
    assert watch.share == pytest.approx(spent)
    if cost / budget > 2:
        assert spent > 0.7 * budget, "a cadence that hardly records keeps any budget"


@pytest.mark.parametrize("hidden", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("first", [0.4, 6.0])
def test_a_budget_is_kept_at_every_step_from_the_second_recorded_one_on(
    first: float, hidden: float
) -> None:
    """The first step costs what it costs, here up to 15 times as much, and is paid back first."""
    watch, _, spent, trajectory = simulate(
        0.05, 0.4, bare=1.0, hidden=hidden, first=first, steps=600
    )
    recorded = [step for step, (on, _) in enumerate(trajectory) if on]
    later = recorded[1:]
    assert len(later) >= 5
    # What lies outside of the probe's code is held to cost as much at most, until it was measured.
    outside = min(hidden, 0.4)
    assert recorded[1] + 1 >= (first + 0.4 + 2 * outside) / 0.05 * 0.999
    known = later[2:] if hidden > 0.4 else later
    assert all(share <= 0.05 * (1 + 1e-9) for on, share in trajectory[known[0] :] if on)
    assert 0.045 < spent <= 0.05 * (1 + 1e-9)
    assert watch.share == pytest.approx(spent)


def test_a_first_step_that_is_slow_for_other_reasons_is_not_charged() -> None:
    """Its time is that of a compiler or an allocator; only the own code in it is the probe's."""
    clock = Clock()
    watch = Stopwatch(clock)
    cadence = Budget(0.1, watch)
    recorded = []
    for step in range(100):
        on = cadence(step)
        watch.begin()
        clock.now += 500.0 if step == 0 else 1.0
        if on:
            recorded.append(step)
            watch.enter()
            clock.now += 0.5
            watch.leave()
        watch.end(on)
    assert 0.5 * len(recorded) <= 0.1 * 100
    assert len(recorded) > 0.7 * 0.1 * 100 / 0.5


#: Seconds that a bare step takes: step number and a random generator -> seconds.
LOADS = {
    "constant": lambda step, draw: 1.0,
    "noisy": lambda step, draw: draw.uniform(0.9, 1.1),
    "slower and slower": lambda step, draw: 1.0 + step / 200,
    "with evaluations": lambda step, draw: 31.0 if step % 50 == 49 else 1.0,
}


@pytest.mark.parametrize("load", list(LOADS))
@pytest.mark.parametrize("seed", range(20))
def test_the_budget_is_exceeded_at_no_step_by_more_than_one_recorded_one(
    load: str, seed: int
) -> None:
    """Whatever a recorded step costs, inside of the probe's code and, less surely, outside."""
    draw = random.Random(seed)
    share, scale = draw.choice([0.01, 0.03, 0.1]), math.exp(draw.uniform(-1.5, 1.5))
    outside, spread = draw.choice([0.0, 0.3, 1.0]), draw.choice([0.0, 0.3, 1.0])
    slow_start = draw.choice([1.0, 10.0])
    clock = Clock()
    watch = Stopwatch(clock)
    cadence = Budget(share, watch)
    spent = allowed = most = 0.0
    for step in range(500):
        on = cadence(step)
        watch.begin()
        bare = LOADS[load](step, draw)
        clock.now += bare
        allowed += share * bare
        if on:
            own = scale * draw.lognormvariate(-(spread**2) / 2, spread)
            own *= slow_start if step == 0 else 1.0
            hidden = outside * scale
            watch.enter()
            clock.now += own
            watch.leave()
            clock.now += hidden
            spent, most = spent + own + hidden, max(most, own + hidden)
        watch.end(on)
        assert spent <= allowed + most * (1 + 1e-9), (step, share)


def test_two_neighbors_are_never_recorded_whatever_they_cost() -> None:
    _, _, _, trajectory = simulate(0.9, cost=0.001, bare=1.0, steps=60)
    assert [on for on, _ in trajectory] == [True, False] * 30


def test_a_recorded_step_that_seems_to_save_time_costs_what_its_own_code_does() -> None:
    """Noise: the recorded steps were the faster ones. Nothing is ever earned by recording."""
    clock = Clock()
    watch = Stopwatch(clock)
    watch.begin()
    for step in range(40):
        on = step % 4 == 0
        clock.now += 0.5 if on else 1.0
        if on:
            watch.enter()
            clock.now += 0.25
            watch.leave()
        watch.end(on)
    assert watch.cost == pytest.approx(0.25)
    assert watch.share == pytest.approx(10 * 0.25 / 40)


def test_nothing_is_recorded_before_a_cost_is_known() -> None:
    cadence = Budget(0.1, Stopwatch(Clock()))
    assert [cadence(step) for step in range(5)] == [True, False, False, False, False]
    assert cadence.every == 0


def test_cost_outside_of_the_probes_code_is_found_by_comparing_steps() -> None:
    """Hooks slow the framework down too, and an accelerator works on after the call returns."""
    watch, _, spent, _ = simulate(0.5, cost=0.1, bare=1.0, hidden=0.3)
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
        seen = len(probe.records.signals.query("step == 0")["name"])
        # The first step is paid back before the second is recorded, so that gap is longer.
        first, *later = [b - a for a, b in itertools.pairwise(steps)]
        assert isinstance(probe.every, int)
        assert first > probe.every
        assert set(later) <= {probe.every - 1, probe.every}
        assert probe.overhead <= 0.25
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
def test_a_budget_that_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        sigprop.attach(nn.Linear(3, 2), **options)
