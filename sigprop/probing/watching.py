"""Watches one forward pass from outside a model: order of calls, output shapes, sums of the input.

Nothing is attached to the model: hooks are global and a function mode sees what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sigprop.capture.model.naming import modules
from sigprop.capture.model.nested import tensors

#: Functions that combine a block's input with something else, as no addition does.
_SUMS: Mapping[object, str] = {
    torch.lerp: "torch.lerp",
    Tensor.lerp: "torch.lerp",
    Tensor.lerp_: "torch.lerp",
    torch.sub: "a subtraction",
    torch.subtract: "a subtraction",
    torch.rsub: "a subtraction",
    Tensor.sub: "a subtraction",
    Tensor.sub_: "a subtraction",
    Tensor.__sub__: "a subtraction",
    Tensor.__rsub__: "a subtraction",
    Tensor.__isub__: "a subtraction",
    torch.stack: "torch.stack",
}


class Watch:
    """Notes what one forward pass of a model does.

    Args:
        model: whose modules are watched.

    Attributes:
        order: module -> its position in the order of first calls.
        shapes: module -> the shape of its first output tensor.
        sums: module -> names of functions, other than additions, that combine its input with a
            tensor of the same shape in its own code.
    """

    def __init__(self, model: nn.Module) -> None:
        self.order: dict[str, int] = {}
        self.shapes: dict[str, str] = {}
        self.sums: dict[str, set[str]] = {}
        self._names = {id(module): name for name, module in modules(model)}
        self._handles: list[Any] = []
        self._running: list[tuple[str, list[Tensor]]] = []
        self._mode = _Sums(self)
        self._entered = ExitStack()

    def __enter__(self) -> None:
        register: Callable[..., Any] = nn.modules.module.register_module_forward_pre_hook
        self._handles = [
            register(self._before),
            nn.modules.module.register_module_forward_hook(self._after),
        ]
        self._entered.enter_context(self._mode)

    def __exit__(self, *_: object) -> None:
        self._entered.close()
        for handle in self._handles:
            handle.remove()
        self._running.clear()

    def _before(self, module: nn.Module, args: object) -> None:
        name = self._names.get(id(module))
        if name is not None:
            self.order.setdefault(name, len(self.order))
            self._running.append((name, [x for _, x in tensors(args)]))

    def _after(self, module: nn.Module, _: object, output: object) -> None:
        name = self._names.get(id(module))
        if name is not None:
            first = next((x for _, x in tensors(output)), None)
            self.shapes.setdefault(name, "" if first is None else str(list(first.shape)))
            while self._running and self._running.pop()[0] != name:
                pass  # a module between them ended by an exception that was caught

    def note(self, how: str, operands: Iterable[object]) -> None:
        """Keep a function that the running module's own code calls on its input.

        Args:
            how: the function's name.
            operands: its arguments.
        """
        if not self._running:
            return
        name, entered = self._running[-1]
        given = [x for x in operands if isinstance(x, Tensor)]
        shapes = {x.shape for x in given}
        if len(given) > 1 and len(shapes) == 1 and any(x is y for x in given for y in entered):
            self.sums.setdefault(name, set()).add(how)


class _Sums(TorchFunctionMode):
    """Hands every function of `_SUMS` that is called to a `Watch`."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        how = _SUMS.get(func)
        if how is not None:
            operands = args[0] if func is torch.stack and args else args
            self._watch.note(how, operands)
        return func(*args, **(kwargs or {}))
