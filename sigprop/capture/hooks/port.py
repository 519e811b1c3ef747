"""The ports of a module: where its hooks take tensors, forward and, with them, backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from sigprop.capture.model.channels import Maker, channel_axis, is_rectified
from sigprop.capture.model.module_info import ModuleInfo
from sigprop.capture.model.nested import tensors
from sigprop.capture.recording.forward_state import ForwardState
from sigprop.capture.recording.gradients import GradientHook
from sigprop.capture.recording.reader import TensorReader
from sigprop.capture.recording.recomputation import Position
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.recording.tap import Source, Tap
from sigprop.capture.torch_internals import ordinary, version_of
from sigprop.errors import BadInput
from sigprop.signals.channel_statistics import readable


def make_tap(
    recorder: Recorder,
    info: ModuleInfo,
    source: Source,
    port: str,
    call: int,
    path: str,
    axis: int,
    channels: int,
    mode: str,
) -> Tap:
    """Return where a tensor is taken now, on its way forward.

    Args:
        recorder: knows the network's blocks.
        info: the module at which the tensor is read.
        source: whose row it is: the module itself, or a function or an addition inside of it.
        port: ``"in"``, ``"skip"``, ``"branch"`` or ``"out"``.
        call: which call of the module it is, from 0.
        path: where in a nest the tensor lies.
        axis: of its channels.
        channels: how many they are.
        mode: ``"train"`` or ``"eval"``.
    """
    return Tap(
        mode=mode,
        block=recorder.log.block_of(info.target or source.name),
        kind=source.kind,
        module=source.module,
        target=source.name,
        name=source.name + (f"#{call}" if call else "") + path,
        call=call,
        port=port,
        direction="forward",
        channel_dim=axis,
        channels=channels,
    )


#: Makes a row of a tensor that was read, as that of the n-th addition.
Join = Callable[[int], None]


def renumbered(tap: Tap, call: int) -> Tap:
    """Return a tap of a bare tensor as that of another call.

    Args:
        tap: of a tensor that lies in no nest.
        call: which call of its target.
    """
    return tap._replace(call=call, name=tap.target + (f"#{call}" if call else ""))


class _Plan:
    """What was decided for one tap when a tensor of this shape first came by.

    Attributes:
        shape: of the tensor.
        maker: what had made channels last.
        tap: where it is taken.
        backward: the same, for its gradient.
        key: the tap's axis as a part of `sigprop.capture.recording.forward_state.key_of`.
        reader: computes its statistics.
        unused: gradient hooks that may be registered on it.
    """

    __slots__ = ("backward", "key", "maker", "reader", "shape", "tap", "unused")

    def __init__(self, recorder: Recorder, x: Tensor, maker: Maker | None, tap: Tap) -> None:
        self.shape, self.maker, self.tap = x.shape, maker, tap
        self.backward = tap._replace(direction="backward")
        self.key = tap.channel_dim & 63
        self.reader = TensorReader(recorder.accumulator, tap.channel_dim)
        self.unused: list[GradientHook] = []


class Port:
    """One port of a module, of its additions, or of a function in it.

    Args:
        info: the module.
        source: what the tensors belong to.
        port: the port's name.
        gradient: whether their gradients are read too.
        rectifier: whether a rectifier makes them.
    """

    __slots__ = ("_gradient", "_info", "_name", "_out", "_plans", "_rectifier", "_source")

    def __init__(
        self, info: ModuleInfo, source: Source, port: str, gradient: bool, rectifier: bool = False
    ) -> None:
        self._info, self._source, self._name = info, source, port
        self._gradient, self._rectifier, self._out = gradient, rectifier, port == "out"
        self._plans: dict[tuple[str, int, str], _Plan] = {}

    def take(self, recorder: Recorder, now: ForwardState, value: object, call: int) -> Tap | None:
        """Take every tensor in a value.

        Args:
            recorder: where statistics go.
            now: the forward pass in progress.
            value: a tensor, or a nest of them.
            call: which call of the module it is, from 0.

        Returns:
            The first tensor's tap; None where no tensor can be read.
        """
        if type(value) is Tensor and not value.is_nested:
            return self.take_tensor(recorder, now, value, call)
        taps = [self.take_tensor(recorder, now, x, call, path) for path, x in tensors(value)]
        return next((tap for tap in taps if tap is not None), None)

    def take_again(self, recorder: Recorder, value: object) -> None:
        """Watch the gradients of tensors that were read when they were made the first time.

        Args:
            recorder: where statistics go.
            value: what a module returned when it was recomputed.
        """
        recomputation = recorder.gradients.recomputation
        if not (self._gradient and recomputation.awaited):
            return
        target = self._source.name
        call = recomputation.call(target, self._name)
        for path, x in tensors(value):
            if readable(x) and ordinary(x):
                recorder.gradients.recomputed(x, Position(target, self._name, call, path))

    def take_tensor(
        self,
        recorder: Recorder,
        now: ForwardState,
        x: Tensor,
        call: int,
        path: str = "",
        joins: list[Join] | None = None,
    ) -> Tap | None:
        """Read a tensor, or let this tap join those at which the very same tensor was seen.

        Called at every tap: what can be decided once is in its plan.

        Args:
            recorder: where statistics go.
            now: the forward pass in progress.
            x: the tensor; not a nested one.
            call: which call of the module it is.
            path: where in a nest the tensor lies.
            joins: receives what makes its rows, where it is not known yet whether it has any.

        Returns:
            Its tap; None where it cannot be read.
        """
        key = recorder.mode, call, path
        plan = self._plans.get(key)
        if plan is None or plan.maker != now.maker or plan.shape != x.shape:
            if not (readable(x) and ordinary(x)):
                return None
            tap = self._tap(recorder, now, x, call, path)
            plan = self._plans[key] = _Plan(recorder, x, now.maker, tap)
        # Inference tensors do not count their versions: whether one has been written to since
        # cannot be known, so nothing is found again.
        inference, identity = x.is_inference(), id(x)
        version = 0 if inference else version_of(x)
        known = None if inference else now.seen.get(identity << 6 | plan.key)
        if known is None or known.version != version or known.tensor() is not x:  # type: ignore[misc]
            known = plan.reader.read(x)
            if known is None:
                return None
            known.tensor = weakref.ref(x)
            if not inference:
                known.version = version
                now.seen[identity << 6 | plan.key] = known
            if recorder.metrics is not None:
                recorder.accumulator.add_own(recorder.metrics.of(x, known.taps))
        if joins is None:
            known.taps.append(plan.tap)
        else:
            joins.append(lambda call: known.taps.append(renumbered(plan.tap, call)))
        if self._out:
            if self._rectifier:
                now.rectified[identity] = known
                recorder.accumulator.rectified.add(plan.tap)
            elif (now.rectified and now.is_rectified(x)) or is_rectified(x):
                recorder.accumulator.rectified.add(plan.tap)
        if self._gradient:
            if not x.requires_grad:
                if joins is None:
                    self._no_gradient(recorder, plan.tap, path)
                else:
                    joins.append(
                        lambda call: self._no_gradient(recorder, renumbered(plan.tap, call), path)
                    )
            else:
                hook = known.gradient
                if hook is None:
                    watch = recorder.gradients.watch
                    hook = known.gradient = watch(x, plan.tap.channel_dim, plan.unused)
                if joins is None:
                    hook.taps.append(plan.backward)
                else:
                    joins.append(lambda call: hook.taps.append(renumbered(plan.backward, call)))
        return plan.tap

    def _no_gradient(self, recorder: Recorder, tap: Tap, path: str) -> None:
        if torch.is_grad_enabled():
            recorder.log.without_gradient.add(tap.target)
        elif recorder.mode == "train":
            position = Position(tap.target, tap.port, tap.call, path)
            recorder.gradients.recomputation.wait(position, tap)

    def _tap(self, recorder: Recorder, now: ForwardState, x: Tensor, call: int, path: str) -> Tap:
        axis = self._axis(now, x)
        channels = x.shape[axis] if x.ndim else 1
        at = self._name, call, path, axis, channels, recorder.mode
        return make_tap(recorder, self._info, self._source, *at)

    def _axis(self, now: ForwardState, x: Tensor) -> int:
        chosen = self._info.axis
        if chosen is None:
            return channel_axis(x, now.maker)
        if not -x.ndim <= chosen < x.ndim:
            raise BadInput(
                f"channel_dim {chosen} for {self._info.name!r} is outside its shape "
                f"{tuple(x.shape)}"
            )
        return chosen
