"""Everything that is on a model while a probe is attached, as one object with one lifetime."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sigprop.capture.hooks.compiled import GraphHook
from sigprop.capture.hooks.forwards import (
    ForwardContext,
    Forwards,
    ModelEnd,
    ModelStart,
    WrapperStart,
)
from sigprop.capture.hooks.global_hooks import GlobalHooks
from sigprop.capture.hooks.handles import Handles
from sigprop.capture.hooks.module_hooks import ForwardHook, ForwardPreHook
from sigprop.capture.hooks.scope import Scope
from sigprop.capture.model.blocks import owner
from sigprop.capture.model.channels import ChannelDim
from sigprop.capture.model.closed import closed_cost
from sigprop.capture.model.module_info import ModuleInfo, describe
from sigprop.capture.model.naming import bare, modules
from sigprop.capture.parameters.gradient_hooks import GradientHooks
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.torch_internals import CONVOLUTIONS, compiled


class ModuleHooks(Handles):
    """The hooks on a model's modules; on it for recorded steps only: other steps cost nothing.

    Hooks that carry no work still cost: PyTorch calls every module that has one the slow way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[tuple[weakref.ref[nn.Module], ForwardPreHook | None, ForwardHook]] = []

    def add(self, module: nn.Module, before: ForwardPreHook | None, after: ForwardHook) -> None:
        """Give a module its hooks, from the next `attach`.

        Args:
            module: what is hooked; it is not kept alive.
            before: called with it and its inputs; None for no hook.
            after: called with it, its inputs and its output.
        """
        self._entries.append((weakref.ref(module), before, after))

    def attach(self) -> None:
        """Put every hook on, in the order in which they were given."""
        if self._handles:
            return
        for known, before, after in self._entries:
            module = known()
            if module is not None:
                self._handles.extend(_registered(module, before, after))


class Installation:
    """What is on a model, from attaching until detaching.

    Permanent are the hooks on the model itself: a step may end and a recorded one begin within the
    first of them, too late to put others on it. All others are on it for recorded steps.

    Args:
        model: the model.
        recorder: where statistics go.
        forward_begins: a bound method, called with the training flag when a forward pass begins.
        gradient_arrived: a bound method, called with the name and the parameter when a gradient is
            complete; None where an optimizer says when.
    """

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        forward_begins: Callable[[bool], None],
        gradient_arrived: Callable[[str, nn.Parameter], None] | None = None,
    ) -> None:
        self._model, self._recorder = weakref.ref(model), recorder
        self._forward_begins = forward_begins
        self._permanent: list[RemovableHandle] = []
        self._hooks, self._global = ModuleHooks(), GlobalHooks()
        self._forwards: Forwards | None = None
        self._gradients: GradientHooks | None = None
        if gradient_arrived is not None:
            self._gradients = GradientHooks(model, gradient_arrived)

    def install(
        self,
        targets: Mapping[str, nn.Module],
        channel_dim: ChannelDim,
        scope: Scope,
        members: Mapping[str, str] | None = None,
    ) -> None:
        """Put the permanent hooks on, and make the others.

        ScriptModules cannot be hooked and are passed over; the coverage table says so.

        Args:
            targets: what to record, from `select`.
            channel_dim: the channel axis everywhere, or by module name; None to infer it.
            scope: what is recorded beyond the targets.
            members: modules that are called in a target and registered elsewhere.
        """
        model = self._model()
        assert model is not None
        root, recorder = bare(model), self._recorder
        recorder.graph.root = weakref.ref(root)
        everything = frozenset(id(module) for module in root.modules())
        context = ForwardContext(recorder, scope, everything, self._global)
        forwards = self._forwards = Forwards(root, recorder, self._forward_begins, context)
        recorder.part_called = forwards.part_called
        self._permanent.append(root.register_forward_pre_hook(ModelStart(forwards)))
        if isinstance(model, nn.DataParallel):
            self._permanent.append(model.register_forward_pre_hook(WrapperStart(forwards)))
        fused, inside_closed = _inside_encoder_layers(model), _inside_closed(model)
        for name, module in modules(model):
            if isinstance(module, torch.jit.ScriptModule):
                continue
            target = owner(name, targets, members)
            info = describe(name, module, target, channel_dim, scope.chosen_kind, scope.additions)
            graph = GraphHook(recorder, info, module)
            before = None
            if info.is_target or _needs_pre_hook(module, info, id(module) in inside_closed):
                before = ForwardPreHook(recorder, info, graph)
            after = ForwardHook(recorder, info, graph, before is not None)
            if id(module) in fused:
                self._global.add(module, before, after)
            elif module is root:
                self._permanent.extend(_registered(root, before, after))
            else:
                self._hooks.add(module, before, after)
        self._permanent.append(root.register_forward_hook(ModelEnd(forwards), always_call=True))

    def record(self, on: bool) -> None:
        """Have everything on for a step that is recorded, else off.

        Hooks that are part of compiled graphs stay: registered anew they would make another graph,
        and on a step that is not recorded the graph has nothing of theirs in it.
        """
        for hooks in (self._hooks, self._gradients):
            if hooks is None:
                continue
            if on:
                hooks.attach()
            elif hooks.on and not self._compiled():
                hooks.remove()

    def end_interrupted(self) -> None:
        """End what a KeyboardInterrupt has left active."""
        if self._forwards is not None:
            self._forwards.end_interrupted()

    def late_gradients(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters with gradients that must be read at the end of a step."""
        return [] if self._gradients is None else self._gradients.late()

    def remove(self) -> None:
        """Take everything off."""
        for handle in self._permanent:
            handle.remove()
        self._permanent.clear()
        self._hooks.remove()
        if self._gradients is not None:
            self._gradients.remove()
            self._gradients.clear()
        if self._forwards is not None:
            self._forwards.remove()

    def _compiled(self) -> bool:
        """Return whether graphs were made with the hooks, or will be."""
        model = self._model()
        parts = model.modules() if model is not None else ()
        return self._recorder.graph.whole or any(compiled(part) for part in parts)


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


def _inside_closed(model: nn.Module) -> set[int]:
    """Return the layers in Sequentials whose whole inside need not be watched."""
    return {
        id(child)
        for module in model.modules()
        if isinstance(module, nn.Sequential) and closed_cost(module) is not None
        for child in module
    }


def _needs_pre_hook(module: nn.Module, info: ModuleInfo, inside_closed: bool) -> bool:
    """Return whether a module must be on the stack, or have functions inside it pass unseen.

    PyTorch's own leaves need not be on it.
    """
    if (
        next(module.children(), None) is not None
        or not type(module).__module__.startswith("torch.nn.modules")
        or info.records_own_output
    ):
        return True
    # One function of C++ is seen for less than it costs to look away.
    single = isinstance(module, (nn.Linear, nn.GELU, *CONVOLUTIONS))
    return info.cost is not None and not (inside_closed or single)
