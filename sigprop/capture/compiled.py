"""Hooks that a compiler traces along with the model: their sums become part of its graphs.

Methods marked `at_trace_time` are real Python that runs once, while a graph is made: they know
names, calls and channels. All else is traced: sums of activations on the way forward and, in hooks
on the tensors, of gradients on the way back. That a recorder is on or off is the one thing that
makes another graph, so that there are two.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sigprop.capture.address import Address
from sigprop.capture.blocks import RECTIFIERS, adds
from sigprop.capture.channels import channel_axis, made_by
from sigprop.capture.hooks import After, Before, Tap, first_readable
from sigprop.capture.leaves import tensors
from sigprop.capture.recorder import Recorder
from sigprop.capture.surroundings import HOOK_GUARDS
from sigprop.capture.tracing import show, show_graph, shown
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
    """What both hooks of a module do in a graph.

    Attributes:
        rectifies: a rectifier makes what the module returns.
    """

    rectifies = False

    def begin(self, recorder: Recorder) -> None:
        """Show the graph that is being made; if it is a new one, note for which mode it is."""
        show_graph()
        if self.graph_is_new():
            # Traced, so that the graph is for this mode only.
            root = recorder.root()
            self.note_mode("train" if root is None or root.training else "eval")

    @at_trace_time
    def graph_is_new(self) -> bool:
        """Return whether this is the first hook in a graph."""
        return not self.living().trace.mode

    @at_trace_time
    def note_mode(self, mode: str) -> None:
        """Note for which mode of the model the graph is."""
        self.living().trace.mode = mode

    def trace_value(
        self,
        recorder: Recorder,
        value: object,
        port: str,
        call: int,
        name: str,
        gradient: bool = True,
    ) -> None:
        """Add the sums of every tensor in ``value`` to its slot, and of its gradient later."""
        for path, x in tensors(value):
            show(x)
            plan = self.reserve_sums(port, call, name, path, gradient)
            if plan:
                way, axis, forward, backward = plan.split(",")
                add = getattr(torch.ops.sigprop, way)
                if forward:
                    add(getattr(recorder.slots, forward), x.detach(), int(axis))
                if backward:
                    trace_gradient(getattr(recorder.slots, backward), x, int(axis), add)

    @at_trace_time
    def reserve_sums(self, port: str, call: int, name: str, path: str, gradient: bool) -> str:
        """Return how to read the tensor that was shown, and its gradient; "" for not at all.

        In one string, since a result of Python at trace time must be a constant: the operator, the
        channel axis, and the names of two slots, each "" when there is nothing to read or another
        address of this graph reads it.
        """
        recorder, x = self.living(), shown()
        if not readable(x):
            return ""
        self._tell_of_metrics(recorder)
        axis = self._trace_axis(recorder, x)
        # Channels size the slot: where shapes are dynamic, this one is not.
        channels = int(x.shape[axis]) if x.ndim else 1
        at = (recorder.trace.mode, port, call, name, path, axis, channels)
        address = self.address(recorder, *at)
        if self.rectifies and port == "out":
            recorder.rectified_slots.add(address)
        if not x.requires_grad and torch.is_grad_enabled():
            recorder.without_gradient.add(address.target)
        forward = self._slot(recorder, address, x)
        backward = ""
        if gradient and x.requires_grad:
            backward = self._slot(recorder, address._replace(direction="backward"), x)
        way = "add_reading_now" if reads_now(x) else "add_reading"
        return f"{way},{axis},{forward},{backward}"

    def _slot(self, recorder: Recorder, address: Address, x: Tensor) -> str:
        """Return the name of a new slot for an address; "" when it has joined another's."""
        trace, slots = recorder.trace, recorder.slots
        known = trace.slot(address.direction, address.channel_dim)
        if known is not None:
            slots.join(known, address)
            return ""
        channels = address.channels
        kind, shape = ("table", (channels, ROWS)) if reads_now(x) else ("sums", (ROWS, channels))
        slot = slots.reserve(trace.graph, kind, address, shape, sums_type(x), x.device)
        trace.put(address.direction, address.channel_dim, slot)
        return slot

    def _trace_axis(self, recorder: Recorder, x: Tensor) -> int:
        """Return the channel axis of ``x``."""
        chosen = self.axis.get(self.name) if isinstance(self.axis, Mapping) else self.axis
        if chosen is not None and -x.ndim <= chosen < x.ndim:
            return chosen
        return channel_axis(x, recorder.trace.maker)

    def _tell_of_metrics(self, recorder: Recorder) -> None:
        if recorder.metrics and not recorder.told_of_metrics:
            recorder.told_of_metrics = True
            warnings.warn(
                f"the metrics {list(recorder.metrics)} are functions of your own and are missing "
                f"where code is compiled. {EAGER}",
                ProbeWarning,
                stacklevel=2,
            )

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
        self.begin(recorder)
        call = self.entered(module)
        if self.is_target:
            given = first_readable((*args, *(kwargs or {}).values()))
            self.trace_value(recorder, given, "in", call, self.name)
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
            show(branch)
            way, slot = self.reserve_products(call, block).split(",")
            add = getattr(torch.ops.sigprop, way)
            add(getattr(recorder.slots, slot), skip.detach(), branch.detach())

    @at_trace_time
    def entered(self, module: nn.Module) -> int:
        """Return the number of this call; warn once of what only an eager forward shows."""
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
        return recorder.trace.calls[self.name]

    @at_trace_time
    def begin_call(self, name: str) -> int:
        """Return the number of this call, and count it."""
        calls = self.living().trace.calls
        calls[name] += 1
        return calls[name] - 1

    @at_trace_time
    def reserve_products(self, call: int, block: str) -> str:
        """Return the operator and the name of the slot for the products of an addition."""
        recorder, x = self.living(), shown()
        axis = self._trace_axis(recorder, x)
        channels = int(x.shape[axis]) if x.ndim else 1
        mode, graph = recorder.trace.mode, recorder.trace.graph
        address = self.address(recorder, mode, "branch", call, block, "", axis, channels)
        at = (address, (PRODUCTS,), sums_type(x), x.device)
        way = "add_pair_now" if reads_now(x) else "add_pair"
        return f"{way},{recorder.slots.reserve(graph, 'products', *at)}"


class TracedAfter(TracedTap, After):
    """`After`, in a graph too."""

    def trace(self, recorder: Recorder, module: nn.Module, args: object, output: object) -> None:
        """Count the call, and take the output."""
        self.begin(recorder)
        call = self.made(module)
        if self.is_target or self.inner_rectifier:
            self.trace_value(recorder, output, "out", call, self.name, self.is_target)

    @at_trace_time
    def made(self, module: nn.Module) -> int:
        """Return the number of this call; note what makes channels, and what rectifies."""
        recorder = self.living()
        trace, call = recorder.trace, recorder.trace.calls[self.name]
        trace.calls[self.name] += 1
        recorder.total_calls[self.name] += 1
        trace.maker = made_by(module) or trace.maker
        last = module
        while isinstance(last, nn.Sequential) and len(last):
            last = last[-1]
        self.rectifies = isinstance(last, RECTIFIERS)
        return call


def sums_type(x: Tensor) -> torch.dtype:
    """Return the type that sums of ``x`` are kept in."""
    return torch.float64 if reads_now(x) else torch.promote_types(x.dtype, torch.float32)


def trace_gradient(
    sums: Tensor, x: Tensor, channel_dim: int, add: Callable[[Tensor, Tensor, int], None]
) -> None:
    """Add the sums of a tensor's gradient to a slot, when it comes back."""

    def arrived(grad: Tensor) -> None:
        add(sums, grad.detach(), channel_dim)

    x.register_hook(arrived)
