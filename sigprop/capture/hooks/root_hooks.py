"""The hooks on the model itself: where a forward pass begins and ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from sigprop.capture.hooks.forward_context import ForwardContext
from sigprop.capture.hooks.module_hooks import Hook
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.torch_internals import (
    at_trace_time,
    graph_being_made,
    interruption,
    is_replica,
    recomputing,
)


class Start(Hook):
    """Pre-hook of the whole model: a forward pass begins.

    Args:
        recorder: whose steps they are.
        begins: a bound method, called with the training flag.
        context: active during the forward pass.
    """

    def __init__(
        self, recorder: Recorder, begins: Callable[[bool], None], context: ForwardContext
    ) -> None:
        super().__init__(recorder)
        self._begins, self._context = weakref.WeakMethod(begins), context

    def __call__(self, *arguments: Any) -> None:
        """Say so to the probe, also on steps that are not recorded: a step may end here."""
        if torch.compiler.is_compiling():
            if graph_being_made():
                self.begin_traced()
            return
        recorder, begins = self._recorder(), self._begins()
        if recorder is None or begins is None or interruption() is not None:
            return
        module = arguments[0]
        if not is_replica(module):  # the hook on DataParallel's wrapper did
            begins(bool(module.training))
        if recorder.on:
            recorder.guarded(self._context.start, bool(module.training))

    @at_trace_time
    def begin_traced(self) -> None:
        """Note that a graph of the whole model is being made."""
        recorder = self._recorder()
        if recorder is not None:
            recorder.graph.whole = True


class Announce(Start):
    """Pre-hook of a DataParallel wrapper, whose replicas are not the model itself."""

    def __call__(self, *arguments: Any) -> None:
        """Say to the probe that a forward pass begins."""
        begins = self._begins()
        if begins is not None:
            begins(bool(arguments[0].training))


class Finish(Hook):
    """Last hook of the whole model, also when its forward raised.

    Args:
        recorder: whose steps they are.
        context: active during the forward pass.
    """

    def __init__(self, recorder: Recorder, context: ForwardContext) -> None:
        super().__init__(recorder)
        self._context = context

    def __call__(self, *arguments: Any) -> None:
        """Take off what was put on for this forward pass."""
        if torch.compiler.is_compiling() or recomputing():
            return
        if self._recorder() is not None:
            self._context.stop()
