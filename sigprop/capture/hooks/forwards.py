"""Begins and ends the forward passes of a model: where each starts, and what is active in it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sigprop.capture.hooks.functional import FunctionalMode
from sigprop.capture.hooks.global_hooks import GlobalHooks
from sigprop.capture.hooks.module_hooks import ForwardPreHook, Hook
from sigprop.capture.hooks.scope import Scope
from sigprop.capture.model.nested import tensors
from sigprop.capture.recording.forward_state import ForwardState
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.torch_internals import (
    at_trace_time,
    calling,
    checkpointing,
    graph_being_made,
    interruption,
    is_replica,
    recomputing,
)


class ForwardContext:
    """What is active during one call of the model, or of a module inside it, and only then.

    Args:
        recorder: takes what is seen.
        scope: what is recorded beyond the blocks.
        modules: the ids of the model's modules.
        global_hooks: hooks for the modules that carry none.
    """

    def __init__(
        self, recorder: Recorder, scope: Scope, modules: frozenset[int], global_hooks: GlobalHooks
    ) -> None:
        self._recorder = weakref.ref(recorder)
        self._scope, self._modules, self._global_hooks = scope, modules, global_hooks

    def start(self) -> None:
        """Begin."""
        self.stop()
        recorder = self._recorder()
        if recorder is None:
            return
        self._global_hooks.attach()
        mode = FunctionalMode(recorder, self._scope, self._modules)
        recorder.now.mode = mode
        mode.enter()

    def stop(self) -> None:
        """End, however the call ended."""
        recorder = self._recorder()
        self._global_hooks.remove()
        if recorder is not None and recorder.now.mode is not None:
            recorder.now.mode.leave()
            recorder.now.mode = None


class _Call(threading.local):
    """The call that began the forward pass of this thread; replicas of a model have their own."""

    module: weakref.ref[nn.Module] | None = None


class Forwards:
    """The forward passes of one model.

    A forward pass begins where the model is called. Where it never is, because a method such as
    ``training_step`` or ``loss`` calls modules inside it, one begins at the outermost module that
    is called, and goes on through others until a backward pass has come back, the mode changes, or
    the module that it began with is called again with nothing to send a gradient to.

    Args:
        model: the model, without wrappers; it is held weakly.
        recorder: takes what is seen; it is held weakly.
        announce: a bound method, called with whether it is one of training when a forward pass
            begins, recorded or not; it is held weakly.
        context: what is active during a call.
    """

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        announce: Callable[[bool], None],
        context: ForwardContext,
    ) -> None:
        self._model, self._recorder = weakref.ref(model), weakref.ref(recorder)
        self._announce, self._context = weakref.WeakMethod(announce), context
        self._call = _Call()
        self._first: weakref.ref[nn.Module] | None = None
        self._step, self._training = -1, False
        self._gradient_awaited = self._gradient_passed = False
        self._entries: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._handles: list[RemovableHandle] = []
        self._end: RemovableHandle | None = None
        self._output: RemovableHandle | None = None

    @property
    def recording(self) -> bool:
        """Whether this step is recorded."""
        recorder = self._recorder()
        return recorder is not None and recorder.on

    def graph_made(self) -> None:
        """Note that a graph of the whole model is being made: its forwards run no hook."""
        recorder = self._recorder()
        if recorder is not None:
            recorder.graph.whole = True

    def remove(self) -> None:
        """End what is active, and remove every hook that was attached here."""
        self.call_ended()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget_output()

    # --- the whole model ------------------------------------------------------------------

    def model_called(self, module: nn.Module) -> None:
        """Begin a forward pass: the whole model is called, or a replica of it."""
        recorder = self._recorder()
        if recorder is None:
            return
        training = module.training and _gradients_wanted()
        if not is_replica(module):  # else the wrapper of DataParallel was called before
            self.announce(training)
            self._begin(recorder, training, None)
        self._call.module = weakref.ref(module)
        if recorder.on:
            recorder.guarded(self._start, recorder, training, True)

    def announce(self, training: bool) -> None:
        """Say that a forward pass begins; a step may end here, and the recorder go on or off."""
        announce = self._announce()
        if announce is not None:
            announce(training)

    def call_ended(self) -> None:
        """End what was active during a call."""
        self._call.module = None
        if self._end is not None:
            self._end.remove()
            self._end = None
        if self._recorder() is not None:
            self._context.stop()

    def end_interrupted(self) -> None:
        """End what a KeyboardInterrupt has left active."""
        if self._call.module is not None and not self.inside():
            self.call_ended()

    # --- a module inside it, called by itself -----------------------------------------------

    def inside(self) -> bool:
        """Return whether the model, or the module that was called by itself, is still called."""
        module = None if self._call.module is None else self._call.module()
        return module is not None and calling(frozenset([id(module)]))

    def part_called(self, module: nn.Module, hook: ForwardPreHook) -> None:
        """Begin or go on with a forward pass: a module inside the model is called by itself.

        Args:
            module: the module.
            hook: its own pre-hook.
        """
        recorder, model = self._recorder(), self._model()
        if recomputing():
            self._part_recomputed(recorder, module)
            return
        if recorder is None or model is None or recorder.graph.whole:
            return  # what a compiler leaves out of the graph of a whole model is called in it
        self.call_ended()  # one that a KeyboardInterrupt ended has not
        training = model.training and _gradients_wanted()
        again = self._first is not None and self._first() is module
        new = (
            self._step != recorder.step
            or self._gradient_passed
            or (again and not self._gradient_awaited)
        )
        if new:
            self.announce(training)
        if new or training != self._training:
            new = True
            self._begin(recorder, training, module)
            self._watch(module, hook)
        self._call.module = weakref.ref(module)
        self._end = module.register_forward_hook(PartEnd(self), always_call=True)
        if recorder.on:
            recorder.guarded(self._start, recorder, training, new)

    def _part_recomputed(self, recorder: Recorder | None, module: nn.Module) -> None:
        """Have additions seen while activation checkpointing runs a module again."""
        if recorder is not None:
            self._call.module = weakref.ref(module)
            end = RecomputationEnd(self, recorder.now)
            self._end = module.register_forward_hook(end, always_call=True)
            self._context.start()

    def part_ended(self, output: object) -> None:
        """End the call of a module, and notice when a gradient comes back to what it returned."""
        self.call_ended()
        if self._gradient_awaited or not self._training:
            return
        for _, x in tensors(output):
            if x.requires_grad:
                self._gradient_awaited = True
                self._output = x.register_hook(_GradientPassed(self))
                return

    def gradient_passed(self) -> None:
        """Note that the backward pass of the forward in progress has come back."""
        self._gradient_passed = True

    def _watch(self, module: nn.Module, hook: ForwardPreHook) -> None:
        """Notice from now on, on every step, when a module is called: a forward begins with it."""
        if module not in self._entries:
            self._entries.add(module)
            start = PartStart(self, hook)
            self._handles.append(
                module.register_forward_pre_hook(start, prepend=True, with_kwargs=True)
            )

    # --- both -----------------------------------------------------------------------------

    def _begin(self, recorder: Recorder, training: bool, first: nn.Module | None) -> None:
        if self._gradient_awaited:
            self._forget_output()
        self._step, self._training = recorder.step, training
        self._first = None if first is None else weakref.ref(first)

    def _start(self, recorder: Recorder, training: bool, new: bool) -> None:
        if new:
            recorder.begin_forward(training)
        self._context.start()

    def _forget_output(self) -> None:
        self._gradient_awaited = self._gradient_passed = False
        if self._output is not None:
            self._output.remove()
            self._output = None


def _gradients_wanted() -> bool:
    """Return whether gradients may come back; reentrant checkpointing runs without, at first."""
    return torch.is_grad_enabled() or checkpointing()


class ForwardsHook(Hook):
    """A hook that leads to `Forwards`."""

    def __init__(self, forwards: Forwards) -> None:
        self._forwards = weakref.ref(forwards)

    def __call__(self, *arguments: Any) -> None:
        """Do the work of this hook in an ordinary forward pass, recorded or not."""
        if torch.compiler.is_compiling():
            if graph_being_made():
                self.traced()
            return
        forwards = self._forwards()
        if forwards is not None and interruption() is None:
            self.do(forwards, *arguments)

    def do(self, forwards: Forwards, *arguments: Any) -> None:
        """Do the work of this hook.

        Args:
            forwards: the forward passes of the model.
            arguments: what torch calls the hook with: the module, its inputs, its output.
        """

    @at_trace_time
    def traced(self) -> None:
        """Note that a graph is being made."""


class ModelStart(ForwardsHook):
    """Pre-hook of the whole model: a forward pass begins."""

    def do(self, forwards: Forwards, *arguments: Any) -> None:
        """Begin it, also on a step that is not recorded: a step may end here."""
        forwards.model_called(arguments[0])

    @at_trace_time
    def traced(self) -> None:
        """Note that a graph of the whole model is being made."""
        forwards = self._forwards()
        if forwards is not None:
            forwards.graph_made()


class WrapperStart(ForwardsHook):
    """Pre-hook of a DataParallel wrapper, whose replicas are not the model itself."""

    def do(self, forwards: Forwards, *arguments: Any) -> None:
        """Say that a forward pass begins."""
        forwards.announce(arguments[0].training and torch.is_grad_enabled())


class ModelEnd(ForwardsHook):
    """Last hook of the whole model, also when its forward raised."""

    def do(self, forwards: Forwards, *arguments: Any) -> None:
        """Remove what was attached for this forward pass."""
        forwards.call_ended()


class PartStart(ForwardsHook):
    """Pre-hook of a module that was called by itself: a forward pass may begin with it.

    Args:
        forwards: the forward passes of the model.
        hook: the module's own pre-hook; it comes too late where a recorded step begins here.
    """

    def __init__(self, forwards: Forwards, hook: ForwardPreHook) -> None:
        super().__init__(forwards)
        self._hook = hook

    def do(self, forwards: Forwards, *arguments: Any) -> None:
        """Begin or go on with a forward pass, unless something around the module is called."""
        if forwards.inside():
            return
        was_on = forwards.recording
        forwards.part_called(arguments[0], self._hook)
        if forwards.recording and not was_on:
            self._hook(*arguments)


class PartEnd(ForwardsHook):
    """Hook of a module that was called by itself, also when its forward raised."""

    def do(self, forwards: Forwards, *arguments: Any) -> None:
        """Remove what was attached for this call."""
        forwards.part_ended(arguments[-1])


class RecomputationEnd(Hook):
    """Hook of the outermost module that a checkpoint runs again, also when its forward raised.

    Checkpointing that is not reentrant ends each of its recomputations by an exception.

    Args:
        forwards: the forward passes of the model.
        now: the state that the recomputation leaves as it found it.
    """

    def __init__(self, forwards: Forwards, now: ForwardState) -> None:
        self._forwards = weakref.ref(forwards)
        self._now, self._maker = now, now.maker

    def __call__(self, *_: object) -> None:
        """Take off what was put on for this call."""
        forwards = self._forwards()
        if forwards is not None and not torch.compiler.is_compiling():
            forwards.call_ended()
            self._now.stack.clear()
            self._now.maker = self._maker


class _GradientPassed:
    """Hook on a tensor: the backward pass has come back to it."""

    def __init__(self, forwards: Forwards) -> None:
        self._forwards = weakref.ref(forwards)

    def __call__(self, grad: object) -> None:
        forwards = self._forwards()
        if forwards is not None:
            forwards.gradient_passed()
