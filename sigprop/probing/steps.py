"""Decides when a step of training begins and ends; knows nothing of what is recorded in it."""

from __future__ import annotations

import warnings
import weakref
from typing import Protocol

from torch.optim import Optimizer

from sigprop.capture.torch_internals import after_backward
from sigprop.errors import ProbeWarning
from sigprop.probing.loss_scale import LossScale
from sigprop.probing.optimizer_hooks import OptimizerHooks, StepsOfOthers, parameters_of


class StepObserver(Protocol):
    """What follows the steps of a training loop."""

    def update_begins(self, optimizer: Optimizer, closure: bool) -> bool:
        """The optimizer's step begins; return whether its gradients are wanted.

        Args:
            optimizer: the one that steps.
            closure: whether it was given one, in which gradients are still to be computed.
        """
        ...

    def gradients_ready(self, optimizer: Optimizer, closure: bool) -> None:
        """Gradients are those that the optimizer uses.

        Args:
            optimizer: the one that steps.
            closure: whether it was given one, which may be called again.
        """
        ...

    def update_ended(self) -> None:
        """The optimizer has changed the weights."""
        ...

    def step_ended(self, index: int, skipped: bool) -> None:
        """The step is over.

        Args:
            index: the step's number, from 0.
            skipped: whether a scaler left the optimizer's step out.
        """
        ...

    def step_began(self, index: int) -> None:
        """The next step is in progress."""
        ...

    def trained_parameters(self) -> set[int]:
        """Return the ids of the parameters of the probed model."""
        ...


class Steps:
    """The steps of one training loop.

    A step ends after the outermost ``step()`` of the optimizer. Without an optimizer it ends where
    the next training forward begins, or with the backward pass where the whole model is one
    compiled graph, whose forward runs no hook. `end` ends it by hand. A step that a gradient scaler
    left out ends where the next training forward begins.

    Args:
        first: the number of the first step.
        optimizer: the optimizer that trains the model, if it is known.
        scale: what the loss is multiplied by.
        observer: what follows the steps.

    Attributes:
        index: the number of the step in progress.
        begun: whether a training forward of it has begun.
    """

    def __init__(
        self, first: int, optimizer: Optimizer | None, scale: LossScale, observer: StepObserver
    ) -> None:
        self.index = self._first = first
        self.begun = False
        self._scale, self._observer = scale, observer
        self._ends_with_backward = False
        self._followed: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._related: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._given = optimizer
        self._hooks: list[OptimizerHooks | StepsOfOthers] = []

    @property
    def last_begun(self) -> int:
        """The number of the last step of which a training forward has begun."""
        return self.index if self.begun or self.index == self._first else self.index - 1

    # --- what is watched ------------------------------------------------------------------

    def watch(self) -> None:
        """Put hooks on the optimizer."""
        if self._given is not None:
            self._follow(self._given)
            self._hooks.append(StepsOfOthers(self._another_stepped))

    def _follow(self, optimizer: Optimizer) -> None:
        observer = self._observer
        self._followed.add(optimizer)
        self._hooks.append(
            OptimizerHooks(
                optimizer, observer.update_begins, observer.gradients_ready, self._updated
            )
        )

    def stop(self) -> None:
        """Take every hook off; no step ends by itself any more."""
        for hooks in self._hooks:
            hooks.remove()
        self._hooks.clear()
        self._ends_with_backward = False

    # --- what ends a step -----------------------------------------------------------------

    def end(self, skipped: bool = False) -> None:
        """End the step in progress.

        Args:
            skipped: a gradient scaler left the optimizer's step out.
        """
        self._observer.step_ended(self.index, skipped)
        self._scale.end()
        self.index += 1
        self.begun = False
        self._observer.step_began(self.index)

    def forward_begins(self, training: bool) -> None:
        """Note that a forward pass of the whole model begins, which may end the step before it."""
        if not training:
            return
        if self.begun and self._scale.step_skipped:
            self.end(skipped=self._given is not None)
        elif self.begun and self._given is None:
            self.end()
        if not self.begun:
            self.begun = True
            self._scale.begin()

    def _updated(self) -> None:
        self._observer.update_ended()
        self.end()

    def _another_stepped(self, optimizer: Optimizer) -> None:
        """End the step at an optimizer that has replaced the given one; warn once."""
        if optimizer in self._followed or not self.begun or not self._replaces(optimizer):
            return
        if any(hooks.running for hooks in self._hooks if isinstance(hooks, OptimizerHooks)):
            return
        given = type(self._given).__name__
        warnings.warn(
            f"the {given} given to attach did not step, and another optimizer "
            f"({type(optimizer).__name__}) updated the parameters instead: steps end at its steps "
            "from now on. Attach again with the optimizer that trains the model",
            ProbeWarning,
            stacklevel=2,
        )
        self._follow(optimizer)
        self.end()

    def _replaces(self, optimizer: Optimizer) -> bool:
        """Return whether an optimizer updates what the given one should."""
        if optimizer not in self._related:
            own = self._observer.trained_parameters()
            given = {id(p) for followed in self._followed for p in parameters_of(followed)}
            watched = own & given or own
            self._related[optimizer] = any(id(p) in watched for p in parameters_of(optimizer))
        return self._related[optimizer]

    def end_with_backward(self) -> None:
        """End the step when the backward pass that is running has ended."""
        if not self._ends_with_backward:
            self._ends_with_backward = after_backward(self._backward_ended)

    def _backward_ended(self) -> None:
        if self._ends_with_backward:  # else the probe was detached meanwhile
            self._ends_with_backward = False
            self.end()
