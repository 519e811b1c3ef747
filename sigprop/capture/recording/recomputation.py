"""Which tensors reentrant activation checkpointing will make a second time, with gradients."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import NamedTuple

from sigprop.capture.recording.tap import Tap
from sigprop.capture.torch_internals import reentrant_checkpoints


class Position(NamedTuple):
    """A tensor of one call.

    Attributes:
        target: the module, function or block that it belongs to.
        port: the port's name.
        call: which call it is.
        path: where in a nest the tensor lies.
    """

    target: str
    port: str
    call: int
    path: str


class _Checkpoint:
    """The taps of what one checkpoint ran without gradients.

    Args:
        reverse: whether the last call is recomputed first, as where several checkpoints are one
            here.
    """

    def __init__(self, reverse: bool) -> None:
        self.awaited: dict[Position, Tap] = {}
        self.found: set[Position] = set()
        self._reverse = reverse
        self._calls: dict[tuple[str, bool], tuple[int, int]] = {}
        self._again: Counter[tuple[str, str]] = Counter()

    def add(self, position: Position, tap: Tap) -> None:
        """Await a tensor.

        Args:
            position: where it was met.
            tap: where it was read.
        """
        self.awaited[position] = tap
        calls = _counter(position.target, position.port)
        first, last = self._calls.get(calls, (position.call, position.call))
        self._calls[calls] = min(first, position.call), max(last, position.call)

    def call_again(self, target: str, port: str) -> int:
        """Return which call is made again, now that a port is met in a recomputation.

        Args:
            target: the module, function or block.
            port: the port's name.
        """
        first, last = self._calls.get(_counter(target, port), (0, 0))
        # A second backward pass through the same graph recomputes all calls once more.
        index = self._again[target, port] % (last - first + 1)
        self._again[target, port] += 1
        return last - index if self._reverse else first + index

    def missed(self) -> set[str]:
        """Return the targets of tensors that were not met again."""
        return {position.target for position in self.awaited.keys() - self.found}


class Recomputation:
    """The checkpoints of the step in progress, each with the taps of its first, gradientless run.

    A checkpoint inside another runs three times: twice without gradients, the second time when the
    outer one is recomputed.
    """

    def __init__(self) -> None:
        self._checkpoints: dict[int, tuple[weakref.ref[object], _Checkpoint]] = {}
        # Checkpoints of other libraries, whose calls cannot be told apart.
        self._others = _Checkpoint(reverse=True)
        self._missed: set[str] = set()

    @property
    def awaited(self) -> bool:
        """Whether any tensor is."""
        return bool(self._checkpoints or self._others.awaited)

    def wait(self, position: Position, tap: Tap) -> None:
        """Await a tensor that has no gradient now, because its checkpoint runs the first time.

        Args:
            position: where it was met.
            tap: where it was read.
        """
        running, _ = reentrant_checkpoints()
        self._of(running).add(position, tap)

    def call(self, target: str, port: str) -> int:
        """Return which call is made again, now that a port is met in a recomputation.

        Args:
            target: the module, function or block.
            port: the port's name.
        """
        _, recomputed = reentrant_checkpoints()
        return self._of(recomputed).call_again(target, port)

    def tap(self, position: Position, gradient: bool) -> Tap | None:
        """Return the tap of a tensor met in a recomputation.

        Args:
            position: where it was met.
            gradient: whether it has a gradient now, or waits for an inner checkpoint.

        Returns:
            The tap; None if the tensor was not awaited.
        """
        running, recomputed = reentrant_checkpoints()
        checkpoint = self._of(recomputed)
        tap = checkpoint.awaited.get(position)
        if tap is not None:
            checkpoint.found.add(position)
            if not gradient and running is not None:
                self._of(running).add(position, tap)
        return tap

    def missed(self) -> set[str]:
        """Return the targets of tensors that were awaited and not met in any recomputation."""
        for _, checkpoint in self._checkpoints.values():
            self._missed |= checkpoint.missed()
        return self._missed

    def clear(self) -> None:
        """Forget the step."""
        if self.awaited:
            self._checkpoints.clear()
            self._others = _Checkpoint(reverse=True)
            self._missed = set()

    def _of(self, checkpoint: object | None) -> _Checkpoint:
        if checkpoint is None:
            return self._others
        known = self._checkpoints.get(id(checkpoint))
        if known is None or known[0]() is not checkpoint:
            if known is not None:  # of one that is gone
                self._missed |= known[1].missed()
            known = weakref.ref(checkpoint), _Checkpoint(reverse=False)
            self._checkpoints[id(checkpoint)] = known
        return known[1]


def _counter(target: str, port: str) -> tuple[str, bool]:
    """Return what counts the calls at a port: those of a module, or of its additions."""
    return target, port in ("in", "out")
