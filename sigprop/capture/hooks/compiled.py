"""Hooks that a compiler traces along with the model: their sums become part of its graphs.

Methods marked `at_trace_time` are real Python that runs once, while a graph is made: they have
names, calls and channels. All else is traced: sums of activations on the way forward and, in hooks
on the tensors, of gradients on the way back. That a recorder is on or off is the one thing that
makes another graph, so that there are two.
"""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from sigprop.capture.hooks.compiled_graphs import HOOK_GUARDS
from sigprop.capture.hooks.gradient_operators import WATCH
from sigprop.capture.hooks.graph_buffers import BUFFERS
from sigprop.capture.hooks.port import make_tap
from sigprop.capture.hooks.tracing import shown
from sigprop.capture.internals import switched_off
from sigprop.capture.model.blocks import adds
from sigprop.capture.model.channels import channel_axis, is_rectified, made_by
from sigprop.capture.model.module_info import ModuleInfo
from sigprop.capture.model.nested import first_readable, tensors
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.recording.tap import Tap
from sigprop.capture.torch_internals import Shown, show, show_graph
from sigprop.capture.torch_internals import at_trace_time as constant_at_trace_time
from sigprop.errors import ProbeWarning
from sigprop.signals.channel_statistics import readable
from sigprop.signals.precision import wide_type
from sigprop.signals.traced import PRODUCTS, ROWS, runs_native
from sigprop.torch_version import RUN_EAGERLY

#: What to do where a compiled graph does not show something.
EAGER = f"To see them, run the steps to record {RUN_EAGERLY}"

#: Tells hooks apart where they run the same code.
_KEYS = itertools.count()

#: The code of hooks' calls; a graph may be of one of them alone.
HOOK_CODES: set[CodeType] = set()

M = TypeVar("M", bound="GraphHook")
R = TypeVar("R")
P = ParamSpec("P")


def at_trace_time(
    otherwise: R,
) -> Callable[[Callable[Concatenate[M, P], R]], Callable[Concatenate[M, P], R]]:
    """Mark a method as called once, when traced; its result is a constant of the graph.

    Args:
        otherwise: the result where it fails; that switches the probe off, and the graph is made.

    Returns:
        A decorator for a method of `GraphHook`.
    """

    def mark(
        method: Callable[Concatenate[M, P], R],
    ) -> Callable[Concatenate[M, P], R]:
        """Return the method, safe and marked."""

        @functools.wraps(method)
        def safe(self: M, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return what the method does, or the result of a failure."""
            results = [otherwise]
            recorder = self._recorder()
            if recorder is not None:
                act = functools.partial(method, self, *args, **kwargs)
                recorder.guarded(lambda: results.append(act()))
            return results[-1]

        return cast(Callable[Concatenate[M, P], R], constant_at_trace_time(safe))

    return mark


class GraphHook:
    """What the hooks of one module do in a graph.

    Every attribute that traced code looks at is checked each time the graph runs. So it looks at
    the recorder once a graph, finds its buffers in one place, and asks Python at trace time for all
    else.

    Args:
        recorder: where statistics go; it is held weakly.
        info: what is known of the module.
        module: the module; it is held weakly.
    """

    def __init__(self, recorder: Recorder, info: ModuleInfo, module: nn.Module) -> None:
        self._recorder = weakref.ref(recorder)
        self._info, self._module = info, weakref.ref(module)
        self.key = str(next(_KEYS))  # a number would be a variable of graphs

    # --- before and after the module ------------------------------------------------------

    def before(
        self,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Take the inputs.

        Args:
            module: the module that is called.
            args: its positional arguments.
            kwargs: its keyword arguments, where the hook is given them.
        """
        if not self.begin():
            return
        call = self.entered()
        if call >= 0:
            given = first_readable(args, kwargs, self.can_read)
            self.trace_value(given, "in", call)
        if self.is_addition():
            self.trace_operands(args)

    def after(self, module: nn.Module, args: object, output: object) -> None:
        """Count the call, and take the output.

        Args:
            module: the module that was called.
            args: its positional arguments.
            output: what it returned.
        """
        if not self.begin():
            return
        call = self.made()
        if call >= 0:
            self.trace_value(output, "out", call)

    # --- the graph ------------------------------------------------------------------------

    def begin(self) -> bool:
        """Return whether the graph that is being made records."""
        show_graph()
        if self.graph_is_of_a_hook() and not self.key:
            return False  # never; but now the graph depends on the key, and fits no other hook
        if self.graph_is_new():
            recorder = self._recorder()
            on = recorder is not None and recorder.on and recorder.graph.traceable
            root = recorder.graph.root() if recorder is not None and on else None
            self.begin_graph(on, "train" if root is None or root.training else "eval")
        return self.graph_records()

    @at_trace_time(otherwise=False)
    def graph_is_of_a_hook(self) -> bool:
        """Return whether the graph is of a hook alone: its module's own code was not traced."""
        return Shown.code in HOOK_CODES

    @at_trace_time(otherwise=False)
    def graph_is_new(self) -> bool:
        """Return whether this is the first hook in a graph."""
        recorder = self._recorder()
        return recorder is not None and recorder.graph.trace.new

    @at_trace_time(otherwise=None)
    def begin_graph(self, on: bool, mode: str) -> None:
        """Note what a new graph is for.

        Args:
            on: whether the step is recorded.
            mode: ``"train"`` or ``"eval"``.
        """
        HOOK_GUARDS.refresh()  # when the probe was attached there may have been no compiler yet
        recorder = self.living()
        recorder.graph.trace.begin(on and not Shown.exported, mode, recorder.now.maker)

    @at_trace_time(otherwise=False)
    def graph_records(self) -> bool:
        """Return whether the graph records."""
        recorder = self._recorder()
        if recorder is None or recorder.log.broken or switched_off("tracing"):
            return False
        return recorder.graph.trace.on

    def living(self) -> Recorder:
        """Return the recorder; while a graph is made for it, it lives."""
        recorder = self._recorder()
        assert recorder is not None
        return recorder

    def module(self) -> nn.Module:
        """Return the module; what is called at trace time takes no modules, only constants."""
        module = self._module()
        assert module is not None
        return module

    # --- tensors --------------------------------------------------------------------------

    def trace_value(self, value: object, port: str, call: int) -> None:
        """Add the statistics of every tensor in ``value`` to its buffer, of its gradient later.

        Args:
            value: a tensor, or a nest of them.
            port: ``"in"``, ``"skip"``, ``"branch"`` or ``"out"``.
            call: which call of the module it is, from 0.
        """
        for path, x in tensors(value):
            show(x)
            plan = self.plan_statistics(port, call, path)
            if plan:
                way, axis, forward, backward = plan.split(",")
                add = getattr(torch.ops.sigprop, way)
                if forward:
                    add(getattr(BUFFERS, forward), x.detach(), int(axis))
                if backward:
                    watch = getattr(torch.ops.sigprop, WATCH[way])
                    watch(getattr(BUFFERS, backward), x, int(axis))

    @at_trace_time(otherwise="")
    def plan_statistics(self, port: str, call: int, path: str) -> str:
        """Return how to read the tensor that was shown, and its gradient; "" for not at all.

        In one string, since a result of Python at trace time must be a constant: the operator, the
        channel axis, and the names of two buffers, each "" when there is nothing to read or another
        tap of this graph reads it.

        Args:
            port: ``"in"``, ``"skip"``, ``"branch"`` or ``"out"``.
            call: which call of the module it is, from 0.
            path: where in a nest the tensor lies.
        """
        recorder, x = self.living(), shown()
        if not readable(x):
            return ""
        self._warn_of_metrics(recorder)
        tap = self._tap_of_shown(recorder, port, call, path)
        if port == "out" and self._rectified(recorder):
            recorder.graph.rectified.add(tap)
        if not x.requires_grad and torch.is_grad_enabled():
            recorder.log.without_gradient.add(tap.target)
        forward, backward = self._reserve(recorder, tap), ""
        # A rectifier inside a block is there for its dead units; the block has the gradients.
        if x.requires_grad and (self._info.is_target or port != "out"):
            backward = self._reserve(recorder, tap._replace(direction="backward"))
        way = "add_statistics_native" if runs_native(x) else "add_statistics"
        return f"{way},{tap.channel_dim},{forward},{backward}"

    def _rectified(self, recorder: Recorder) -> bool:
        """Return whether a rectifier made the tensor that was shown, this module or one inside."""
        x, known = shown(), recorder.graph.trace.rectified
        if self._info.rectifier:
            known.put(x, 0, True)
        return known.get(x, 0) is not None or is_rectified(x)

    def _tap_of_shown(self, recorder: Recorder, port: str, call: int, path: str) -> Tap:
        """Return where the tensor that was shown is read."""
        x, info, trace = shown(), self._info, recorder.graph.trace
        axis = info.axis
        if axis is None or not -x.ndim <= axis < x.ndim:
            axis = channel_axis(x, trace.maker)
        # Channels size the buffer: where shapes are dynamic, this one is not.
        channels = int(x.shape[axis]) if x.ndim else 1
        source = info.addition_source if info.target and port in info.ports else info.source
        return make_tap(recorder, info, source, port, call, path, axis, channels, trace.mode)

    def _reserve(self, recorder: Recorder, tap: Tap) -> str:
        """Return the name of a new buffer for a tap; "" when it has joined another's."""
        trace, buffers, x = recorder.graph.trace, recorder.graph.buffers, shown()
        known = trace.buffer(tap.direction, tap.channel_dim)
        if known is not None:
            buffers.join(known, tap)
            return ""
        channels = tap.channels
        kind, shape = ("table", (channels, ROWS)) if runs_native(x) else ("sums", (ROWS, channels))
        name = buffers.reserve(trace.graph, kind, tap, shape, sums_type(x), x.device)
        trace.put(tap.direction, tap.channel_dim, name)
        return name

    def _warn_of_metrics(self, recorder: Recorder) -> None:
        if recorder.metrics is not None and "metrics" not in recorder.graph.warned:
            recorder.graph.warned.add("metrics")
            warnings.warn(
                f"the metrics {recorder.metrics.names} are functions of your own and are missing "
                f"where code is compiled. {EAGER}",
                ProbeWarning,
                stacklevel=2,
            )

    def can_read(self, x: Tensor) -> bool:
        """Return whether a tensor of the graph can be read."""
        show(x)
        return self.can_read_shown()

    @at_trace_time(otherwise=False)
    def can_read_shown(self) -> bool:
        """Return whether the tensor that was shown can be read."""
        return bool(readable(shown()))  # with dynamic shapes it is a symbol

    # --- additions ------------------------------------------------------------------------

    def trace_operands(self, args: tuple[object, ...]) -> None:
        """Take the operands of an addition, and how they correlate."""
        call = self.begin_addition()
        operands = dict(zip(self._info.ports, args, strict=False))
        for port, operand in operands.items():
            self.trace_value(operand, port, call)
        skip, branch = operands.get("skip"), operands.get("branch")
        if isinstance(skip, Tensor) and isinstance(branch, Tensor):
            if not (self.can_read(skip) and self.can_read(branch)):
                return
            plan = self.plan_products(call)
            if plan:
                way, name = plan.split(",")
                add = getattr(torch.ops.sigprop, way)
                add(getattr(BUFFERS, name), skip.detach(), branch.detach())

    @at_trace_time(otherwise=False)
    def is_addition(self) -> bool:
        """Return whether the module is the addition of a block."""
        return bool(self._info.ports and self._info.target)

    @at_trace_time(otherwise=0)
    def begin_addition(self) -> int:
        """Return how often the block has added so far, and count."""
        calls, addition = self.living().graph.trace.calls, f"{self._info.target} +"
        calls[addition] += 1
        return calls[addition] - 1

    @at_trace_time(otherwise="")
    def plan_products(self, call: int) -> str:
        """Return the operator and the buffer for products with a branch, which was shown last."""
        recorder, x = self.living(), shown()
        tap = self._tap_of_shown(recorder, "branch", call, "")
        at = (tap, (PRODUCTS,), sums_type(x), x.device)
        way = "add_products_native" if runs_native(x) else "add_products"
        graph = recorder.graph
        return f"{way},{graph.buffers.reserve(graph.trace.graph, 'products', *at)}"

    # --- calls ----------------------------------------------------------------------------

    @at_trace_time(otherwise=-1)
    def entered(self) -> int:
        """Return the number of this call, -1 if the inputs are none of a block.

        Warns once of what only an eager forward shows.
        """
        recorder, module = self.living(), self.module()
        children = list(module.children())
        records_own_output = not children or any(hasattr(child, "ports") for child in children)
        warned = recorder.graph.warned
        if not (records_own_output or "functions" in warned) and adds(module):
            warned.add("functions")
            warnings.warn(
                f"{type(module).__name__} ({self._info.name}) adds in code that is compiled: "
                "operands of additions that are no modules, and functional rectifiers, are "
                f"recorded in eager steps only. {EAGER}",
                ProbeWarning,
                stacklevel=2,
            )
        return recorder.graph.trace.calls[self._info.name] if self._info.is_target else -1

    @at_trace_time(otherwise=-1)
    def made(self) -> int:
        """Return the number of this call, -1 if the output is not recorded.

        Notes what makes channels.
        """
        recorder, name, module = self.living(), self._info.name, self.module()
        trace = recorder.graph.trace
        call = trace.calls[name]
        trace.calls[name] += 1
        recorder.log.total_calls[name] += 1
        trace.maker = made_by(module) or trace.maker
        return call if self._info.is_target or self._info.inner_rectifier else -1


def sums_type(x: Tensor) -> torch.dtype:
    """Return the type that sums of ``x`` are kept in."""
    return torch.float64 if runs_native(x) else wide_type(x.dtype)
