"""The hooks on modules: they hand tensors to ports, return None, and can all be removed.

What a hook does depends on the moment: in an ordinary forward pass it takes tensors (here); while a
compiler makes a graph, `sigprop.capture.hooks.compiled` has its work traced; when activation
checkpointing runs a forward again, gradients are watched that had none before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.capture.hooks.additions import Additions
from sigprop.capture.hooks.compiled import HOOK_CODES, GraphHook
from sigprop.capture.hooks.dataflow import Operands
from sigprop.capture.hooks.port import Port
from sigprop.capture.model.channels import Maker, made_by
from sigprop.capture.model.module_info import ModuleInfo
from sigprop.capture.model.nested import first_readable, tensors
from sigprop.capture.recording.forward_state import ForwardState, Mode
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.torch_internals import (
    RECOMPUTED,
    OwnArithmetic,
    graph_being_made,
    interruption,
    recomputing,
)

_compiling = torch.compiler.is_dynamo_compiling


class Hook:
    """A hook that holds weakly what it works for; a copy of the model has an inert one instead.

    So a model that was saved with a probe on it is loaded where there is no sigprop.
    """

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        return nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        # A function of Python's own that takes anything, does nothing and returns None.
        return getattr, (nullcontext(), "__exit__")


class ForwardPreHook(Hook):
    """Takes the inputs of a block or of an addition, and puts the module on the stack.

    Args:
        recorder: where statistics go.
        info: the module.
        graph: does the same in compiled code.
    """

    def __init__(self, recorder: Recorder, info: ModuleInfo, graph: GraphHook) -> None:
        self._recorder = weakref.ref(recorder)
        self.info, self._graph = info, graph
        self.name, self.target = info.name, info.target
        self.records_own_output = info.records_own_output
        self._input = Port(info, info.source, "in", gradient=True) if info.is_target else None
        self._additions = Additions(info)
        self._adds_inputs = bool(info.ports and info.target)
        self._only_pauses = only_pauses(info)
        self._functions: dict[str, Port] = {}

    def __call__(
        self,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Do the work of this hook, as the moment asks for."""
        # First, so that a compiler traces nothing else: where it has no way to trace them, hooks
        # vanish from compiled code.
        if _compiling():
            if graph_being_made():
                self._graph.before(module, args, kwargs)
            return
        recorder = self._recorder()
        if recorder is None or not recorder.on:
            return
        now = recorder.now
        if self._only_pauses and now.mode is not None:
            if not now.mode.paused_by:
                now.mode.pause(self.name)
            return
        reason = interruption()
        watch = recorder.stopwatch
        began = watch.clock()
        try:
            with OwnArithmetic():  # it is no function of the model
                if reason is None:
                    self._enter(recorder, now, module, args, kwargs)
                elif reason is RECOMPUTED:
                    self._enter_again(recorder, now, module, args, kwargs)
                else:
                    recorder.log.passed_by.add(f"{self.name}: {reason}")
        except Exception as error:
            recorder.failed(error)
        watch.own_time += watch.clock() - began

    def _enter(
        self,
        recorder: Recorder,
        now: ForwardState,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None,
    ) -> None:
        if now.mode is None:  # not inside a call of the whole model
            recorder.part_called(module, self)
            if not recorder.on:
                return
        info, sources = self.info, None
        if self._input is not None or info.frames:
            given = first_readable(args, kwargs)
            if self._input is not None:
                port, call = self._input, now.calls[self.name]
                if type(given) is Tensor and not given.is_nested:
                    port.take_tensor(recorder, now, given, call)
                else:
                    port.take(recorder, now, given, call)
            if info.frames:
                sources = _sources(given, args, kwargs)
        if self._adds_inputs:
            self._additions.take(recorder, now, args)
        self._open(now, module, sources)

    def _enter_again(
        self,
        recorder: Recorder,
        now: ForwardState,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None,
    ) -> None:
        """Do the same where activation checkpointing runs a forward again."""
        if not recorder.gradients.recomputation.awaited:
            return
        if now.mode is None:
            recorder.part_called(module, self)
        given = first_readable(args, kwargs)
        if self._input is not None:
            self._input.take_again(recorder, given)
        if self._adds_inputs:
            self._additions.take_again(recorder, args)
        self._open(now, module, _sources(given, args, kwargs) if self.info.frames else None)

    def _open(
        self, now: ForwardState, module: nn.Module, sources: list[list[Tensor]] | None
    ) -> None:
        """Put the module on the stack, and look away from what is not to be seen in it."""
        info = self.info
        if sources is not None:
            now.enter(self, sources)
        elif not self._only_pauses:
            now.stack.append((self, -1))
        if now.mode is not None and (info.cost is not None or (info.fused and _may_fuse(module))):
            now.mode.pause(self.name)

    def addition(self, recorder: Recorder, skip: Tensor, branch: Tensor, found: Operands) -> None:
        """Take the operands of an addition in the module's own code."""
        if not recomputing():
            self._additions.found(recorder, recorder.now, skip, branch, found)
        elif self._additions.residual(found):
            self._additions.take_again(recorder, (skip, branch))

    def ends(self, now: ForwardState, frame: int, output: object) -> None:
        """Note how the module's output follows from its inputs, at its first call."""
        if not self._additions.settled and now.mode is not None:
            made = [x for _, x in tensors(output)]
            self._additions.settle(now, now.mode.dataflow.reach(made, frame))

    def function(self, recorder: Recorder, kind: str, output: Tensor) -> None:
        """Take what a functional rectifier or attention inside this module made.

        Args:
            recorder: where statistics go.
            kind: ``"rectifier"`` or ``"attention"``.
            output: what the function returned.
        """
        port = self._functions.get(kind)
        source = self.info.function_source(kind)
        if port is None:
            # Inside a block the block has the gradients; elsewhere a function is a leaf of its own.
            gradient, rectifier = self.info.target is None, source.kind == "rectifier"
            port = self._functions[kind] = Port(self.info, source, "out", gradient, rectifier)
        if recomputing():
            port.take_again(recorder, output)
            return
        now, log = recorder.now, recorder.log
        call = now.calls[source.name]
        now.calls[source.name] = call + 1
        log.total_calls[source.name] += 1
        log.functions[source.name] = self.name
        port.take(recorder, now, output, call)


class ForwardHook(Hook):
    """Counts calls, keeps track of the channel axis, takes outputs, and leaves the stack.

    Args:
        recorder: where statistics go.
        info: the module.
        graph: does the same in compiled code.
        entered: whether the module has a `ForwardPreHook`, which puts it on the stack.
    """

    def __init__(
        self, recorder: Recorder, info: ModuleInfo, graph: GraphHook, entered: bool
    ) -> None:
        self._recorder = weakref.ref(recorder)
        self._info, self._graph, self._name = info, graph, info.name
        self._entered = entered and not only_pauses(info)
        self._output: Port | None = None
        if info.is_target or info.inner_rectifier:
            # A rectifier inside a block is there for its dead units; the block has the gradients.
            self._output = Port(info, info.source, "out", info.is_target, info.rectifier)
        self._idle = self._output is None and not self._entered and info.transparent
        self._maker: Maker | None = None
        self._maker_known = False

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        """Do the work of this hook, as the moment asks for."""
        if _compiling():  # first, as in `ForwardPreHook`
            if graph_being_made():
                self._graph.after(module, args, output)
            return
        recorder = self._recorder()
        if recorder is None or not recorder.on:
            return
        reason = interruption()
        if reason is not None:
            self._interrupted(recorder, reason, args, output)
            return
        now, name = recorder.now, self._name
        call = now.calls[name]
        now.calls[name] = call + 1
        recorder.log.total_calls[name] += 1
        if not self._maker_known:  # at the first call, when a lazy module knows its channels
            self._maker, self._maker_known = made_by(module), True
        if self._maker is not None:
            now.maker = self._maker
        mode = now.mode
        paused = mode is not None and mode.paused_by == name
        if self._idle and not paused:
            return
        watch = recorder.stopwatch
        began = watch.clock()
        try:
            with OwnArithmetic():
                if self._output is not None:
                    take = self._output
                    if type(output) is Tensor and not output.is_nested:
                        take.take_tensor(recorder, now, output, call)
                    else:
                        take.take(recorder, now, output, call)
                self._close(now, args, output, paused)
        except Exception as error:
            recorder.failed(error)
        watch.own_time += watch.clock() - began

    def _close(self, now: ForwardState, args: object, output: object, paused: bool) -> None:
        """Take the module off the stack, and connect its output with its input."""
        name, mode = self._name, now.mode
        if mode is not None and (paused or not self._info.transparent):
            self._connect(mode, args, output, paused)
        if self._entered:
            stack = now.stack
            if stack and stack[-1][0].name == name and stack[-1][1] < 0:
                stack.pop()
            else:
                now.leave(name, output)

    def _connect(self, mode: Mode, args: object, output: object, paused: bool) -> None:
        """Have the mode see functions again, and connect what it did not see."""
        info = self._info
        if paused:
            mode.resume(self._name)
        if paused and info.cost is not None:
            if isinstance(args, tuple):
                mode.dataflow.pass_on(args, {}, output, info.cost)
        elif not info.transparent:
            mode.bridge(args, output, info.weighs)

    def _interrupted(self, recorder: Recorder, reason: str, args: object, output: object) -> None:
        """Do what remains to be done in a forward pass that is no ordinary one."""
        now = recorder.now
        if reason is RECOMPUTED:
            recorder.guarded(self._leave_again, recorder, now, args, output)
            return
        if now.mode is not None:
            now.mode.resume(self._name)
        recorder.log.passed_by.add(f"{self._name}: {reason}")

    def _leave_again(
        self, recorder: Recorder, now: ForwardState, args: object, output: object
    ) -> None:
        """Watch the gradients of outputs that activation checkpointing makes again."""
        with OwnArithmetic():
            if self._output is not None:
                self._output.take_again(recorder, output)
            paused = now.mode is not None and now.mode.paused_by == self._name
            self._close(now, args, output, paused)


def only_pauses(info: ModuleInfo) -> bool:
    """Return whether all there is to do before a module is to look away from its inside.

    That is so for a simple layer of PyTorch's own, and several of them.
    """
    return info.cost is not None and not (info.is_target or (info.ports and info.target))


def _sources(
    given: object, args: tuple[object, ...], kwargs: Mapping[str, object] | None
) -> list[list[Tensor]]:
    """Return the tensors of each input of a module; the one that is its ``in`` port comes first."""
    sources = [[given] if type(given) is Tensor else [x for _, x in tensors(given)]]
    if len(args) > 1 or kwargs:
        sources += [
            [value]
            for value in (*args, *(kwargs or {}).values())
            if isinstance(value, Tensor) and value is not given and value.is_floating_point()
        ]
    return sources


def _may_fuse(module: nn.Module) -> bool:
    if module.training:
        return False
    return not (torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()))


HOOK_CODES.update((ForwardPreHook.__call__.__code__, ForwardHook.__call__.__code__))
