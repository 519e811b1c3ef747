"""Hooks that a compiler traces along with the model: their sums become part of its graphs.

Methods marked `at_trace_time` are real Python that runs once, while a graph is made: they know
names, calls and channels. All else is traced: sums of activations on the way forward and, in hooks
on the tensors, of gradients on the way back. That a recorder is on or off is the one thing that
makes another graph, so that there are two.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sigprop.capture.blocks import RECTIFIERS, adds
from sigprop.capture.channels import channel_axis, made_by
from sigprop.capture.hooks import After, Before, Tap, first_readable
from sigprop.capture.leaves import tensors
from sigprop.capture.recorder import Recorder
from sigprop.capture.surroundings import HOOK_GUARDS
from sigprop.capture.tracing import show, show_graph
from sigprop.errors import ProbeWarning
from sigprop.signals.reading import readable
from sigprop.signals.traced import PRODUCTS, ROWS, reads_now

#: What to do where a compiled graph does not show something.
EAGER = "To see them, run the steps to record in `with torch.compiler.set_stance('force_eager'):`"

F = TypeVar("F", bound=Callable[..., Any])


def at_trace_time(function: F) -> F:
    """Mark a function as called once, when traced; its result is a constant of the graph."""
    # What torch.compiler.assume_constant_result does, without importing the compiler for it.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class TracedTap(Tap):
    """What both hooks of a module do in a graph."""

    def trace_value(
        self,
        recorder: Recorder,
        value: object,
        port: str,
        call: int,
        name: str,
        gradient: bool = True,
        rectified: bool = False,
    ) -> None:
        """Add the sums of every tensor in ``value`` to its slot, and of its gradient later."""
        for path, x in tensors(value):
            if not readable(x):
                continue
            axis = self.trace_axis(x)
            show(x)
            # Channels size the slot: where shapes are dynamic, this one is not.
            channels = operator.index(x.shape[axis]) if x.ndim else 1
            where = (self.trace_mode(recorder), port, call, name, path, axis, channels)
            at = (*where, reads_now(x), sums_type(x), x.device)
            slot = self.reserve_sums("forward", *at, rectified, x.requires_grad)
            if slot:
                trace_reading(getattr(recorder.slots, slot), x, axis)
            slot = self.reserve_sums("backward", *at) if gradient and x.requires_grad else ""
            if slot:
                trace_gradient(getattr(recorder.slots, slot), x, axis)

    def trace_mode(self, recorder: Recorder) -> str:
        """Return whether the whole model trains; a graph is for one of both."""
        root = recorder.root()
        return "train" if root is None or root.training else "eval"

    def trace_axis(self, x: Tensor) -> int:
        """Return the channel axis of ``x``."""
        chosen = self.axis_chosen()
        if chosen is not None and -x.ndim <= chosen < x.ndim:
            return chosen
        axis, channels = self.maker_axis(), self.maker_channels()
        return channel_axis(x, (axis, channels) if channels else None)

    @at_trace_time
    def axis_chosen(self) -> int | None:
        """Return the channel axis that the user named for this module, if one was."""
        return self.axis.get(self.name) if isinstance(self.axis, Mapping) else self.axis

    @at_trace_time
    def maker_axis(self) -> int:
        """Return the axis on which channels were made last; -1 when none were."""
        maker = self.living().trace.maker
        return maker[0] if maker else -1

    @at_trace_time
    def maker_channels(self) -> int:
        """Return how many channels were made last; 0 when none were."""
        maker = self.living().trace.maker
        return maker[1] if maker else 0

    @at_trace_time
    def reserve_sums(
        self,
        direction: str,
        mode: str,
        port: str,
        call: int,
        name: str,
        path: str,
        axis: int,
        channels: int,
        now: bool,
        dtype: torch.dtype,
        device: torch.device,
        rectified: bool = False,
        requires_grad: bool = True,
    ) -> str:
        """Return the name of a new slot for an address; "" when it has joined another's.

        All in one, since a result of Python at trace time must be a constant: the tensor is the one
        that was shown.
        """
        recorder = self.living()
        address = self.address(recorder, mode, port, call, name, path, axis, channels, direction)
        if recorder.metrics and not recorder.told_of_metrics:
            recorder.told_of_metrics = True
            warnings.warn(
                f"the metrics {list(recorder.metrics)} are functions of your own and are missing "
                f"where code is compiled. {EAGER}",
                ProbeWarning,
                stacklevel=2,
            )
        if rectified:
            recorder.rectified_slots.add(address)
        if not requires_grad and torch.is_grad_enabled():
            recorder.without_gradient.add(address.target)
        trace, slots = recorder.trace, recorder.slots
        known = trace.slot(direction, axis)
        if known is not None:
            slots.join(known, address)
            return ""
        kind, shape = ("table", (channels, ROWS)) if now else ("sums", (ROWS, channels))
        slot = slots.reserve(trace.graph, kind, address, shape, dtype, device)
        trace.put(direction, axis, slot)
        return slot

    def living(self) -> Recorder:
        """Return the recorder; while something is traced for it, it lives."""
        recorder = self._recorder()
        assert recorder is not None
        HOOK_GUARDS.on()  # when the probe was attached there may have been no compiler yet
        recorder.trace.look(recorder.now.maker)
        return recorder


class TracedBefore(TracedTap, Before):
    """`Before`, in a graph too."""

    def trace(
        self,
        recorder: Recorder,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Take the inputs."""
        show_graph()
        if self.is_target:
            given = first_readable((*args, *(kwargs or {}).values()))
            self.trace_value(recorder, given, "in", self.calls_so_far(self.name), self.name)
        self.tell_of_functions(module)
        if self.ports and self.target:
            self.trace_operands(recorder, args, self.target)

    def trace_operands(self, recorder: Recorder, args: tuple[object, ...], block: str) -> None:
        """Take the operands of an addition, and how they correlate."""
        call = self.begin_call(f"{block} +")
        operands = dict(zip(self.ports, args, strict=False))
        for port, operand in operands.items():
            self.trace_value(recorder, operand, port, call, block)
        skip, branch = operands.get("skip"), operands.get("branch")
        if isinstance(skip, Tensor) and isinstance(branch, Tensor):
            if not (readable(skip) and readable(branch)):
                return
            axis = self.trace_axis(branch)
            channels = operator.index(branch.shape[axis]) if branch.ndim else 1
            at = (self.trace_mode(recorder), call, block, axis, channels, sums_type(branch))
            sums = getattr(recorder.slots, self.reserve_products(*at, branch.device))
            if reads_now(branch):
                torch.ops.sigprop.add_pair_now(sums, skip.detach(), branch.detach())
            else:
                torch.ops.sigprop.add_pair(sums, skip, branch)

    @at_trace_time
    def calls_so_far(self, name: str) -> int:
        """Return how often a module was met so far in this forward."""
        return self.living().trace.calls[name]

    @at_trace_time
    def begin_call(self, name: str) -> int:
        """Return the number of this call, and count it."""
        calls = self.living().trace.calls
        calls[name] += 1
        return calls[name] - 1

    @at_trace_time
    def reserve_products(
        self,
        mode: str,
        call: int,
        block: str,
        axis: int,
        channels: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> str:
        """Return the name of the slot of an addition's products."""
        recorder = self.living()
        address = self.address(recorder, mode, "branch", call, block, "", axis, channels)
        kind, shape = "products", (PRODUCTS,)
        return recorder.slots.reserve(recorder.trace.graph, kind, address, shape, dtype, device)

    @at_trace_time
    def tell_of_functions(self, module: nn.Module) -> None:
        """Warn once of what only an eager forward shows."""
        recorder = self.living()
        children = list(module.children())
        speaks = not children or any(hasattr(child, "ports") for child in children)
        if not (speaks or recorder.told_of_functions) and adds(module):
            recorder.told_of_functions = True
            warnings.warn(
                f"{type(module).__name__} ({self.name}) adds in code that is compiled: operands of "
                "additions that are no modules, and functional rectifiers, are recorded in eager "
                f"steps only. {EAGER}",
                ProbeWarning,
                stacklevel=2,
            )


class TracedAfter(TracedTap, After):
    """`After`, in a graph too."""

    def trace(self, recorder: Recorder, module: nn.Module, args: object, output: object) -> None:
        """Count the call, and take the output."""
        show_graph()
        call = self.made(module)
        rectified = self.ends_rectified(module)
        if self.is_target or self.inner_rectifier:
            self.trace_value(recorder, output, "out", call, self.name, self.is_target, rectified)

    @at_trace_time
    def ends_rectified(self, module: nn.Module) -> bool:
        """Return whether a rectifier makes the output: the module is one, or a stack upon one."""
        while isinstance(module, nn.Sequential) and len(module):
            module = module[-1]
        return isinstance(module, RECTIFIERS)

    @at_trace_time
    def made(self, module: nn.Module) -> int:
        """Return the number of this call; note what makes channels."""
        recorder = self.living()
        trace, call = recorder.trace, recorder.trace.calls[self.name]
        trace.calls[self.name] += 1
        recorder.total_calls[self.name] += 1
        trace.maker = made_by(module) or trace.maker
        return call


def sums_type(x: Tensor) -> torch.dtype:
    """Return the type that sums of ``x`` are kept in."""
    return torch.float64 if reads_now(x) else torch.promote_types(x.dtype, torch.float32)


def trace_reading(sums: Tensor, x: Tensor, channel_dim: int) -> None:
    """Add the sums of a tensor to a slot, when the graph runs."""
    if reads_now(x):
        torch.ops.sigprop.add_reading_now(sums, x.detach(), channel_dim)
    else:
        torch.ops.sigprop.add_reading(sums, x, channel_dim)


def trace_gradient(sums: Tensor, x: Tensor, channel_dim: int) -> None:
    """Add the sums of a tensor's gradient to a slot, when it comes back."""

    def arrived(grad: Tensor) -> None:
        trace_reading(sums, grad, channel_dim)

    x.register_hook(arrived)
