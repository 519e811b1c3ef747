"""Watches one forward pass: which module calls which, and whose code adds to its stream."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sigprop.capture.hooks.dataflow import COSTS, PRODUCTS, UNRELATED, Dataflow, Operands
from sigprop.capture.hooks.sums import STACKS, SUMS, WRITES, Stacks
from sigprop.capture.model.call_tree import CalledModule, CallTree
from sigprop.capture.model.module_info import transparent
from sigprop.capture.model.naming import modules
from sigprop.capture.model.nested import tensors
from sigprop.capture.torch_internals import push_mode, remove_mode


@dataclass(eq=False)
class _Call:
    """One call of a module.

    Attributes:
        name: the module's name.
        frame: its frame in the dataflow.
        weighs: whether it has parameters.
        given: its input tensors.
        reach: see `Dataflow.reach`; empty while the call goes on.
        own: how many residual additions are its own.
    """

    name: str
    frame: int
    weighs: bool
    given: list[Tensor]
    reach: list[int] = field(default_factory=list)
    own: int = 0

    def accepts(self, found: Operands) -> bool:
        return not found.projected or (self.reach or [2])[found.source] == 1


def trace_calls(model: nn.Module, run: Callable[[], object]) -> CallTree:
    """Return the call tree of what ``run`` does with a model.

    Args:
        model: a copy that is no longer needed: hooks are on it meanwhile, and ``run`` changes its
            buffers.
        run: calls the model.
    """
    trace = _Trace(model)
    with trace:
        run()
    return trace.tree()


class _Trace(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._modules = dict(modules(model))
        self._dataflow, self._stacks = Dataflow(), Stacks()
        self._stack: list[_Call] = []
        self._calls: list[_Call] = []
        self._found: dict[str, CalledModule] = {}
        self._sums: list[list[tuple[_Call, Operands]]] = []
        self._outputs: dict[str, list[weakref.ref[Tensor]]] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> _Trace:
        for name, module in self._modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            before = partial(self._before, name)
            handles = (
                module.register_forward_pre_hook(before, with_kwargs=True),
                module.register_forward_hook(partial(self._after, name)),
            )
            for handle in handles:
                self._hooks.callback(handle.remove)
        push_mode(self)
        return self

    def __exit__(self, *_: object) -> None:
        remove_mode(self)
        self._hooks.close()

    def _before(
        self, name: str, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        frame = len(self._calls)
        values = (*args, *kwargs.values())
        given = [x for value in values for _, x in tensors(value) if x.is_floating_point()]
        call = _Call(name, frame, next(module.parameters(), None) is not None, given)
        known = self._found.get(name)
        if known is None:
            above = self._stack[-1].name if self._stack else None
            known = self._found[name] = CalledModule(name, above)
        known.calls += 1
        known.loops |= any(y() is x for x in given for y in self._outputs.get(name, ()))
        self._calls.append(call)
        self._stack.append(call)
        self._dataflow.open(frame, [[x] for x in given])

    def _after(self, name: str, module: nn.Module, _: object, output: object) -> None:
        if all(call.name != name for call in self._stack):
            return
        while True:
            call = self._stack.pop()
            if call.name == name:
                break
            self._dataflow.close(call.frame)  # an exception that was caught ended it
        made = [x for _, x in tensors(output)]
        if not transparent(module):
            self._dataflow.bridge(call.given, made, call.weighs)
        call.reach = self._dataflow.reach(made, call.frame)
        self._outputs[name] = [weakref.ref(x) for x in made]
        self._dataflow.close(call.frame)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in SUMS:
            self._note_sum(name, args, kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            if not (out.is_floating_point() or out.is_complex()):
                return out
            if name in STACKS:
                self._stacks.note(args, kwargs, out)
        if name not in UNRELATED:
            into = args[0] if name in WRITES and args else out
            cost = COSTS.get(name, 0)
            self._dataflow.pass_on(args, kwargs, into, cost, name in PRODUCTS)
        return out

    def _note_sum(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        summands = SUMS[name](args, kwargs, self._stacks)
        if summands is None:
            return
        found = []
        for call in reversed(self._stack):
            operands = summands.residual(self._dataflow, call.frame)
            if operands is not None:
                found.append((call, operands))
        if found:
            self._sums.append(found)

    def tree(self) -> CallTree:
        """Return what was seen, each addition with the innermost module that it belongs to."""
        for found in self._sums:
            owner = next((call for call, operands in found if call.accepts(operands)), None)
            if owner is not None:
                owner.own += 1
        for call in self._calls:
            known = self._found[call.name]
            known.additions = max(known.additions, call.own)
        return CallTree(self._found)
