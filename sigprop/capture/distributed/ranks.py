"""One probe of many ranks: which steps are recorded, and the merged statistics of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sigprop.capture.distributed.group import Floats, Group
from sigprop.capture.distributed.layout import Layout, describe
from sigprop.capture.distributed.merging import Merger
from sigprop.capture.recording.module_log import ModuleLog
from sigprop.capture.recording.step_statistics import StepStatistics


class RankError(Exception):
    """Ranks cannot go on together: training goes on without the probe."""


class Meeting(NamedTuple):
    """The next step at whose end the ranks exchange something.

    Attributes:
        step: its number.
        record: whether it is recorded; else the first rank only says which step comes next.
    """

    step: int
    record: bool


class Ranks:
    """The probes of one model on many ranks.

    The first rank chooses the steps. What it chose travels with what is merged, so that steps which
    are not recorded need no communication.

    Args:
        group: the ranks.
        first: the first step to meet at.
        following: the meeting after that of a given step; asked on the first rank only.
        own: how many metrics of the user's are averaged.

    Attributes:
        meeting: the next one; of no step once the ranks have parted.
    """

    def __init__(
        self, group: Group, first: Meeting, following: Callable[[int], Meeting], own: int = 0
    ) -> None:
        self._group, self._following = group, following
        self._layout = Layout()
        self._merger = Merger(group, self._layout, own)
        self.meeting = first

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._group.size

    @property
    def leads(self) -> bool:
        """Whether this is the first rank, which has the rows."""
        return self._group.rank == 0

    @property
    def traffic(self) -> tuple[int, int]:
        """Collectives so far, and the bytes that this rank gave to them."""
        return self._group.collectives, self._group.sent

    def merge(
        self, step: int, statistics: StepStatistics, log: ModuleLog, sharded: Floats
    ) -> tuple[StepStatistics, Floats]:
        """Return the statistics of all ranks, and sums over shards of parameters.

        On ranks other than the first, what is returned has no meaning.

        Args:
            step: the step in progress.
            statistics: of this rank.
            log: the order of this rank's blocks.
            sharded: numbers that add over ranks, as many on each.

        Raises:
            RankError: the ranks do not agree; they have parted.
            Exception: whatever merging raised; they have parted.
        """
        unknown = self._layout.unknown(statistics.taps)
        new = self._meet(step, len(unknown))
        try:
            if new:
                names = self._group.gather(describe(unknown, log))
                self._layout.extend(statistics.taps, names, log)
            merged = self._merger.merge(statistics)
            return merged, self._group.sum(sharded, first_only=True) if len(sharded) else sharded
        except Exception:
            self.part()  # the others, who wait for this rank, are told by the closed connection
            raise

    def meet(self, step: int, failed: bool = False) -> None:
        """Meet the other ranks with nothing to merge.

        Args:
            step: the step in progress.
            failed: the probe of this rank is off: those of all ranks will be.

        Raises:
            RankError: the ranks do not agree; they have parted.
        """
        self._meet(step, 0, failed)

    def _meet(self, step: int, unknown: int, failed: bool = False) -> bool:
        """Exchange what is to be known before the rest.

        Returns:
            Whether a tap is unknown to any rank.

        Raises:
            RankError: the ranks do not agree.
        """
        following = self._following(step) if self.leads else Meeting(0, False)
        self.meeting = Meeting(-1, False)  # should anything fail, there is no next one
        header = np.array([step, -step, failed, unknown, *following], dtype=np.int64)
        last, first, broken, new, at, record = (int(n) for n in self._group.max(header))
        if broken:
            raise RankError("the probe of another rank failed" if not failed else "it failed here")
        if last != -first:
            raise RankError(f"one rank ends step {-first} where another ends step {last}")
        self.meeting = Meeting(at, bool(record))
        return new > 0

    def part(self) -> None:
        """Let go of the connections."""
        self.meeting = Meeting(-1, False)
        self._group.close()
