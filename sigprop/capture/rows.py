"""Turns a step's readings into rows of the frames, column by column."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from sigprop.capture.address import Address
from sigprop.capture.blocks import owner
from sigprop.capture.coverage import coverage
from sigprop.capture.parameters import ParameterReadings
from sigprop.capture.recorder import REPORTS, Recorder
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
        self._owners: dict[str, str | None] = {}
        self._where: tuple[list[Address], Columns] = ([], {})

    def collect(self, provisional: bool = False) -> dict[str, tuple[Columns, int]]:
        """Return (columns, number of rows) of the step in progress, by table.

        Args:
            provisional: the step goes on; it will be collected again.
        """
        self._recorder.settle()
        dead = copy.deepcopy(self._dead) if provisional else self._dead
        return {
            "signals": (self._signals(dead), len(self._recorder.gathered.places)),
            "parameters": self._parameters(),
        }

    def coverage(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the coverage rows, over every step so far."""
        return coverage(model, self._targets, self._recorder, *self._seen.values())

    def _signals(self, dead: dict[Address, DeadUnits]) -> Columns:
        gathered = self._recorder.gathered
        if not gathered.places:
            return {}
        addresses, places = list(gathered.places), list(gathered.places.values())
        pooled = pool(gathered.tables).take(places)
        counts = {"count": pooled.elements, "nonfinite": pooled.elements - pooled.samples}
        if self.loss_scale != 1:
            backward = np.array([address.direction == "backward" for address in addresses])
            pooled = pooled.scaled(np.where(backward, 1 / self.loss_scale, 1.0))
        return {
            **self._locations(addresses),
            **counts,
            **{name: self._number(name, pooled) for name in self._quantities},
            **self._dead_fractions(addresses, dead),
            **self._correlations(addresses),
            **self._own(addresses),
        }

    def _locations(self, addresses: list[Address]) -> Columns:
        """Return the columns that say where; those of the step before, when nothing changed."""
        known, columns = self._where
        if addresses != known:
            for address in addresses:
                self._seen[address.direction].add(address.target)
            rows = zip(*addresses, strict=True)
            columns = dict(zip(_LOCATION, map(list, rows), strict=True))
            del columns["target"]
            self._where = addresses, columns
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

    def _dead_fractions(self, addresses: list[Address], dead: dict[Address, DeadUnits]) -> Columns:
        gathered, rectified = self._recorder.gathered, self._recorder.rectified_addresses
        column = np.full(len(addresses), np.nan)
        for row, address in enumerate(addresses):
            if address in rectified:
                watch = dead.setdefault(address, DeadUnits(self._window))
                column[row] = watch.update(alive(gathered.tables[gathered.places[address]]))
        return {"dead_fraction": column}

    def _correlations(self, addresses: list[Address]) -> Columns:
        products = self._recorder.gathered.products
        column = [products[a].correlation if a in products else np.nan for a in addresses]
        return {"skip_branch_correlation": np.array(column)}

    def _own(self, addresses: list[Address]) -> Columns:
        averages, names = self._recorder.gathered.averages, list(self._recorder.metrics)
        missing = np.full(len(names), np.nan)
        rows = [averages[a].numbers if a in averages else missing for a in addresses]
        return {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}

    def _parameters(self) -> tuple[Columns, int]:
        names, numbers = self._readings.numbers(self.gradient_scale)
        blocks = [self._recorder.order.get(self._owner(name), -1) for name in names]
        return {"name": names, "block": blocks, **numbers}, len(names)

    def _owner(self, name: str) -> str:
        if name not in self._owners:
            self._owners[name] = owner(name, self._targets)
        return self._owners[name] or ""


_LOCATION = ["pass" if field == "direction" else field for field in Address._fields]
