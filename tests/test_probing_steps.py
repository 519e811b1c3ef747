"""When a step begins and ends: optimizers, closures, scalers, other optimizers. Nothing is read."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from messages import refusal
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from sigprop.errors import BadInput, ProbeWarning
from sigprop.probing.loss_scale import LossScale
from sigprop.probing.optimizer_hooks import (
    OptimizerHooks,
    StepsOfOthers,
    parameters_of,
    torch_optimizer,
)
from sigprop.probing.steps import Steps


class Log:
    """An observer that keeps what it was called with, in order."""

    def __init__(self, wanted: bool = True, own: set[int] | None = None) -> None:
        self.events: list[Any] = []
        self.wanted, self.own = wanted, own or set()

    def update_begins(self, optimizer: Optimizer, closure: bool) -> bool:
        self.events.append(("begins", closure))
        return self.wanted

    def gradients_ready(self, optimizer: Optimizer, closure: bool) -> None:
        self.events.append(("ready", closure))

    def update_ended(self) -> None:
        self.events.append("updated")

    def step_ended(self, index: int, skipped: bool) -> None:
        self.events.append(("ended", index, skipped))

    def step_began(self, index: int) -> None:
        self.events.append(("began", index))

    def trained_parameters(self) -> set[int]:
        return self.own


def weight() -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    return parameter


def steps(log: Log, optimizer: Optimizer | None = None, first: int = 0) -> Steps:
    return Steps(first, optimizer, LossScale(None), log)


def lengths(log: Log) -> list[int]:
    """Return the numbers of the steps that ended."""
    return [event[1] for event in log.events if event[0] == "ended"]


# --- without an optimizer ---------------------------------------------------------------------


def test_a_step_ends_where_the_next_training_forward_begins() -> None:
    log = Log()
    made = steps(log, first=7)
    for training in (True, False, True, True):
        made.forward_begins(training)
    assert log.events == [("ended", 7, False), ("began", 8), ("ended", 8, False), ("began", 9)]
    assert made.index == 9


def test_evaluation_begins_no_step() -> None:
    log = Log()
    made = steps(log)
    for _ in range(3):
        made.forward_begins(False)
    assert (log.events, made.begun, made.last_begun) == ([], False, 0)


def test_the_last_step_that_begun_is_the_one_before_until_a_forward_comes() -> None:
    made = steps(Log(), first=4)
    assert made.last_begun == 4  # none has begun: what is logged belongs to the first
    made.forward_begins(True)
    made.end()
    assert (made.index, made.last_begun) == (5, 4)
    made.forward_begins(True)
    assert made.last_begun == 5


# --- with one ---------------------------------------------------------------------------------


def test_micro_batches_belong_to_one_step() -> None:
    log, optimizer = Log(), SGD([weight()], lr=0.1)
    made = steps(log, optimizer)
    made.watch()
    for _ in range(2):
        for _ in range(3):
            made.forward_begins(True)
        optimizer.step()
    assert lengths(log) == [0, 1]
    assert log.events[:5] == [
        ("begins", False),
        ("ready", False),
        "updated",
        ("ended", 0, False),
        ("began", 1),
    ]
    made.stop()
    optimizer.step()
    assert lengths(log) == [0, 1]


def test_gradients_of_a_closure_are_read_after_its_first_call() -> None:
    seen: list[str] = []
    log, parameter = Log(), weight()
    optimizer = torch.optim.LBFGS([parameter], max_iter=3, tolerance_change=0.0)
    hooks = OptimizerHooks(
        optimizer,
        log.update_begins,
        lambda o, closure: seen.append(f"read after {len(seen)}"),
        log.update_ended,
    )

    def closure() -> Tensor:
        seen.append("call")
        optimizer.zero_grad()
        loss = (parameter - 2.0).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert seen[:2] == ["call", "read after 1"]
    assert seen.count("call") > 1
    assert sum(event.startswith("read") for event in seen) == 1
    assert log.events == [("begins", True), "updated"]
    hooks.remove()


@pytest.mark.parametrize("how", ["by position", "by name"])
def test_a_closure_returns_what_it_did(how: str) -> None:
    log, optimizer = Log(), SGD([weight()], lr=0.1)
    OptimizerHooks(optimizer, log.update_begins, log.gradients_ready, log.update_ended)

    def closure() -> float:
        return 3.5

    found = optimizer.step(closure) if how == "by position" else optimizer.step(closure=closure)
    assert cast(float, found) == 3.5
    assert log.events == [("begins", True), ("ready", True), "updated"]


def test_what_is_not_wanted_is_not_read() -> None:
    log, optimizer = Log(wanted=False), SGD([weight()], lr=0.1)
    OptimizerHooks(optimizer, log.update_begins, log.gradients_ready, log.update_ended)
    optimizer.step()
    assert log.events == [("begins", False), "updated"]


class Twice(SGD):
    """An optimizer whose step calls that of its base, which has hooks of its own."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_step_inside_a_step_counts_once() -> None:
    log, optimizer = Log(), Twice([weight()], lr=0.1)
    OptimizerHooks(optimizer, log.update_begins, log.gradients_ready, log.update_ended)
    optimizer.step()
    optimizer.step()
    assert log.events == 2 * [("begins", False), ("ready", False), "updated"]


def test_a_step_that_raised_does_not_hide_the_next() -> None:
    log, optimizer = Log(), SGD([weight()], lr=0.1)
    hooks = OptimizerHooks(optimizer, log.update_begins, log.gradients_ready, log.update_ended)

    def fail() -> float:
        assert hooks.running
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fail)
    assert not hooks.running
    assert log.events == [("begins", True)]
    optimizer.step()
    assert log.events[1:] == [("begins", False), ("ready", False), "updated"]


# --- other optimizers -------------------------------------------------------------------------


def test_an_optimizer_that_replaced_the_given_one_ends_steps_from_then_on() -> None:
    parameter = weight()
    given, other = SGD([parameter], lr=0.1), torch.optim.Adam([parameter])
    log = Log(own={id(parameter)})
    made = steps(log, given)
    made.watch()
    made.forward_begins(True)
    with pytest.warns(ProbeWarning) as caught:
        other.step()
    assert [str(w.message) for w in caught] == [
        "the SGD given to attach did not step, and another optimizer (Adam) updated the parameters "
        "instead: steps end at its steps from now on. Attach again with the optimizer that trains "
        "the model"
    ]
    made.forward_begins(True)
    other.step()  # no second warning: an error under pytest
    assert lengths(log) == [0, 1]
    made.stop()


def test_an_optimizer_of_other_parameters_ends_nothing() -> None:
    mine = weight()
    log = Log(own={id(mine)})
    made = steps(log, SGD([mine], lr=0.1))
    made.watch()
    made.forward_begins(True)
    SGD([weight()], lr=0.1).step()
    assert log.events == []
    made.stop()


def test_steps_of_others_are_followed_until_the_observer_is_gone() -> None:
    class Observer:
        def __init__(self) -> None:
            self.seen: list[Optimizer] = []

        def stepped(self, optimizer: Optimizer) -> None:
            self.seen.append(optimizer)

    observer, optimizer = Observer(), SGD([weight()], lr=0.1)
    hook = StepsOfOthers(observer.stepped)
    optimizer.step()
    seen = observer.seen
    assert seen == [optimizer]
    del observer
    gc.collect()
    optimizer.step()  # removes the hook
    optimizer.step()
    assert seen == [optimizer]
    hook.remove()


# --- wrappers ---------------------------------------------------------------------------------


def test_the_optimizer_inside_wrappers_is_found() -> None:
    inner = SGD([weight()], lr=0.1)
    wrapped = SimpleNamespace(optimizer=SimpleNamespace(optimizer=inner))
    assert torch_optimizer(wrapped) is inner
    assert torch_optimizer(inner) is inner
    assert torch_optimizer(None) is None


@pytest.mark.parametrize("make", [lambda: "sgd", lambda: itself()], ids=["a name", "a circle"])
def test_what_wraps_no_optimizer_is_refused(make: Callable[[], object]) -> None:
    given = make()
    kind = type(given).__name__
    with refusal(
        BadInput,
        "optimizer is a torch.optim.Optimizer, or wraps one in its attribute `optimizer`, not "
        f"{kind}",
    ):
        torch_optimizer(given)


def itself() -> SimpleNamespace:
    circle = SimpleNamespace()
    circle.optimizer = circle
    return circle


def test_parameters_of_every_group() -> None:
    first, second = weight(), weight()
    groups: Any = [{"params": [first]}, {"params": [second], "lr": 0.5}]
    optimizer = SGD(groups, lr=0.1)
    assert [id(p) for p in parameters_of(optimizer)] == [id(first), id(second)]


# --- a scaled loss ----------------------------------------------------------------------------


def test_without_a_scaler_the_scale_is_one() -> None:
    for scaler in (None, torch.amp.GradScaler("cpu", enabled=False)):
        scale = LossScale(scaler)
        scale.begin()
        assert scale.value == 1.0
        assert not scale.step_skipped


def test_the_scale_is_that_of_the_steps_beginning() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1, growth_factor=2.0)
    parameter = weight()
    optimizer = SGD([parameter], lr=0.0)
    scale = LossScale(scaler)
    scaler.scale(parameter.sum()).backward()
    scale.begin()
    scaler.step(optimizer)
    scaler.update()
    assert (scale.value, scaler.get_scale()) == (1024.0, 2048.0)
    scale.end()
    assert scale.value == 2048.0


@pytest.mark.parametrize(("gradient", "skipped"), [(1.0, False), (float("inf"), True)])
def test_a_step_that_the_scaler_left_out_is_noticed(gradient: float, skipped: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    parameter = weight()
    log, optimizer = Log(), SGD([parameter], lr=0.1)
    made = Steps(0, optimizer, LossScale(scaler), log)
    made.watch()
    scaler.scale(parameter.sum())  # the scale is a tensor from the first loss on
    made.forward_begins(True)
    parameter.grad = torch.full((3,), gradient)
    scaler.step(optimizer)
    scaler.update()
    made.forward_begins(True)
    assert [event for event in log.events if event[0] == "ended"] == [("ended", 0, skipped)]
    made.stop()
