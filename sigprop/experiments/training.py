"""A small training loop that can be watched, stopped and resumed. Measures and draws nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprop.errors import BadInput, suggestion
from sigprop.inputs.batching import Batch
from sigprop.inputs.datasets import resolve
from sigprop.inputs.devices import (
    Device,
    moved,
    placed,
    random_state,
    resolve_device,
    set_random_state,
)

SCHEDULES = ("cosine", "constant", "step")

#: Fractions of a "step" schedule at which the rate falls to a tenth (30, 60, 90 of 100 epochs).
_MILESTONES = (0.3, 0.6, 0.9)


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        learning_rate: the highest one, of SGD.
        momentum: of SGD.
        weight_decay: of SGD, on every parameter.
        batch_size: samples per step.
        schedule: ``"cosine"`` to zero, ``"constant"``, or ``"step"`` (a tenth after 30, 60 and
            90 % of the steps, the ImageNet habit).
        warmup: steps of linear increase at the beginning, part of ``steps``.
        evaluate_every: evaluate the test split after every n-th step and after the last one;
            0 is after the last one only.

    Raises:
        BadInput: a value is out of range.
    """

    steps: int
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    schedule: str = "cosine"
    warmup: int = 0
    evaluate_every: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("warmup", 0), ("evaluate_every", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadInput(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name in ("learning_rate", "momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"{name} must be at least 0 and finite, got {getattr(self, name)!r}")
        if self.schedule not in SCHEDULES:
            raise BadInput(
                f"no schedule is called {self.schedule!r}; {suggestion(self.schedule, SCHEDULES)}"
            )
        if self.warmup > self.steps:
            raise BadInput(f"warmup={self.warmup} is longer than steps={self.steps}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        Example:
            >>> plan = Plan(steps=12, learning_rate=1.0, warmup=2)
            >>> [round(plan.rate(step), 3) for step in (0, 1, 2, 7)]
            [0.5, 1.0, 1.0, 0.5]
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "step":
            return self.learning_rate * 0.1 ** sum(done >= milestone for milestone in _MILESTONES)
        return self.learning_rate


@dataclass(frozen=True)
class Progress:
    """One row of a training curve.

    Attributes:
        step: index of the optimizer step, counted from 0; for an evaluation, of the one before it.
        mode: ``"train"`` (the batch of that step) or ``"eval"`` (the whole test split).
        loss: mean cross-entropy in nats; before the update of that step in mode train.
        accuracy: share of samples whose largest logit is that of their class.
        learning_rate: of that step.
    """

    step: int
    mode: str
    loss: float
    accuracy: float
    learning_rate: float


class Training:
    """Trains a classifier with SGD, one step at a time, the same again for the same seeds.

    The order of the batches comes from ``seed``; whatever the model draws (dropout) comes from
    torch's global generator, whose state is part of `state_dict`: an interrupted and resumed
    training is bit-identical to an uninterrupted one, on the same machine.

    A model in evaluation mode is switched to training mode; one in training mode is left as it
    is, so that frozen submodules stay frozen.

    Args:
        model: inputs (N, *shape) -> logits (N, classes); moved to ``device``.
        data: a `sigprop.inputs.datasets.Data`, or anything that `resolve` there takes.
        plan: how long and how fast.
        seed: of the order of batches.
        device: where to train: ``"auto"`` or a device's name.

    Attributes:
        optimizer: the SGD optimizer, for a probe to attach to.
        step: optimizer steps done.
        diverged: whether a loss was NaN or infinite; training has stopped then.

    Raises:
        BadInput: the data cannot be used, or the device is not there.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> training = Training(model, "digits", Plan(steps=2))
        >>> [(row.step, row.mode) for row in training.run()]
        [(0, 'train'), (1, 'train'), (1, 'eval')]
    """

    def __init__(
        self,
        model: nn.Module,
        data: object,
        plan: Plan,
        seed: int = 0,
        device: Device = "auto",
    ) -> None:
        self.device = resolve_device(device, model)
        self.model = placed(model, self.device)
        self.data = resolve(data)
        self.plan = plan
        self.seed = seed
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=plan.rate(0),
            momentum=plan.momentum,
            weight_decay=plan.weight_decay,
        )
        self.step = 0
        self.diverged = False
        self._evaluated = 0
        if not model.training:
            model.train()

    def run(self) -> Iterator[Progress]:
        """Train from `step` to the end of the plan.

        A loss that is NaN or infinite is data, not an error: that step still runs to its end, so
        that whoever watches the optimizer sees it, its row is yielded, and the run stops.

        Yields:
            Progress after every step and every evaluation.
        """
        if self._due():  # interrupted between a step and its evaluation
            yield self._evaluate()
        batches = self.data.batches(self.seed, self.plan.batch_size, start=self.step)
        while self.step < self.plan.steps and not self.diverged:
            yield self._train(next(batches))
            if self._due():
                yield self._evaluate()

    def _train(self, batch: Batch) -> Progress:
        rate = self.plan.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = moved(batch, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(inputs)
        loss = functional.cross_entropy(logits, targets)
        loss.backward()
        self.optimizer.step()
        row = Progress(self.step, "train", loss.item(), _accuracy(logits, targets), rate)
        self.step += 1
        self.diverged = not math.isfinite(row.loss)
        return row

    def _due(self) -> bool:
        if self.data.test is None or self.diverged or self.step == self._evaluated:
            return False
        every = self.plan.evaluate_every
        return self.step == self.plan.steps or (every > 0 and self.step % every == 0)

    def _evaluate(self) -> Progress:
        loss, correct, count = 0.0, 0.0, 0
        with _evaluation_mode(self.model), torch.no_grad():
            for batch in self.data.test_batches():
                inputs, targets = moved(batch, self.device)
                logits = self.model(inputs)
                loss += functional.cross_entropy(logits, targets, reduction="sum").item()
                correct += _accuracy(logits, targets) * len(targets)
                count += len(targets)
        self._evaluated = self.step
        rate = self.plan.rate(self.step - 1)
        return Progress(self.step - 1, "eval", loss / count, correct / count, rate)

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs: model, optimizer, step, and torch's generators.

        As torch's own, it refers to the live tensors: save or copy it before training goes on.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "evaluated": self._evaluated,
            "diverged": self.diverged,
            "generators": random_state(self.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; sets torch's global generators too."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self._evaluated = state["evaluated"]
        self.diverged = state["diverged"]
        set_random_state(state["generators"], self.device)


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    return (logits.detach().argmax(dim=1) == targets).sum().item() / len(targets)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, then give every module its own flag back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
