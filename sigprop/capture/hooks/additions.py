"""The operands of residual additions, and how they correlate."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from sigprop.capture.hooks.dataflow import Operands
from sigprop.capture.hooks.port import Join, Port, renumbered
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
        self._outside = info.target is None
        self._reach: list[int] | None = None
        self._waiting: list[tuple[Operands, list[Join]]] = []

    @property
    def settled(self) -> bool:
        """Whether it is known how the module's output follows from its inputs."""
        return self._reach is not None

    def settle(self, now: ForwardState, reach: list[int]) -> None:
        """Keep or drop the additions that may be none, when the first call ends.

        Where the skip has passed a weight, or comes from another input than the first, the sum is
        on the module's stream only if that weight is all that lies on the shortest way from the
        input to the output: neither a position that is added to a query is, nor the D-skip inside a
        state-space model.

        Args:
            now: the forward pass in progress.
            reach: how many weights lie on the shortest way from each input to the output.
        """
        self._reach = reach
        for found, joins in self._waiting:
            if self.residual(found):
                call = self._next(now)
                for join in joins:
                    join(call)
        self._waiting.clear()

    def residual(self, found: Operands) -> bool:
        """Return whether an addition is a residual one, as far as is known.

        Outside of blocks, as in the code of a U-Net, a skip may have come any way.
        """
        if self._reach is None or self._outside or not (found.projected or found.source):
            return True
        return self._reach[found.source] == int(found.projected)

    def found(
        self, recorder: Recorder, now: ForwardState, skip: Tensor, branch: Tensor, found: Operands
    ) -> None:
        """Take the operands of an addition in the module's own code, if it is a residual one.

        Args:
            recorder: where statistics go.
            now: the forward pass in progress.
            skip: the operand on the stream.
            branch: the other.
            found: how far the skip has come, and from which input.
        """
        if not self.residual(found):
            return
        plain = self._outside or not (found.projected or found.source)
        certain = self._reach is not None or plain
        if certain and not self._waiting:
            self.take(recorder, now, (skip, branch))
            return
        joins: list[Join] = []
        self._waiting.append((found, joins))
        self._read(recorder, now, (skip, branch), now.calls[self._counter], joins)

    def take(self, recorder: Recorder, now: ForwardState, operands: Iterable[object]) -> None:
        """Take the operands in the order of the ports.

        Args:
            recorder: where statistics go.
            now: the forward pass in progress.
            operands: those of one addition; what is more of them is no operand.
        """
        self._read(recorder, now, operands, self._next(now))

    def _next(self, now: ForwardState) -> int:
        """Return the number of the next addition in this forward pass."""
        call = now.calls[self._counter]
        now.calls[self._counter] = call + 1
        return call

    def _read(
        self,
        recorder: Recorder,
        now: ForwardState,
        operands: Iterable[object],
        call: int,
        joins: list[Join] | None = None,
    ) -> None:
        """Read the operands; ``joins`` receives what makes rows of them, if that is not known."""
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
        if tap is None or not (isinstance(skip, Tensor) and isinstance(branch, Tensor)):
            return
        if joins is not None:
            add = ProductReader(recorder.accumulator).hold(skip, branch)
            joins.append(lambda call: add(renumbered(tap, call)))
            return
        reader = self._products.get(call)
        if reader is None:
            reader = self._products[call] = ProductReader(recorder.accumulator)
        reader.read(skip, branch, tap)

    def take_again(self, recorder: Recorder, operands: Iterable[object]) -> None:
        """Watch the gradients of operands that were read when they were made the first time.

        Args:
            recorder: where statistics go.
            operands: of an addition that is recomputed.
        """
        for port, operand in zip(self._ports.values(), operands, strict=False):
            port.take_again(recorder, operand)
