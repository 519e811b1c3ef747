"""Puts the hooks on a model, and everything on and off again around each forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from sigprop.capture.hooks.compiled import TracedForwardHook, TracedForwardPreHook
from sigprop.capture.hooks.functional import FunctionalMode
from sigprop.capture.hooks.handles import Handles
from sigprop.capture.hooks.module_hooks import ForwardHook, ForwardPreHook, Hook
from sigprop.capture.model.blocks import RECTIFIERS, owner
from sigprop.capture.model.channels import ChannelDim
from sigprop.capture.model.naming import bare, modules
from sigprop.capture.recording.forward_state import ModuleFrame
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.recording.tap import Kind
from sigprop.capture.torch_internals import (
    at_trace_time,
    graph_being_made,
    is_replica,
    recomputing,
    transforming,
)


@dataclass(frozen=True)
class Scope:
    """What is recorded beyond the blocks themselves.

    Attributes:
        additions: residual additions that lie outside of every block.
        rectifiers: functional rectifiers that lie outside of every block.
        attention: what functional attention makes.
        chosen_kind: the kind of what was chosen: ``"block"`` or ``"leaf"``.
    """

    additions: bool = False
    rectifiers: bool = False
    attention: bool = False
    chosen_kind: Kind = "block"


class GlobalHooks(Handles):
    """Watches modules that must not carry hooks, through global ones, during a forward pass.

    `nn.TransformerEncoderLayer` runs as one fused function only if nothing inside it has a hook.
    """

    def __init__(self) -> None:
        super().__init__()
        self._taps: dict[
            int, tuple[weakref.ref[nn.Module], ForwardPreHook | None, ForwardHook]
        ] = {}

    def add(self, module: nn.Module, before: ForwardPreHook | None, after: ForwardHook) -> None:
        """Watch a module with what would have been its hooks."""
        self._taps[id(module)] = weakref.ref(module), before, after

    def attach(self) -> None:
        """Begin to watch; when it is taken off nothing global remains."""
        self.remove()
        if self._taps:
            self._handles = [
                register_module_forward_pre_hook(self._before),
                register_module_forward_hook(self._after),
            ]

    def _before(self, module: nn.Module, args: Any) -> None:
        known = self._taps.get(id(module))
        if known is not None and known[0]() is module and known[1] is not None:
            known[1](module, args)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        known = self._taps.get(id(module))
        if known is not None and known[0]() is module:
            known[2](module, args, output)


class Hooks(Handles):
    """The hooks on a model's modules; they are on it for recorded steps only: others cost nothing.

    Hooks that carry no work still cost: PyTorch calls every module that has one the slow way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[tuple[weakref.ref[nn.Module], ForwardPreHook | None, ForwardHook]] = []

    def add(self, module: nn.Module, before: ForwardPreHook | None, after: ForwardHook) -> None:
        """Give a module its hooks, from the next `attach`."""
        self._entries.append((weakref.ref(module), before, after))

    def attach(self) -> None:
        """Put every hook on, in the order in which they were given."""
        if self._handles:
            return
        for known, before, after in self._entries:
            module = known()
            if module is None:
                continue
            self._handles.extend(_registered(module, before, after))


class ForwardContext:
    """What is active during one forward pass of the whole model, and only then."""

    def __init__(self, recorder: Recorder, scope: Scope, unhooked: GlobalHooks) -> None:
        self._recorder = weakref.ref(recorder)
        self._scope, self._unhooked = scope, unhooked

    def start(self, training: bool) -> None:
        """Begin a forward pass on a recorded step."""
        self.stop()
        recorder = self._recorder()
        if recorder is None:
            return
        recorder.begin_forward(training)
        self._unhooked.attach()
        mode = FunctionalMode(recorder.now, self._guarded, self._addition, self._function)
        recorder.now.mode = mode
        mode.enter()

    def stop(self) -> None:
        """End a forward pass, however it ended."""
        recorder = self._recorder()
        self._unhooked.remove()
        if recorder is not None and recorder.now.mode is not None:
            recorder.now.mode.leave()
            recorder.now.mode = None

    def _guarded(self, act: Callable[..., None], *arguments: object) -> None:
        recorder = self._recorder()
        if recorder is not None and recorder.on:
            recorder.guarded(act, *arguments)

    def _addition(self, place: ModuleFrame, skip: Tensor, branch: Tensor) -> None:
        recorder = self._recorder()
        if recorder is not None and isinstance(place, ForwardPreHook):
            place.operands(recorder, {"skip": skip, "branch": branch})

    def _function(self, place: ModuleFrame, kind: str, output: Tensor) -> None:
        recorder = self._recorder()
        if recorder is None or not isinstance(place, ForwardPreHook):
            return
        wanted = (
            self._scope.attention
            if kind == "sdpa"
            else self._scope.rectifiers or place.target is not None
        )
        if wanted:
            place.function(recorder, kind, output)


class Start(Hook):
    """Pre-hook of the whole model: a forward pass begins."""

    def __init__(
        self, recorder: Recorder, announce: Callable[[bool], None], session: ForwardContext
    ) -> None:
        super().__init__(recorder)
        self._announce, self._session = weakref.WeakMethod(announce), session

    def __call__(self, *arguments: Any) -> None:
        """Tell the probe, also on steps that are not recorded: a step may end here."""
        if torch.compiler.is_compiling():
            if graph_being_made():
                self.begin_traced()
            return
        recorder, announce = self._recorder(), self._announce()
        if recorder is None or announce is None or recomputing() or transforming() is not None:
            return
        module = arguments[0]
        if not is_replica(module):  # DataParallel's wrapper told already
            announce(bool(module.training))
        if recorder.on:
            recorder.guarded(self._session.start, bool(module.training))

    @at_trace_time
    def begin_traced(self) -> None:
        """Note that a graph of the whole model is being made."""
        recorder = self._recorder()
        if recorder is not None:
            recorder.whole_graph = True


class Announce(Start):
    """Pre-hook of a DataParallel wrapper, whose replicas are not the model itself."""

    def __call__(self, *arguments: Any) -> None:
        """Tell the probe that a forward pass begins."""
        announce = self._announce()
        if announce is not None:
            announce(bool(arguments[0].training))


class Finish(Hook):
    """Last hook of the whole model, also when its forward raised."""

    def __init__(self, recorder: Recorder, session: ForwardContext) -> None:
        super().__init__(recorder)
        self._session = session

    def __call__(self, *arguments: Any) -> None:
        """Take off what was put on for this forward pass."""
        if torch.compiler.is_compiling() or recomputing():
            return
        if self._recorder() is not None:
            self._session.stop()


def install(
    model: nn.Module,
    targets: dict[str, nn.Module],
    recorder: Recorder,
    announce: Callable[[bool], None],
    channel_dim: ChannelDim,
    scope: Scope,
) -> tuple[list[RemovableHandle], Hooks, ForwardContext]:
    """Give a model its hooks; return what takes off the permanent ones, the others, the session.

    Permanent are those on the model itself: a step may end and a recorded one begin within the
    first of them, too late to put others on it.

    ScriptModules cannot be hooked and are passed over; the coverage table says so.

    Args:
        model: the model.
        targets: what to record, from `select`.
        recorder: where readings go.
        announce: a bound method, called with the training flag when a forward pass begins.
        channel_dim: the channel axis everywhere, or by module name; None to infer it.
        scope: what is recorded beyond the targets.
    """
    root, unhooked, hooks = bare(model), GlobalHooks(), Hooks()
    recorder.root = weakref.ref(root)
    session = ForwardContext(recorder, scope, unhooked)
    handles = [root.register_forward_pre_hook(Start(recorder, announce, session))]
    if isinstance(model, nn.DataParallel):
        handles.append(model.register_forward_pre_hook(Announce(recorder, announce, session)))
    fused = _inside_encoder_layers(model)
    for name, module in modules(model):
        if isinstance(module, torch.jit.ScriptModule):
            continue
        target = owner(name, targets)
        before = None
        if name in targets or _speaks_or_has_code(module):
            before = TracedForwardPreHook(
                recorder, name, module, target, channel_dim, scope.chosen_kind, scope.additions
            )
        after = TracedForwardHook(recorder, name, module, target, channel_dim, scope.chosen_kind)
        if id(module) in fused:
            unhooked.add(module, before, after)
            continue
        if module is root:
            handles.extend(_registered(root, before, after))
        else:
            hooks.add(module, before, after)
    handles.append(root.register_forward_hook(Finish(recorder, session), always_call=True))
    return handles, hooks, session


def _registered(
    module: nn.Module, before: ForwardPreHook | None, after: ForwardHook
) -> list[RemovableHandle]:
    handles = [module.register_forward_hook(after)]
    if before is not None:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    return handles


def _inside_encoder_layers(model: nn.Module) -> set[int]:
    return {
        id(inner)
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoderLayer)
        for inner in module.modules()
    }


def _speaks_or_has_code(module: nn.Module) -> bool:
    """Return whether a module must be on the stack: PyTorch's own leaves need not be."""
    return (
        next(module.children(), None) is not None
        or not type(module).__module__.startswith("torch.nn.modules")
        or isinstance(module, RECTIFIERS)
    )
