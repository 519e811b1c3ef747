"""Turns the statistics of a step into rows of the frames, column by column."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from sigprop.capture.model.blocks import owner
from sigprop.capture.recording.failures import REPORTS
from sigprop.capture.recording.module_log import ModuleLog
from sigprop.capture.recording.own_metrics import Averages
from sigprop.capture.recording.step_statistics import StepStatistics
from sigprop.capture.recording.tap import Tap
from sigprop.capture.recording.tensor_statistics import Array
from sigprop.errors import ProbeWarning
from sigprop.signals.activity import DeadUnits
from sigprop.signals.correlation import correlations
from sigprop.signals.pooled import Pooled, Quantity
from sigprop.signals.signal import alive, pool

#: Columns of one table, all of one length.
Columns = dict[str, Any]


def _nan(pooled: Pooled) -> Array:
    return np.full_like(pooled.mean, np.nan)


class RowBuilder:
    """Makes rows of a step's statistics, and remembers what spans steps.

    Args:
        targets: names of the modules chosen as blocks.
        quantities: the numbers to compute of each tensor, by column.
        window: recorded steps over which a unit must be off to be dead; None for all.
        own: columns of the user's own metrics.
        strict: raise what a quantity raises instead of switching it off with a warning.
        members: modules that are called in a target and registered elsewhere, with it.

    Attributes:
        seen: by direction, the names of the modules and functions with at least one row so far;
            those of which an output was read are under ``"out"``.
    """

    def __init__(
        self,
        targets: Sequence[str],
        quantities: Mapping[str, Quantity],
        window: int | None,
        own: Sequence[str] = (),
        strict: bool = False,
        members: Mapping[str, str] | None = None,
    ) -> None:
        self._targets, self._members = frozenset(targets), members
        self._quantities, self._own, self._strict = dict(quantities), list(own), strict
        self._dead = DeadUnits(window)
        self.seen: dict[str, set[str]] = {"forward": set(), "backward": set(), "out": set()}
        self._owners: dict[str, str | None] = {}
        self._located = _Located(())
        self._blocks: tuple[Sequence[str], int, list[int]] = ((), 0, [])

    def signals(
        self, statistics: StepStatistics, loss_scale: float = 1.0, provisional: bool = False
    ) -> tuple[Columns, int]:
        """Return the columns of the `signals` frame, and the number of rows.

        Args:
            statistics: those of the step.
            loss_scale: what the loss was multiplied by (`torch.amp.GradScaler`); activations'
                gradients are divided by it.
            provisional: the step goes on; its rows will be asked for again.
        """
        taps = statistics.taps
        if not taps:
            return {}, 0
        located = self._locate(taps)
        pooled = pool(statistics.tables).take(statistics.index)
        counts = {"count": pooled.elements, "nonfinite": pooled.elements - pooled.samples}
        if loss_scale != 1:
            pooled = pooled.scaled(np.where(located.backward, 1 / loss_scale, 1.0))
        dead = copy.deepcopy(self._dead) if provisional else self._dead
        columns = {
            **located.columns,
            **counts,
            **{name: self._number(name, pooled) for name in self._quantities},
            "dead_fraction": self._dead_fractions(located, statistics, dead),
            "skip_branch_correlation": _correlations(located, statistics.products),
            **self._averages(located, statistics.averages),
        }
        return columns, len(taps)

    def parameters(
        self, names: Sequence[str], numbers: Columns, log: ModuleLog
    ) -> tuple[Columns, int]:
        """Return the columns of the `parameters` frame, and the number of rows.

        Args:
            names: the parameters.
            numbers: columns of theirs.
            log: the order of the blocks that they belong to.
        """
        known, blocks_met, blocks = self._blocks
        if known is not names or blocks_met != len(log.order):
            blocks = [log.order.get(self._owner(name), -1) for name in names]
            self._blocks = names, len(log.order), blocks
        return {"name": names, "block": blocks, **numbers}, len(names)

    def _locate(self, taps: Sequence[Tap]) -> _Located:
        """Return where the rows come from; that of the step before, when nothing changed."""
        if self._located.taps is not taps:
            self._located = _Located(taps)
            for tap in taps:
                self.seen[tap.direction].add(tap.target)
                if tap.port == "out":
                    self.seen["out"].add(tap.target)
        return self._located

    def _number(self, name: str, pooled: Pooled) -> Array:
        try:
            return self._quantities[name](pooled)
        except Exception as error:
            if self._strict:
                raise
            self._quantities[name] = _nan
            warnings.warn(
                f"the number {name!r} failed and is now off ({type(error).__name__}: {error}); "
                f"please report it: {REPORTS}",
                ProbeWarning,
                stacklevel=2,
            )
            return _nan(pooled)

    def _dead_fractions(
        self, located: _Located, statistics: StepStatistics, dead: DeadUnits
    ) -> Array:
        column = np.full(len(located.taps), np.nan)
        if statistics.rectified != located.rectified:
            rows = [row for tap, row in located.rows.items() if tap in statistics.rectified]
            located.rectified, located.rectified_rows = statistics.rectified, rows
        if located.rectified_rows:
            index = statistics.index
            tables = [statistics.tables[index[row]] for row in located.rectified_rows]
            units = {
                located.taps[row]: len(table)
                for row, table in zip(located.rectified_rows, tables, strict=True)
            }
            column[located.rectified_rows] = dead.update(units, alive(tables))
        return column

    def _averages(self, located: _Located, averages: Mapping[Tap, Averages]) -> Columns:
        if not self._own:
            return {}
        missing = Averages(np.full(len(self._own), np.nan), 0.0)
        rows = np.array([averages.get(tap, missing).numbers for tap in located.taps])
        return dict(zip(self._own, rows.T, strict=True))

    def _owner(self, name: str) -> str:
        if name not in self._owners:
            self._owners[name] = owner(name, self._targets, self._members)
        return self._owners[name] or ""


class _Located:
    """Where the rows of a step come from.

    Attributes:
        taps: one a row.
        rows: the row of each.
        backward: which of them are gradients.
        columns: the columns of the frame that say where.
        rectified: the taps of rectifiers' outputs when that was last worked out.
        rectified_rows: their rows.
    """

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = taps
        self.rows = {tap: row for row, tap in enumerate(taps)}
        fields = dict(zip(Tap._fields, map(list, zip(*taps, strict=True)), strict=False))
        fields.pop("target", None)
        self.columns: Columns = fields
        self.rectified: Set[Tap] = frozenset()
        self.rectified_rows: list[int] = []
        self.backward = np.array([tap.direction == "backward" for tap in taps], dtype=bool)


def _correlations(located: _Located, products: Mapping[Tap, Array]) -> Array:
    column = np.full(len(located.taps), np.nan)
    known = [tap for tap in products if tap in located.rows]
    if known:
        rows = [located.rows[tap] for tap in known]
        column[rows] = correlations(np.array([products[tap] for tap in known]))
    return column
