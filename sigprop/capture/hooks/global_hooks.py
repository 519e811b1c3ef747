"""Hooks on modules that must not carry any themselves."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from sigprop.capture.hooks.handles import Handles
from sigprop.capture.hooks.module_hooks import ForwardHook, ForwardPreHook


class GlobalHooks(Handles):
    """Watches modules that must not carry hooks, through global ones, during a forward pass.

    `nn.TransformerEncoderLayer` runs as one fused function only if nothing inside it has a hook.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watched: dict[
            int, tuple[weakref.ref[nn.Module], ForwardPreHook | None, ForwardHook]
        ] = {}

    def add(self, module: nn.Module, before: ForwardPreHook | None, after: ForwardHook) -> None:
        """Watch a module with what would have been its hooks.

        Args:
            module: what is watched; it is not kept alive.
            before: called with it and its inputs; None for no hook.
            after: called with it, its inputs and its output.
        """
        self._watched[id(module)] = weakref.ref(module), before, after

    def attach(self) -> None:
        """Begin to watch; after `remove` nothing global remains."""
        self.remove()
        if self._watched:
            self._handles = [
                register_module_forward_pre_hook(self._before),
                register_module_forward_hook(self._after),
            ]

    def _before(self, module: nn.Module, args: Any) -> None:
        known = self._watched.get(id(module))
        if known is not None and known[0]() is module and known[1] is not None:
            known[1](module, args)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        known = self._watched.get(id(module))
        if known is not None and known[0]() is module:
            known[2](module, args, output)
