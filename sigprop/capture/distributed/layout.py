"""One order of taps that every rank has: where each one's numbers lie in what is summed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sigprop.capture.recording.module_log import ModuleLog
from sigprop.capture.recording.tap import Tap

Positions = npt.NDArray[np.intp]


def key_of(tap: Tap) -> Tap:
    """Return a tap without its block's number, which ranks that call other modules first differ in.

    Example:
        >>> key_of(Tap("train", 3, "block", "a", "a", "a", 0, "out", "forward", 1, 8)).block
        -1
    """
    return tap._replace(block=-1)


class Layout:
    """The taps that any rank has seen, in one order, each with a place for its channels.

    Attributes:
        taps: as this rank has them, or would have.
        starts: the first channel of each, and the number of channels at the end.
    """

    def __init__(self) -> None:
        self.taps: list[Tap] = []
        self.starts: Positions = np.zeros(1, dtype=np.intp)
        self._position: dict[Tap, int] = {}
        self._last: tuple[Sequence[Tap], Positions, Positions] | None = None

    def unknown(self, taps: Sequence[Tap]) -> list[Tap]:
        """Return those of a rank's taps that have no place yet."""
        if self._last is not None and self._last[0] is taps:
            return []
        return [tap for tap in taps if key_of(tap) not in self._position]

    def extend(self, own: Sequence[Tap], described: Iterable[bytes], log: ModuleLog) -> None:
        """Give places to taps that were unknown to any rank, in the order of ranks.

        Args:
            own: all taps of this rank in this step.
            described: what `describe` gave on each rank.
            log: the order of this rank's blocks, which those of other ranks are added to.
        """
        mine = {key_of(tap): tap for tap in own}
        for payload in described:
            for *fields, block in json.loads(payload):
                key = Tap(*fields)
                if key in self._position:
                    continue
                self._position[key] = len(self.taps)
                number = log.block_of(block) if block is not None else -1
                self.taps.append(mine.get(key, key._replace(block=number)))
        channels = [tap.channels for tap in self.taps]
        self.starts = np.cumsum([0, *channels], dtype=np.intp)
        self._last = None

    def places(self, taps: Sequence[Tap]) -> tuple[Positions, Positions]:
        """Return (position of each tap, place of each of their channels)."""
        if self._last is None or self._last[0] is not taps:
            at = np.array([self._position[key_of(tap)] for tap in taps], dtype=np.intp)
            spans = [np.arange(self.starts[p], self.starts[p + 1]) for p in at]
            channels = np.concatenate([np.zeros(0, dtype=np.intp), *spans])
            self._last = taps, at, channels
        return self._last[1:]


def describe(taps: Sequence[Tap], log: ModuleLog) -> bytes:
    """Return taps as text for other ranks: keys, each with the name of its block.

    Args:
        taps: of this rank.
        log: the order of this rank's blocks.
    """
    blocks = list(log.order)
    named = [(*key_of(tap), blocks[tap.block] if tap.block >= 0 else None) for tap in taps]
    return json.dumps(named).encode()
