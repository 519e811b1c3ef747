"""Reads one step: its parameters at the optimizer's step, and all of its rows when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from sigprop.capture import ParameterStatistics, Recorder, RowBuilder
from sigprop.capture.distributed.ranks import Ranks
from sigprop.capture.model.blocks import members
from sigprop.capture.parameters.info import ParameterInfo, gradient_scale, leaves_step_out
from sigprop.capture.recording.coverage import coverage
from sigprop.probing.loss_scale import LossScale
from sigprop.probing.options import ProbeOptions, split_metrics

#: What is undefined where the optimizer's step was left out.
_OF_AN_UPDATE = (
    "grad_norm",
    "grad_to_weight",
    "update_to_weight",
    "unit_grad_to_weight_max",
    "angular_update",
)


class StepReader:
    """What is read in one step of training, and what of it spans steps.

    Args:
        model: the probed model; it is not kept.
        targets: names of the modules chosen as blocks.
        recorder: takes the tensors of the step.
        options: the probe's options.
        scale: what the loss is multiplied by.
        ranks: where the model is trained on many, what merges their statistics.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Iterable[str],
        recorder: Recorder,
        options: ProbeOptions,
        scale: LossScale,
        ranks: Ranks | None = None,
    ) -> None:
        _, quantities = split_metrics(options.metrics)
        self._recorder, self._scale = recorder, scale
        self._scaled_at_arrival = options.optimizer is None
        self._ranks = ranks
        # Each rank's loss is a mean over its own part of the batch, and the mean over ranks trains.
        usual = 1.0 if ranks is None else 1 / ranks.size
        self.grad_scale = usual if options.grad_scale is None else options.grad_scale
        self._skipped = False
        self._parameters = ParameterStatistics()
        self._info = ParameterInfo(model)
        self._gradient_scale = 1.0
        self._targets = frozenset(targets)
        own = [] if recorder.metrics is None else recorder.metrics.names
        self._rows = RowBuilder(
            list(self._targets),
            quantities,
            options.window,
            own,
            options.strict,
            members(options.blocks),
        )

    def remember(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Copy the weights that an optimizer is about to update.

        Args:
            model: the model.
            optimizer: which parameters it updates.
        """
        self._parameters.remember(self._info.plan(model, optimizer).known)

    def gradients_ready(self, model: nn.Module, optimizer: Optimizer, remember: bool) -> None:
        """Read weights and gradients.

        Args:
            model: the model.
            optimizer: gives the learning rates.
            remember: copy the weights too, for `update_ended`.
        """
        plan = self._info.plan(model, optimizer)
        self._parameters.read_all(plan, optimizer, remember)
        self._gradient_scale = gradient_scale(optimizer)
        self._skipped = leaves_step_out(optimizer)

    def update_left_out(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Read the weights of a step that a gradient scaler left out.

        Args:
            model: the model.
            optimizer: gives the learning rates.
        """
        self._parameters.read_all(self._info.plan(model, optimizer), optimizer)
        self._skipped = True

    def gradient_arrived(self, name: str, parameter: nn.Parameter) -> None:
        """Read one parameter whose gradient is complete for a backward pass.

        Args:
            name: of the parameter.
            parameter: itself.
        """
        self._parameters.read(self._info.known(name, parameter))

    def update_ended(self) -> None:
        """Read how far the weights have moved since they were copied."""
        self._parameters.compare()

    def rows(
        self, step: int, provisional: bool = False
    ) -> Mapping[str, tuple[Mapping[str, Any], int]]:
        """Return (columns, number of rows) of the step by table; on many ranks, on the first only.

        Args:
            step: its number.
            provisional: the step goes on; its rows will be asked for again.
        """
        scale = self._scale.value
        if self._scaled_at_arrival:
            self._gradient_scale = scale
        statistics, numbers = self._recorder.statistics(self._parameters.waiting())
        self._parameters.receive(numbers)
        if self._ranks is not None:
            log, parts = self._recorder.log, self._parameters.sharded()
            statistics, parts = self._ranks.merge(step, statistics, log, parts)
            if not self._ranks.leads:
                return {}
            self._parameters.receive_sharded(parts)
        names, columns = self._parameters.numbers(self._gradient_scale)
        if self._skipped:
            columns |= dict.fromkeys(_OF_AN_UPDATE, np.full(len(names), np.nan))
        columns["skipped"] = self._skipped
        return {
            "signals": self._rows.signals(statistics, scale / self.grad_scale, provisional),
            "parameters": self._rows.parameters(names, columns, self._recorder.log),
        }

    def coverage(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the coverage rows, over every step so far."""
        return coverage(model, self._targets, self._recorder.log, *self._rows.seen.values())

    def clear(self) -> None:
        """Forget the parameters of the step."""
        self._parameters.clear()
        self._skipped = False

    def close(self) -> None:
        """Let go of the model's parameters."""
        self.clear()
        self._parameters = ParameterStatistics()
        self._info.forget()
