"""Turns a step's readings into rows of the frames, column by column."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from sigprop.capture.model.blocks import owner
from sigprop.capture.parameters.statistics import ParameterStatistics
from sigprop.capture.recording.coverage import coverage
from sigprop.capture.recording.recorder import REPORTS, Recorder
from sigprop.capture.recording.tap import Tap
from sigprop.errors import ProbeWarning
from sigprop.signals.activity import DeadUnits
from sigprop.signals.pooled import Pooled, Quantity
from sigprop.signals.signal import alive, pool

Array = npt.NDArray[np.float64]

#: Columns of one table, all of one length.
Columns = dict[str, Any]


def _nan(pooled: Pooled) -> Array:
    return np.full_like(pooled.mean, np.nan)


class Collector:
    """Reads a recorder and parameter readings off, and remembers what spans steps.

    Args:
        recorder: holds a step's signals.
        readings: holds a step's parameter readings.
        targets: names of the modules chosen as blocks.
        quantities: the numbers to compute of each tensor, by column.
        window: recorded steps over which a unit must be off to be dead; None for all.

    Attributes:
        loss_scale: what the loss was multiplied by (`torch.amp.GradScaler`); activations'
            gradients are divided by it.
        gradient_scale: what the parameters' gradients were still multiplied by when read.
    """

    def __init__(
        self,
        recorder: Recorder,
        readings: ParameterStatistics,
        targets: Sequence[str],
        quantities: Mapping[str, Quantity],
        window: int | None,
    ) -> None:
        self._recorder, self._readings = recorder, readings
        self._targets = frozenset(targets)
        self._quantities = dict(quantities)
        self.loss_scale = self.gradient_scale = 1.0
        self._window = window
        self._dead: dict[Tap, DeadUnits] = {}
        self._seen: dict[str, set[str]] = {"forward": set(), "backward": set()}
        self._owners: dict[str, str | None] = {}
        self._where: tuple[list[Tap], Columns] = ([], {})

    def collect(self, provisional: bool = False) -> dict[str, tuple[Columns, int]]:
        """Return (columns, number of rows) of the step in progress, by table.

        Args:
            provisional: the step goes on; it will be collected again.
        """
        self._recorder.flush()
        dead = copy.deepcopy(self._dead) if provisional else self._dead
        return {
            "signals": (self._signals(dead), len(self._recorder.accumulator.places)),
            "parameters": self._parameters(),
        }

    def coverage(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the coverage rows, over every step so far."""
        return coverage(model, self._targets, self._recorder, *self._seen.values())

    def _signals(self, dead: dict[Tap, DeadUnits]) -> Columns:
        accumulator = self._recorder.accumulator
        if not accumulator.places:
            return {}
        taps, places = list(accumulator.places), list(accumulator.places.values())
        pooled = pool(accumulator.tables).take(places)
        counts = {"count": pooled.elements, "nonfinite": pooled.elements - pooled.samples}
        if self.loss_scale != 1:
            backward = np.array([tap.direction == "backward" for tap in taps])
            pooled = pooled.scaled(np.where(backward, 1 / self.loss_scale, 1.0))
        return {
            **self._locations(taps),
            **counts,
            **{name: self._number(name, pooled) for name in self._quantities},
            **self._dead_fractions(taps, dead),
            **self._correlations(taps),
            **self._own(taps),
        }

    def _locations(self, taps: list[Tap]) -> Columns:
        """Return the columns that say where; those of the step before, when nothing changed."""
        known, columns = self._where
        if taps != known:
            for tap in taps:
                self._seen[tap.direction].add(tap.target)
            rows = zip(*taps, strict=True)
            columns = dict(zip(Tap._fields, map(list, rows), strict=True))
            del columns["target"]
            self._where = taps, columns
        return columns

    def _number(self, name: str, pooled: Pooled) -> Array:
        try:
            return self._quantities[name](pooled)
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
            return _nan(pooled)

    def _dead_fractions(self, taps: list[Tap], dead: dict[Tap, DeadUnits]) -> Columns:
        accumulator, rectified = self._recorder.accumulator, self._recorder.rectified_taps
        column = np.full(len(taps), np.nan)
        for row, tap in enumerate(taps):
            if tap in rectified:
                watch = dead.setdefault(tap, DeadUnits(self._window))
                column[row] = watch.update(alive(accumulator.tables[accumulator.places[tap]]))
        return {"dead_fraction": column}

    def _correlations(self, taps: list[Tap]) -> Columns:
        products = self._recorder.accumulator.products
        column = [products[a].correlation if a in products else np.nan for a in taps]
        return {"skip_branch_correlation": np.array(column)}

    def _own(self, taps: list[Tap]) -> Columns:
        averages, names = self._recorder.accumulator.averages, list(self._recorder.metrics)
        missing = np.full(len(names), np.nan)
        rows = [averages[a].numbers if a in averages else missing for a in taps]
        return {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}

    def _parameters(self) -> tuple[Columns, int]:
        names, numbers = self._readings.numbers(self.gradient_scale)
        blocks = [self._recorder.order.get(self._owner(name), -1) for name in names]
        return {"name": names, "block": blocks, **numbers}, len(names)

    def _owner(self, name: str) -> str:
        if name not in self._owners:
            self._owners[name] = owner(name, self._targets)
        return self._owners[name] or ""
