"""Reads parameters' gradients as they arrive in a backward pass, where no optimizer says when."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from sigprop.capture.hooks.handles import Handles
from sigprop.capture.model.naming import parameters

Arrived = Callable[[str, nn.Parameter], None]


class GradientHooks(Handles):
    """Watches the gradients of a model's parameters.

    Args:
        model: the model, not kept; of one that is distributed gradients are read late.
        arrived: a bound method, called with the name and the parameter when its gradient is
            complete.
    """

    def __init__(self, model: nn.Module, arrived: Arrived) -> None:
        super().__init__()
        self._late: dict[str, nn.Parameter] = {}
        self._watched: list[tuple[weakref.ref[nn.Parameter], _ArrivalHook]] = []
        # During backward a gradient of DDP is still that of one rank; lazy ones take no hook yet.
        distributed = isinstance(model, DistributedDataParallel)
        for name, parameter in parameters(model):
            if distributed or is_lazy(parameter):
                self._late[name] = parameter
            elif parameter.requires_grad:
                hook = _ArrivalHook(name, weakref.WeakMethod(arrived))
                self._watched.append((weakref.ref(parameter), hook))

    def attach(self) -> None:
        """Watch the gradients from now on."""
        if self._handles:
            return
        for known, hook in self._watched:
            parameter = known()
            if parameter is not None and parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

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
