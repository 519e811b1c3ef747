"""Hooks on the gradients of the tensors that were seen on their way forward."""

from __future__ import annotations

import weakref
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sigprop.capture.recording.accumulator import Accumulator
from sigprop.capture.recording.forward_state import key_of
from sigprop.capture.recording.own_metrics import OwnMetrics
from sigprop.capture.recording.reader import TensorReader
from sigprop.capture.recording.recomputation import Position, Recomputation
from sigprop.capture.recording.stopwatch import Stopwatch
from sigprop.capture.recording.tap import Tap
from sigprop.capture.torch_internals import transforming, version_of


class Recorder(Protocol):
    """What a gradient hook asks of the recorder; see `sigprop.capture.recording.recorder`."""

    on: bool
    step: int
    accumulator: Accumulator
    metrics: OwnMetrics | None
    stopwatch: Stopwatch

    def failed(self, error: Exception) -> None:
        """Switch off after an error of our own."""


class GradientHook:
    """Hook on one tensor's gradient; holds taps, never the tensor or the recorder.

    Args:
        recorder: reads the gradient; it is held weakly.
        channel_dim: the axis of the gradient's channels.
        home: unused hooks, to which this one returns.

    Attributes:
        taps: what the gradient is of; more may join until it arrives.
        handle: takes the hook off the tensor.
    """

    __slots__ = ("__weakref__", "_reader", "_recorder", "handle", "home", "step", "taps")

    def __init__(self, recorder: Recorder, channel_dim: int, home: list[GradientHook]) -> None:
        self._recorder = weakref.ref(recorder)
        self._reader = TensorReader(recorder.accumulator, channel_dim)
        self.home, self.step = home, -1
        self.taps: list[Tap] = []
        self.handle: RemovableHandle | None = None

    def __call__(self, grad: Tensor | None) -> None:
        """Read the gradient, if there is one and its step is still the current one."""
        recorder = self._recorder()
        if grad is None:  # of a torch.autograd.Function that returns none
            return
        if recorder is None or not recorder.on or recorder.step != self.step:
            return
        if transforming() is not None:
            return
        watch = recorder.stopwatch
        began = watch.clock()
        try:
            statistics = self._reader.read(grad)
            if statistics is not None:
                statistics.taps += self.taps
                if recorder.metrics is not None:
                    recorder.accumulator.add_own(recorder.metrics.of(grad, statistics.taps))
        except Exception as error:
            recorder.failed(error)
        watch.own_time += watch.clock() - began


class Gradients:
    """The gradient hooks of one recorder.

    Args:
        recorder: reads the gradients; it is held weakly.

    Attributes:
        recomputation: the tensors that have no gradient until a checkpoint makes them again.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = weakref.ref(recorder)
        self._hooks: list[GradientHook] = []
        self._recomputed: dict[int, tuple[weakref.ref[Tensor], int, GradientHook]] = {}
        self.recomputation = Recomputation()

    def watch(self, x: Tensor, channel_dim: int, unused: list[GradientHook]) -> GradientHook:
        """Put a hook on a tensor's gradient.

        Args:
            x: a tensor that requires a gradient.
            channel_dim: the axis of its channels.
            unused: hooks from earlier steps, one of which is taken; this one returns there.

        Returns:
            The hook.
        """
        recorder = self._recorder()
        assert recorder is not None
        try:
            hook = unused.pop()
        except IndexError:
            hook = GradientHook(recorder, channel_dim, unused)
        hook.step = recorder.step
        hook.handle = x.register_hook(hook)
        self._hooks.append(hook)
        return hook

    def recomputed(self, x: Tensor, position: Position) -> None:
        """Watch the gradient of a tensor that reentrant checkpointing makes a second time.

        Its first time was without gradients.

        Args:
            x: the tensor.
            position: where it was met.
        """
        gradient = x.requires_grad and torch.is_grad_enabled()
        tap = self.recomputation.tap(position, gradient)
        if tap is None or not gradient:
            return
        key, version = key_of(x, tap.channel_dim), version_of(x)
        known = self._recomputed.get(key)
        if known is None or known[0]() is not x or known[1] != version:
            known = weakref.ref(x), version, self.watch(x, tap.channel_dim, [])
            self._recomputed[key] = known
        known[2].taps.append(tap._replace(direction="backward"))

    def end_step(self) -> None:
        """Take every hook off, also from tensors that outlive the step."""
        hooks, self._hooks = self._hooks, []
        for hook in reversed(hooks):
            if hook.handle is not None:
                hook.handle.remove()
                hook.handle = None
            hook.taps.clear()
            hook.home.append(hook)
        self._recomputed.clear()
        self.recomputation.clear()
