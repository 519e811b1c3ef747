"""Reads parameters' gradients as they arrive in a backward pass, where no optimizer says when."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprop.capture.hooks.handles import Handles
from sigprop.capture.model.naming import parameters
from sigprop.capture.torch_internals import after_backward

Arrived = Callable[[str, nn.Parameter], None]


class GradientHooks(Handles):
    """Watches the gradients of a model's parameters.

    Args:
        model: the model, not kept. On many ranks gradients are read when the backward pass has
            ended: DDP, around the model or inside of what is around it, has reduced them by then.
        arrived: a bound method, called with the name and the parameter when its gradient is
            complete.
    """

    def __init__(self, model: nn.Module, arrived: Arrived) -> None:
        super().__init__()
        self._late: dict[str, nn.Parameter] = {}
        self._watched: list[tuple[weakref.ref[nn.Parameter], _ArrivalHook]] = []
        self._arrived = weakref.WeakMethod(arrived)
        self._complete: list[tuple[str, weakref.ref[nn.Parameter]]] = []
        self._waits = False
        act = self._arrives_locally if dist.is_available() and dist.is_initialized() else arrived
        for name, parameter in parameters(model):
            lazy: bool = is_lazy(parameter)
            if lazy:  # it takes no hook yet
                self._late[name] = parameter
            elif parameter.requires_grad:
                hook = _ArrivalHook(name, weakref.WeakMethod(act))
                self._watched.append((weakref.ref(parameter), hook))

    def attach(self) -> None:
        """Watch the gradients from now on."""
        if self._handles:
            return
        for known, hook in self._watched:
            parameter = known()
            if parameter is not None and parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def _arrives_locally(self, name: str, parameter: nn.Parameter) -> None:
        """Read a gradient once this backward pass has ended, and what DDP does at its end."""
        if not self._waits:
            # DDP's own callback is registered later than the one here, before one made in it.
            self._waits = after_backward(self._backward_ends)
        if self._waits:
            self._complete.append((name, weakref.ref(parameter)))
        else:  # this torch has no such callback
            self._late[name] = parameter

    def _backward_ends(self) -> None:
        after_backward(self._reduced)

    def _reduced(self) -> None:
        complete, self._complete, self._waits = self._complete, [], False
        arrived = self._arrived()
        for name, known in complete:
            parameter = known()
            if arrived is not None and parameter is not None:
                arrived(name, parameter)

    def late(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters with gradients that must be read at the end of a step."""
        return [(name, p) for name, p in self._late.items() if p.grad is not None]

    def clear(self) -> None:
        """Let go of the parameters."""
        self._late.clear()


class _ArrivalHook:
    """Hook on a parameter: its gradient is complete for this backward pass."""

    def __init__(self, name: str, arrived: weakref.WeakMethod[Arrived]) -> None:
        self._name, self._arrived = name, arrived

    def __call__(self, parameter: Tensor) -> None:
        arrived = self._arrived()
        if arrived is not None and isinstance(parameter, nn.Parameter):
            arrived(self._name, parameter)
