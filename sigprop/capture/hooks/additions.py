"""The operands of residual additions, and how they correlate."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from sigprop.capture.hooks.dataflow import Operands
from sigprop.capture.hooks.port import Join, Port
from sigprop.capture.model.module_info import ModuleInfo
from sigprop.capture.recording.forward_state import ForwardState
from sigprop.capture.recording.reader import ProductReader
from sigprop.capture.recording.recorder import Recorder


class Additions:
    """The operands of the additions in one module; it may add more than once: each is a call.

    Args:
        info: the module.
    """

    def __init__(self, info: ModuleInfo) -> None:
        source = info.addition_source
        self._counter = f"{source.name} +"
        names = info.ports or ("skip", "branch")
        self._ports = {name: Port(info, source, name, gradient=True) for name in names}
        self._products: dict[int, ProductReader] = {}
        self._reach: list[int] | None = None
        self._waiting: list[tuple[Operands, list[Join]]] = []

    @property
    def settled(self) -> bool:
        """Whether it is known how the module's output follows from its inputs."""
        return self._reach is not None

    def settle(self, now: ForwardState, reach: list[int]) -> None:
        """Keep or drop the additions whose skip has passed a weight, when the first call ends.

        Such a sum is on the module's stream only where no shorter way leads through it, and where
        no further weight follows: the D-skip inside a state-space model is not.

        Args:
            now: the forward pass in progress.
            reach: how many weights lie on the shortest way from each input to the output.
        """
        self._reach = reach
        if not all(self.residual(found) for found, _ in self._waiting):
            self._drop(now)
        for _, joins in self._waiting:
            for join in joins:
                join()
        self._waiting.clear()

    def residual(self, found: Operands) -> bool:
        """Return whether an addition is a residual one, as far as is known."""
        return not found.projected or self._reach is None or self._reach[found.source] == 1

    def found(
        self, recorder: Recorder, now: ForwardState, skip: Tensor, branch: Tensor, found: Operands
    ) -> None:
        """Take the operands of an addition in the module's own code, if it is a residual one.

        Args:
            recorder: where statistics go.
            now: the forward pass in progress.
            skip: the operand on the stream.
            branch: the other.
            found: how far the skip has come.
        """
        if not self.residual(found):
            return
        if self._reach is None and found.projected:
            joins: list[Join] = []
            self._waiting.append((found, joins))
            self.take(recorder, now, (skip, branch), joins)
            return
        if self._waiting:  # a shorter way goes past them
            self._drop(now)
        self.take(recorder, now, (skip, branch))

    def _drop(self, now: ForwardState) -> None:
        now.calls[self._counter] -= len(self._waiting)
        self._waiting.clear()

    def take(
        self,
        recorder: Recorder,
        now: ForwardState,
        operands: Iterable[object],
        joins: list[Join] | None = None,
    ) -> None:
        """Take the operands in the order of the ports.

        Args:
            recorder: where statistics go.
            now: the forward pass in progress.
            operands: those of one addition; what is more of them is no operand.
            joins: receives what makes rows of them, where it is not known yet whether to.
        """
        call = now.calls[self._counter]
        now.calls[self._counter] = call + 1
        given: dict[str, object] = {}
        tap = None
        for name, operand in zip(self._ports, operands, strict=False):
            given[name], port = operand, self._ports[name]
            if type(operand) is Tensor and not operand.is_nested:
                taken = port.take_tensor(recorder, now, operand, call, joins=joins)
            else:
                taken = port.take(recorder, now, operand, call)
            if name == "branch":
                tap = taken
        skip, branch = given.get("skip"), given.get("branch")
        if tap is not None and isinstance(skip, Tensor) and isinstance(branch, Tensor):
            reader = self._products.get(call)
            if reader is None:
                reader = self._products[call] = ProductReader(recorder.accumulator)
            if joins is None:
                reader.read(skip, branch, tap)
            else:
                joins.append(reader.hold(skip, branch, tap))

    def take_again(self, recorder: Recorder, operands: Iterable[object]) -> None:
        """Watch the gradients of operands that were read when they were made the first time."""
        for port, operand in zip(self._ports.values(), operands, strict=False):
            port.take_again(recorder, operand)
