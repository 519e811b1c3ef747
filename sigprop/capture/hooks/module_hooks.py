"""The hooks on modules: they hand tensors to the recorder, return None, and can all be removed."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.capture.model.blocks import CONTAINERS, RECTIFIERS
from sigprop.capture.model.channels import ChannelDim, Maker, channel_axis, is_rectified, made_by
from sigprop.capture.model.nested import tensors
from sigprop.capture.recording.recorder import Recorder, nobody
from sigprop.capture.recording.tap import Kind, Source, Tap
from sigprop.capture.torch_internals import (
    OwnArithmetic,
    graph_being_made,
    ordinary,
    recomputing,
    transforming,
)
from sigprop.errors import BadInput
from sigprop.signals.channel_statistics import readable

#: Modules that PyTorch may run as one fused function when nothing watches their inside.
FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


#: Tells hooks apart where they run the same code.
_KEYS = itertools.count()


class Hook:
    """A hook that holds the recorder weakly; a copy of the model has an inert one in its place.

    So a model that was saved with a probe on it is loaded where there is no sigprop.
    """

    name = ""

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = weakref.ref(recorder) if recorder is not None else nobody

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        return nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        # A function of Python's own that takes anything, does nothing and returns None.
        return getattr, (nullcontext(), "__exit__")

    def __call__(self, *arguments: object) -> None:
        """Do the work of this hook, unless it is not the time or the place."""
        # First, so that a compiler traces nothing else: where it has no way to trace them, hooks
        # vanish from compiled code.
        if torch.compiler.is_compiling():
            if graph_being_made():
                self.trace(*arguments)
            return
        recorder = self._recorder()
        if recorder is None or not recorder.on:
            return
        if (reason := transforming()) is not None:
            recorder.passed_by.add(f"{self.name}: {reason}")
            return
        act = self.on_recompute if recomputing() else self.act
        with OwnArithmetic():  # our own arithmetic is nobody else's business
            recorder.guarded(act, recorder, *arguments)

    def act(self, recorder: Recorder, *arguments: Any) -> None:
        """Do the hook's work on a recorded step."""

    def trace(self, *arguments: Any) -> None:
        """Do the hook's work inside a graph that is being made."""

    def on_recompute(self, recorder: Recorder, *arguments: Any) -> None:
        """Do what remains to be done when activation checkpointing runs a forward again."""


class ModuleHook(Hook):
    """What is known of one module: its name, whether it is recorded, and as what.

    Attributes:
        name: the module's name.
        target: the innermost chosen block that holds it, or None.
        chosen_kind: the kind of what was chosen: ``"block"`` or ``"leaf"``.
        source: what the module's own inputs and outputs belong to.
        records_own_output: its own hooks see all there is, so functions inside it are no news.
    """

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        module: nn.Module,
        target: str | None,
        axis: ChannelDim,
        chosen_kind: Kind,
    ) -> None:
        super().__init__(recorder)
        self.name, self.target, self.axis = name, target, axis
        self._module = weakref.ref(module)
        self.key = str(next(_KEYS))  # a number would be a variable of graphs
        self.is_target = target == name
        self.chosen_kind = chosen_kind
        # Of what was not chosen only rectifiers hand over what they return.
        self.source = Source(chosen_kind if self.is_target else "rectifier", name, name)
        self.rectifier = isinstance(module, RECTIFIERS)
        self.ports: tuple[str, ...] = tuple(getattr(module, "ports", ()))
        self.records_own_output = self.rectifier or bool(self.ports)

    def take(
        self,
        recorder: Recorder,
        value: object,
        port: str,
        call: int,
        source: Source,
        gradient: bool = True,
        rectifier: bool = False,
    ) -> Tap | None:
        """Hand every tensor in ``value`` over; return the first tap."""
        first = None
        for x, tap in self._taps(recorder, value, port, call, source):
            rectified = port == "out" and (
                rectifier or recorder.rectified.get(x, 0) is not None or is_rectified(x)
            )
            recorder.observe(x, tap, rectified, gradient)
            first = first or tap
        return first

    def take_again(self, recorder: Recorder, value: object, port: str) -> None:
        """Watch the gradients of tensors that were read when they were made the first time."""
        for x, tap in self._taps(recorder, value, port, 0, self.source):
            recorder.recompute(x, tap)

    def _taps(
        self, recorder: Recorder, value: object, port: str, call: int, source: Source
    ) -> Iterator[tuple[Tensor, Tap]]:
        for path, x in tensors(value):
            if not (readable(x) and ordinary(x)):
                continue
            axis = self._axis(recorder, x)
            channels = x.shape[axis] if x.ndim else 1
            yield x, self.tap(recorder, recorder.mode, port, call, source, path, axis, channels)

    def tap(
        self,
        recorder: Recorder,
        mode: str,
        port: str,
        call: int,
        source: Source,
        path: str,
        axis: int,
        channels: int,
    ) -> Tap:
        """Return where a tensor is read now."""
        return Tap(
            mode=mode,
            block=recorder.block_of(self.target or source.name),
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

    def addition_source(self) -> Source:
        """Return what the operands of an addition in this module belong to."""
        block = self.target or self.name
        return Source(self.chosen_kind if self.target else "addition", block, block)

    def chosen_axis(self) -> int | None:
        """Return the channel axis that the user named for this module, if one was."""
        return self.axis.get(self.name) if isinstance(self.axis, Mapping) else self.axis

    def _axis(self, recorder: Recorder, x: Tensor) -> int:
        chosen = self.chosen_axis()
        if chosen is None:
            return channel_axis(x, recorder.now.maker)
        if not -x.ndim <= chosen < x.ndim:
            raise BadInput(
                f"channel_dim {chosen} for {self.name!r} is outside its shape {tuple(x.shape)}"
            )
        return chosen


class ForwardPreHook(ModuleHook):
    """Pre-hook: the inputs of a block or of an addition, and the module's place on the stack.

    Args:
        recorder: where readings go.
        name: the module's name.
        module: the module.
        target: the innermost chosen block that holds it.
        axis: the channel axis, where the user said it.
        chosen_kind: the kind of what was chosen.
        outside: whether additions are recorded outside of every block too.
    """

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        module: nn.Module,
        target: str | None,
        axis: ChannelDim,
        chosen_kind: Kind,
        outside: bool,
    ) -> None:
        super().__init__(recorder, name, module, target, axis, chosen_kind)
        outside_blocks = outside and target is None and not isinstance(module, CONTAINERS)
        self.frames = (self.is_target or outside_blocks) and not self.records_own_output
        self.fused = isinstance(module, FUSED)

    def act(
        self,
        recorder: Recorder,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Take the inputs, and put the module on the stack."""
        if recorder.now.mode is None:  # not inside a call of the whole model
            recorder.part_called(module, self)
            if not recorder.on:
                return
        now, given = recorder.now, first_readable((*args, *(kwargs or {}).values()))
        if self.is_target:
            self.take(recorder, given, "in", now.calls[self.name], self.source)
        if self.ports and self.target:
            operands = dict(zip(self.ports, args, strict=False))
            self.operands(recorder, operands)
        now.enter(self, [x for _, x in tensors(given)] if self.frames else None)
        if self.fused and now.mode is not None and _may_fuse(module):
            now.mode.pause(self.name)

    def on_recompute(
        self,
        recorder: Recorder,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Watch the gradients of inputs that checkpointing makes again."""
        if self.is_target:
            self.take_again(recorder, first_readable((*args, *(kwargs or {}).values())), "in")

    def function(self, recorder: Recorder, kind: str, output: Tensor) -> None:
        """Take what a functional rectifier or attention inside this module made."""
        name = f"{self.name}:{kind}"
        call = recorder.now.calls[name]
        recorder.now.calls[name] += 1
        recorder.total_calls[name] += 1
        recorder.functions[name] = self.name
        rectifier = kind != "sdpa"
        if rectifier:
            recorder.rectified.put(output, 0, True)
        # Inside a block the block has the gradients; elsewhere a function is a leaf of its own.
        source = Source("rectifier" if rectifier else "attention", self.name, name)
        self.take(recorder, output, "out", call, source, self.target is None, rectifier)

    def operands(self, recorder: Recorder, named: Mapping[str, object]) -> None:
        """Take the operands of an addition; a block may add more than once: each is a call."""
        source = self.addition_source()
        addition = f"{source.name} +"
        call = recorder.now.calls[addition]
        recorder.now.calls[addition] += 1
        taps = {
            port: self.take(recorder, operand, port, call, source)
            for port, operand in named.items()
        }
        skip, branch, at = named.get("skip"), named.get("branch"), taps.get("branch")
        if at is not None and isinstance(skip, Tensor) and isinstance(branch, Tensor):
            recorder.observe_pair(skip, branch, at)


class ForwardHook(ModuleHook):
    """Hook of every module: counts calls, keeps track of the channel axis, takes outputs."""

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        module: nn.Module,
        target: str | None,
        axis: ChannelDim,
        chosen_kind: Kind,
    ) -> None:
        super().__init__(recorder, name, module, target, axis, chosen_kind)
        self.inner_rectifier = self.rectifier and not self.is_target and target is not None
        self._weighs = next(module.parameters(), None) is not None
        self._transparent = _transparent(module)
        self._maker: Maker | None = None
        self._maker_known = False

    def act(self, recorder: Recorder, module: nn.Module, args: object, output: object) -> None:
        """Count the call, take the output, and take the module off the stack."""
        now = recorder.now
        call = now.calls[self.name]
        now.calls[self.name] += 1
        recorder.total_calls[self.name] += 1
        if not self._maker_known:  # at the first call, when a lazy module knows its channels
            self._maker, self._maker_known = made_by(module), True
        now.maker = self._maker or now.maker
        if self.rectifier and isinstance(output, Tensor):
            recorder.rectified.put(output, 0, True)
        if self.is_target or self.inner_rectifier:
            # A rectifier inside a block is there for its dead units; the block has the gradients.
            self.take(
                recorder, output, "out", call, self.source, self.is_target, rectifier=self.rectifier
            )
        if now.mode is not None:
            now.mode.resume(self.name)
            if not self._transparent:
                now.mode.bridge(args, output, self._weighs)
        now.leave(self.name)

    def on_recompute(
        self, recorder: Recorder, module: nn.Module, args: object, output: object
    ) -> None:
        """Watch the gradients of outputs that checkpointing makes again."""
        if self.is_target:
            self.take_again(recorder, output, "out")


def _transparent(module: nn.Module) -> bool:
    """Return whether all that a module does is done by functions that the mode sees.

    So it is with PyTorch's own leaves and containers; the fused encoder layer and recurrent nets
    call what is no such function.
    """
    kind = type(module)
    own = kind.__module__.startswith("torch.nn.modules.") or kind in CONTAINERS
    patched = "forward" in vars(module)
    return own and not patched and not isinstance(module, (*FUSED, nn.RNNBase))


def _may_fuse(module: nn.Module) -> bool:
    if module.training:
        return False
    return not (torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()))


def first_readable(
    values: tuple[object, ...], check: Callable[[Tensor], bool] = readable
) -> object:
    """Return the first value that holds a readable tensor: a block's input."""
    for value in values:
        for _, x in tensors(value):
            if check(x):
                return value
    return None
