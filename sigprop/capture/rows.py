"""Turns a step's readings into rows of the frames."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from sigprop.capture.blocks import owner
from sigprop.capture.coverage import coverage
from sigprop.capture.parameters import ParameterReadings
from sigprop.capture.recorder import REPORTS, Address, Recorder
from sigprop.errors import ProbeWarning
from sigprop.signals.activity import DeadUnits
from sigprop.signals.signal import Quantity, Signal


def _nan(_: Signal) -> float:
    return math.nan


class Collector:
    """Reads a recorder and parameter readings off, and remembers what spans steps.

    Args:
        recorder: holds a step's signals.
        readings: holds a step's parameter readings.
        targets: names of the modules chosen as blocks.
        quantities: the numbers to compute from each signal, by column.
        window: recorded steps over which a unit must be off to be dead; None for all.

    Attributes:
        loss_scale: what the loss was multiplied by (`torch.amp.GradScaler`); activations'
            gradients are divided by it.
        gradient_scale: what the parameters' gradients were still multiplied by when read.
    """

    def __init__(
        self,
        recorder: Recorder,
        readings: ParameterReadings,
        targets: Sequence[str],
        quantities: Mapping[str, Quantity],
        window: int | None,
    ) -> None:
        self._recorder, self._readings = recorder, readings
        self._targets = frozenset(targets)
        self._quantities = dict(quantities)
        self.loss_scale = self.gradient_scale = 1.0
        self._window = window
        self._dead: dict[Address, DeadUnits] = {}
        self._seen: dict[str, set[str]] = {"forward": set(), "backward": set()}

    def collect(self, provisional: bool = False) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of the step in progress, for `signals` and `parameters`.

        Args:
            provisional: the step goes on; it will be collected again.
        """
        self._recorder.settle()
        dead = copy.deepcopy(self._dead) if provisional else self._dead
        return {
            "signals": [self._signal(*seen, dead) for seen in self._recorder.signals.items()],
            "parameters": list(self._parameters()),
        }

    def coverage(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the coverage rows, over every step so far."""
        return coverage(model, self._targets, self._recorder, *self._seen.values())

    def _signal(
        self, address: Address, signal: Signal, dead: dict[Address, DeadUnits]
    ) -> dict[str, Any]:
        recorder = self._recorder
        self._seen[address.direction].add(address.target)
        row: dict[str, Any] = {
            "mode": address.mode,
            "block": address.block,
            "name": address.name,
            "call": address.call,
            "port": address.port,
            "pass": address.direction,
            "channel_dim": address.channel_dim,
            "count": int(signal.activity.count.sum()),
            "channels": address.channels,
            "nonfinite": int(signal.activity.nonfinite.sum()),
        }
        if address.direction == "backward":
            signal = signal.scaled(1 / self.loss_scale)
        row |= {name: self._number(name, signal) for name in self._quantities}
        if address in recorder.rectified_addresses:
            watch = dead.setdefault(address, DeadUnits(self._window))
            row["dead_fraction"] = watch.update(signal.activity.alive)
        if address in recorder.products:
            row["skip_branch_correlation"] = recorder.products[address].correlation
        if address in recorder.averages:
            own = recorder.averages[address].numbers.tolist()
            row |= dict(zip(recorder.metrics, own, strict=True))
        return row

    def _number(self, name: str, signal: Signal) -> float:
        try:
            return self._quantities[name](signal)
        except Exception as error:
            if self._recorder.strict:
                raise
            self._quantities[name] = _nan
            warnings.warn(
                f"the number {name!r} failed and is now off ({type(error).__name__}: {error}); "
                f"please report it: {REPORTS}",
                ProbeWarning,
                stacklevel=2,
            )
            return math.nan

    def _parameters(self) -> Iterator[dict[str, Any]]:
        for name, numbers in self._readings.numbers(self.gradient_scale).items():
            block = self._recorder.order.get(owner(name, self._targets) or "", -1)
            yield {"name": name, "block": block, **vars(numbers)}
