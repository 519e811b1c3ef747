"""The operands of residual additions, and how they correlate."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from sigprop.capture.hooks.port import Port
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

    def take(self, recorder: Recorder, now: ForwardState, operands: Iterable[object]) -> None:
        """Take the operands in the order of the ports.

        Args:
            recorder: where statistics go.
            now: the forward pass in progress.
            operands: those of one addition; what is more of them is no operand.
        """
        call = now.calls[self._counter]
        now.calls[self._counter] = call + 1
        given: dict[str, object] = {}
        tap = None
        for name, operand in zip(self._ports, operands, strict=False):
            given[name], port = operand, self._ports[name]
            if type(operand) is Tensor and not operand.is_nested:
                taken = port.take_tensor(recorder, now, operand, call)
            else:
                taken = port.take(recorder, now, operand, call)
            if name == "branch":
                tap = taken
        skip, branch = given.get("skip"), given.get("branch")
        if tap is not None and isinstance(skip, Tensor) and isinstance(branch, Tensor):
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
