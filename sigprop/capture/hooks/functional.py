"""Sees what module hooks cannot: functional rectifiers, residual additions, fused attention.

A `TorchFunctionMode` that is active only while the model's forward runs on a recorded step. It
calls every function with the very arguments it was called with and returns what that returned.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sigprop.capture.hooks.dataflow import COSTS, PRODUCTS, UNRELATED, Dataflow
from sigprop.capture.hooks.scope import Scope
from sigprop.capture.hooks.sums import STACKS, SUMS, WRITES, Stacks
from sigprop.capture.model.nested import tensors
from sigprop.capture.recording.forward_state import ModuleFrame
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.torch_internals import calling, push_mode, remove_mode, transforming

_compiling = torch.compiler.is_dynamo_compiling
_ALWAYS_RECTIFY = {"relu": "relu", "relu_": "relu", "relu6": "relu6"}
_CLAMPS = {name: name.rstrip("_") for name in ("clamp", "clamp_", "clip", "clip_")}
_CLAMPS_FROM = {"clamp_min": "clamp", "clamp_min_": "clamp"}
RECTIFIERS = {**_ALWAYS_RECTIFY, **_CLAMPS, **_CLAMPS_FROM, "_threshold": "threshold"}
_MAKES_LAST = frozenset({"linear", "layer_norm", "embedding", "rms_norm"})
_MAKES_FIRST = frozenset(
    f"{name}{n}d" for name in ("conv", "conv_transpose") for n in (1, 2, 3)
) | {"batch_norm", "group_norm", "instance_norm"}


class FunctionalMode(TorchFunctionMode):
    """Finds the operands of residual additions, and what functions make.

    Args:
        recorder: where they go; it is held weakly.
        scope: what is recorded outside of blocks.
        modules: the ids of the model's modules.

    Attributes:
        dataflow: how far each tensor lies from the inputs of the modules on the stack.
        paused_by: the module for which the mode stepped aside, or "".
        over: whether the forward pass has ended, by an exception that no hook was called for.
    """

    def __init__(self, recorder: Recorder, scope: Scope, modules: frozenset[int]) -> None:
        super().__init__()
        self.dataflow, self.paused_by, self.over = Dataflow(), "", False
        self._stacks = Stacks()
        self._modules = modules
        self._recorder, self._scope = weakref.ref(recorder), scope
        self._now = recorder.now

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function; look at its operands before, since it may write into them.

        Returns:
            What the function returned.
        """
        kwargs = kwargs or {}
        if self.over or _compiling():  # a compiled part of an eager model
            return func(*args, **kwargs)
        recorder = self._recorder()
        if recorder is None or not recorder.on:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in SUMS:
            recorder.guarded(self._before_sum, recorder, name, args, kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor | tuple | list) or name in WRITES:
            watch = recorder.stopwatch
            began = watch.clock()
            try:
                self._after(recorder, name, args, kwargs, out)
            except Exception as error:
                recorder.failed(error)
            watch.own_time += watch.clock() - began
        return out

    def enter(self) -> None:
        """Become active in this thread."""
        push_mode(self)

    def leave(self) -> None:
        """Stop being active, wherever on the stack of modes this one has come to lie."""
        self.paused_by = ""
        remove_mode(self)

    def pause(self, name: str) -> None:
        """Step aside while the module ``name`` runs.

        PyTorch does not fuse what is watched; and the inside of its own simple layers is no news.
        """
        if not self.paused_by:
            remove_mode(self)
            self.paused_by = name

    def resume(self, name: str) -> None:
        """Be active again if it was for the module ``name`` that `pause` was called."""
        if self.paused_by == name:
            self.paused_by = ""
            push_mode(self)

    def bridge(self, args: object, output: object, weighs: bool) -> None:
        """Connect a module's output with its input where functions did not show enough.

        Args:
            args: what the module was called with.
            output: what it returned.
            weighs: whether the module has weights, which make the distance longer.
        """
        given, made = _flat(args), _flat(output)
        if made:
            self.dataflow.bridge(given, made, weighs)

    def _before_sum(
        self, recorder: Recorder, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        summands = SUMS[name](args, kwargs, self._stacks)
        if summands is None:
            return
        module, frame = self._innermost_frame()
        if module is None or transforming() is not None:
            return
        found = summands.residual(self.dataflow, frame)
        if found is not None and self._goes_on():
            skip, branch = summands.taken(found.swapped)
            module.addition(recorder, skip, branch, found)

    def _goes_on(self) -> bool:
        """Return whether the forward pass goes on; a KeyboardInterrupt ends it without any hook."""
        if calling(self._modules):
            return True
        self.over = True  # it cannot be taken off the stack while it is at work
        return False

    def _innermost_frame(self) -> tuple[ModuleFrame | None, int]:
        """Return the innermost module with a frame; none inside those that record themselves."""
        stack = self._now.stack
        if stack and stack[-1][0].records_own_output:
            return None, -1
        for module, frame in reversed(stack):
            if frame >= 0:
                return module, frame
        return None, -1

    def _after(
        self,
        recorder: Recorder,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        out: object,
    ) -> None:
        into = args[0] if name in WRITES and args else out
        if isinstance(out, Tensor):
            if not (out.is_floating_point() or out.is_complex()):
                return  # integers carry no signal
            if name in STACKS:
                self._stacks.note(args, kwargs, out)
        if name not in UNRELATED:
            self.dataflow.pass_on(args, kwargs, into, COSTS.get(name, 0), name in PRODUCTS)
        if not isinstance(out, Tensor):
            return
        if name in _MAKES_LAST and out.ndim > 1:
            self._now.maker = -1, out.shape[-1]
        elif name in _MAKES_FIRST and out.ndim > 1:
            self._now.maker = 1, out.shape[1]
        elif name in RECTIFIERS and _rectifies(name, args, kwargs):
            self._made(recorder, RECTIFIERS[name], out)
        elif name == "scaled_dot_product_attention":
            self._made(recorder, "sdpa", out)

    def _made(self, recorder: Recorder, kind: str, out: Tensor) -> None:
        """Hand over what a function made in the innermost module, if it is recorded there."""
        stack = self._now.stack
        if not stack or stack[-1][0].records_own_output or transforming() is not None:
            return
        module = stack[-1][0]
        inside = module.target is not None
        scope = self._scope
        wanted = scope.attention if kind == "sdpa" else scope.rectifiers or inside
        if wanted and self._goes_on():
            module.function(recorder, kind, out)


def _flat(value: object) -> list[Tensor]:
    """Return the tensors in a module's arguments or output."""
    if type(value) is Tensor:
        return [value]
    if isinstance(value, tuple) and len(value) == 1 and type(value[0]) is Tensor:
        return [value[0]]
    return [x for _, x in tensors(value)]


def _rectifies(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if name in _ALWAYS_RECTIFY:
        return True
    if name == "_threshold":
        return _given(args, kwargs, 1, "threshold") == 0 and _given(args, kwargs, 2, "value") == 0
    low = _given(args, kwargs, 1, "min")
    return isinstance(low, int | float) and low == 0


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], index: int, name: str) -> Any:
    return args[index] if len(args) > index else kwargs.get(name)
