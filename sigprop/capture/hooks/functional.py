"""Sees what module hooks cannot: functional rectifiers, residual additions, fused attention.

A `TorchFunctionMode` that is active only while the model's forward runs on a recorded step. It
calls every function with the very arguments it was called with and returns what that returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sigprop.capture.hooks.dataflow import COSTS, UNRELATED, Dataflow, is_skip
from sigprop.capture.model.nested import tensors
from sigprop.capture.recording.forward_state import ForwardState, ModuleFrame
from sigprop.capture.torch_internals import push_mode, remove_mode, transforming

ADDITIONS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
_ALWAYS_RECTIFY = {"relu": "relu", "relu_": "relu", "relu6": "relu6"}
_CLAMPS = {name: name.rstrip("_") for name in ("clamp", "clamp_", "clip", "clip_")}
_CLAMPS_FROM = {"clamp_min": "clamp", "clamp_min_": "clamp"}
RECTIFIERS = {**_ALWAYS_RECTIFY, **_CLAMPS, **_CLAMPS_FROM, "_threshold": "threshold"}
_WRITES = frozenset({"__setitem__", "index_add_", "index_copy_", "scatter_", "copy_"})
_MAKES_LAST = frozenset({"linear", "layer_norm", "embedding", "rms_norm"})
_MAKES_FIRST = frozenset(
    f"{name}{n}d" for name in ("conv", "conv_transpose") for n in (1, 2, 3)
) | {"batch_norm", "group_norm", "instance_norm"}


Listener = Callable[..., None]


class FunctionalMode(TorchFunctionMode):
    """Hands the operands of residual additions and what functions made to two listeners.

    Args:
        passing: the forward pass this mode belongs to.
        guarded: runs our own code so that no error of it reaches the user.
        addition: called with (place, skip, branch) before the addition is done.
        function: called with (place, name, output) after a rectifier or an attention.

    Attributes:
        provenance: how far each tensor lies from the inputs of the modules on the stack.
        over: whether the forward pass has ended, by an exception that no hook was called for.
    """

    def __init__(
        self, passing: ForwardState, guarded: Listener, addition: Listener, function: Listener
    ) -> None:
        super().__init__()
        self.provenance = Dataflow()
        self.over = False
        self._paused_by = ""
        self._passing, self._guarded = passing, guarded
        self._addition, self._function = addition, function

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function; look at its operands before, since it may write into them."""
        if self.over or torch.compiler.is_compiling():  # a compiled part of an eager model
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ADDITIONS:
            self._guarded(self._before_addition, args, kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor | tuple | list) or name in _WRITES:
            self._guarded(self._after, name, args, kwargs, out)
        return out

    def enter(self) -> None:
        """Become active in this thread."""
        push_mode(self)

    def leave(self) -> None:
        """Stop being active, wherever on the stack of modes this one has come to lie."""
        self._paused_by = ""
        remove_mode(self)

    def pause(self, name: str) -> None:
        """Step aside while the module ``name`` runs: PyTorch does not fuse what is watched."""
        if not self._paused_by:
            self.leave()
            self._paused_by = name

    def resume(self, name: str) -> None:
        """Be active again if it was for the module ``name`` that `pause` was called."""
        if self._paused_by == name:
            self._paused_by = ""
            self.enter()

    def bridge(self, args: object, output: object, weighs: bool) -> None:
        """Connect a module's output with its input where functions did not tell enough."""
        given, made = ([x for _, x in tensors(value)] for value in (args, output))
        if made:
            self.provenance.bridge(given, made, weighs)

    def _before_addition(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        a, b = args[0], args[1] if len(args) > 1 else kwargs.get("other")
        if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape):
            return
        if transforming() is not None:
            return
        place, frame = self._innermost_frame()
        if place is None:
            return
        near, far = self.provenance.distance(a, frame), self.provenance.distance(b, frame)
        if near is None or far is None:
            return
        if (scale := kwargs.get("alpha", 1)) != 1:
            b = b.detach() * scale  # what is added; no tensor of the model has its gradient
        if is_skip(near, far):
            self._addition(place, a, b)
        elif is_skip(far, near):
            self._addition(place, b, a)

    def _innermost_frame(self) -> tuple[ModuleFrame | None, int]:
        """Return the innermost module with a frame; none inside modules that speak themselves."""
        places = self._passing.places
        if places and places[-1][0].records_own_output:
            return None, -1
        for place, frame in reversed(places):
            if frame >= 0:
                return place, frame
        return None, -1

    def _after(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: object
    ) -> None:
        into = args[0] if name in _WRITES and args else out
        if name not in UNRELATED:
            self.provenance.pass_on(args, kwargs, into, COSTS.get(name, 0))
        if not isinstance(out, Tensor):
            return
        if name in _MAKES_LAST and out.ndim > 1:
            self._passing.maker = -1, out.shape[-1]
        elif name in _MAKES_FIRST and out.ndim > 1:
            self._passing.maker = 1, out.shape[1]
        elif name in RECTIFIERS and _rectifies(name, args, kwargs):
            self._tell(RECTIFIERS[name], out)
        elif name == "scaled_dot_product_attention":
            self._tell("sdpa", out)

    def _tell(self, kind: str, out: Tensor) -> None:
        places = self._passing.places
        if places and not places[-1][0].records_own_output and transforming() is None:
            self._function(places[-1][0], kind, out)


def _rectifies(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if name in _ALWAYS_RECTIFY:
        return True
    if name == "_threshold":
        return _given(args, kwargs, 1, "threshold") == 0 and _given(args, kwargs, 2, "value") == 0
    low = _given(args, kwargs, 1, "min")
    return isinstance(low, int | float) and low == 0


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], index: int, name: str) -> Any:
    return args[index] if len(args) > index else kwargs.get(name)
