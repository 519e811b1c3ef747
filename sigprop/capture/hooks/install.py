"""Puts the hooks on a model, and everything on and off again around each forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sigprop.capture.hooks.compiled import TracedForwardHook, TracedForwardPreHook
from sigprop.capture.hooks.forwards import (
    ForwardContext,
    Forwards,
    ModelEnd,
    ModelStart,
    Scope,
    WrapperStart,
)
from sigprop.capture.hooks.global_hooks import GlobalHooks
from sigprop.capture.hooks.handles import Handles
from sigprop.capture.hooks.module_hooks import ForwardHook, ForwardPreHook
from sigprop.capture.model.blocks import RECTIFIERS, owner
from sigprop.capture.model.channels import ChannelDim
from sigprop.capture.model.naming import bare, modules
from sigprop.capture.recording.recorder import Recorder


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


def install(
    model: nn.Module,
    targets: dict[str, nn.Module],
    recorder: Recorder,
    announce: Callable[[bool], None],
    channel_dim: ChannelDim,
    scope: Scope,
) -> tuple[list[RemovableHandle], Hooks, Forwards]:
    """Give a model its hooks; return handles of the permanent ones, the others, the forwards.

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

    Returns:
        Handles of the permanent hooks, the other hooks, and the forwards that run.
    """
    root, unhooked, hooks = bare(model), GlobalHooks(), Hooks()
    recorder.root = weakref.ref(root)
    everything = frozenset(id(module) for module in root.modules())
    context = ForwardContext(recorder, scope, everything, unhooked)
    forwards = Forwards(root, recorder, announce, context)
    recorder.part_called = forwards.part_called
    handles = [root.register_forward_pre_hook(ModelStart(forwards))]
    if isinstance(model, nn.DataParallel):
        handles.append(model.register_forward_pre_hook(WrapperStart(forwards)))
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
    handles.append(root.register_forward_hook(ModelEnd(forwards), always_call=True))
    return handles, hooks, forwards


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
