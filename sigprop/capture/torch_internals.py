"""The one door to private torch: nothing else in sigprop touches what PyTorch may change unasked.

Each entry of `INTERNALS` says what is used, in which versions it was seen to work, why there is no
public way, and what is lost where it is gone. Where it is gone, or fails, that one thing is
switched off with one warning, and the function here returns what it would return in an ordinary
forward pass in eager mode.

Process-wide while a probe is attached: `torch._dynamo.config.skip_nnmodule_hook_guards` is False,
once a compiler was imported (see `HookGuards`). Nothing else is changed for other models.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from operator import attrgetter
from types import CodeType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sigprop.errors import ProbeWarning
from sigprop.torch_version import VERSION

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Internal:
    """A use of private PyTorch.

    Attributes:
        names: what is used.
        versions: the first and the last version in which it was seen to work.
        reason: why it is used, and the PyTorch issue where there is one.
        without: what is lost where it is gone.
    """

    names: tuple[str, ...]
    versions: tuple[tuple[int, int], tuple[int, int]]
    reason: str
    without: str


_ALL = (2, 5), (2, 15)
_TRACED = (2, 13), (2, 15)

INTERNALS = {
    "recomputation": Internal(
        ("torch._C._current_graph_task_id",),
        _ALL,
        "activation checkpointing runs a forward again inside a backward pass, reentrant or not, "
        "with hooks on and no public sign of it",
        "forwards that activation checkpointing runs again are counted twice",
    ),
    "transforms": Internal(
        (
            "torch._C._functorch.peek_interpreter_stack",
            "torch._C._get_tracing_state",
            "torch._C._get_dispatch_mode",
            "torch._C._TorchDispatchModeKey",
        ),
        _ALL,
        "under torch.func and with fake tensors hooks run on tensors that hold no numbers",
        "a forward under torch.func or with fake tensors switches the probe off",
    ),
    "wrappers": Internal(
        (
            "torch._subclasses.fake_tensor.FakeTensor",
            "torch.utils._python_dispatch.is_traceable_wrapper_subclass",
        ),
        _ALL,
        "a DTensor's numbers lie in another tensor, a fake tensor has none",
        "tensors of every class with a dispatch of its own are left out",
    ),
    "own arithmetic": Internal(
        ("torch._C.DisableTorchFunction",),
        _ALL,
        "the public DisableTorchFunctionSubclass leaves modes on, ours and those of others",
        "functional rectifiers and additions, and attention, are not recorded",
    ),
    "function modes": Internal(
        (
            "torch._C._push_on_torch_function_stack",
            "torch._C._pop_torch_function_stack",
            "torch._C._len_torch_function_stack",
        ),
        _ALL,
        "a forward may raise, or leave another mode on top: a with-block cannot span two hooks",
        "functional rectifiers and additions, and attention, are not recorded",
    ),
    "layers": Internal(
        (
            "torch.nn.modules.conv._ConvNd",
            "torch.nn.modules.conv._ConvTransposeNd",
            "torch.nn.modules.batchnorm._NormBase",
        ),
        _ALL,
        "layers of one's own derive from these bases directly",
        "layers derived from PyTorch's own base classes may need channel_dim=",
    ),
    "versions": Internal(
        ("torch.Tensor._version",),
        _ALL,
        "whether a tensor was written to since it was read is said nowhere else",
        "a tensor that several modules hand on is read once for each of them",
    ),
    "foreach": Internal(
        ("torch._foreach_zero_",),
        _ALL,
        "one launch on an accelerator instead of hundreds",
        "the buffers of compiled graphs are emptied one after the other",
    ),
    "replicas": Internal(
        ("torch.nn.Module._is_replica",),
        _ALL,
        "nn.DataParallel calls copies of the model that are other objects (pytorch#42478)",
        "each replica of nn.DataParallel begins a forward of its own",
    ),
    "end of backward": Internal(
        ("torch.autograd.Variable._execution_engine.queue_callback",),
        _ALL,
        "a compiled forward runs no hook at its start; only its backward pass says that it ended",
        "without an optimizer, a compiled model's step ends at probe.step() only",
    ),
    "loss scale": Internal(
        ("torch.amp.GradScaler._scale",),
        _ALL,
        "the public get_scale() waits for the device at every step",
        "a step that a gradient scaler left out is merged with the next one",
    ),
    "compiled modules": Internal(
        (
            "torch._dynamo.OptimizedModule",
            "torch._dynamo.eval_frame.OptimizedModule._orig_mod",
            "torch.nn.Module._compiled_call_impl",
        ),
        _ALL,
        "hooks put on after a model was compiled are passed over in silence (pytorch#117758)",
        "that a model is compiled is not noticed",
    ),
    "hook guards": Internal(
        ("torch._dynamo.config.skip_nnmodule_hook_guards",),
        _ALL,
        "compiled graphs do not depend on hooks by default (pytorch#117758, #115750)",
        "a model that was compiled and run before the probe was attached is not recorded",
    ),
    "tracing": Internal(
        (
            "torch._dynamo.comptime.comptime",
            "torch._dynamo.comptime.ComptimeContext."
            "_i_will_not_complain_if_bc_breaks_InstructionTranslator",
            "function._dynamo_marked_constant",
        ),
        _TRACED,
        "hooks kept out of graphs break them (pytorch#142358); names and channels are constants "
        "that Python has to work out while a graph is made",
        "compiled code is not recorded",
    ),
}


class _State:
    """What has been found missing, by entry, with the reason; and those warned of."""

    off: ClassVar[dict[str, str]] = {}
    warned: ClassVar[set[str]] = set()


def switch_off(entry: str, error: BaseException) -> None:
    """Note that an entry failed, and say once what is lost."""
    _State.off.setdefault(entry, f"{type(error).__name__}: {error}")
    if entry in _State.warned:
        return
    _State.warned.add(entry)
    internal = INTERNALS[entry]
    warnings.warn(
        f"torch {torch.__version__} is not as sigprop expects it: {internal.without}. "
        f"({' or '.join(internal.names)}: {_State.off[entry]})",
        ProbeWarning,
        stacklevel=3,
    )


def warn_of_missing() -> None:
    """Say once of each entry that was found missing when sigprop was imported."""
    for entry in [entry for entry in _State.off if entry not in _State.warned]:
        switch_off(entry, AttributeError())


def _found(entry: str, name: str, otherwise: Any) -> Any:
    """Return what a name stands for, at import; ``otherwise`` where it is gone."""
    parent, _, last = name.rpartition(".")
    try:
        try:
            found: Any = attrgetter(parent.partition(".")[2])(torch) if "." in parent else torch
        except AttributeError:  # a module that nobody has imported yet
            found = importlib.import_module(parent)
        found = getattr(found, last)
    except (AttributeError, ImportError) as error:
        _State.off.setdefault(entry, f"{type(error).__name__}: {error}")
        return otherwise
    return found


# --- an ordinary forward pass? ----------------------------------------------------------------


def recomputing() -> bool:
    """Return whether a backward pass is running: then activation checkpointing calls the model."""
    try:
        return torch._C._current_graph_task_id() != -1
    except Exception as error:
        switch_off("recomputation", error)
        return False


_KEYS = _found("transforms", "torch._C._TorchDispatchModeKey", None)
_FAKE, _PROXY = getattr(_KEYS, "FAKE", None), getattr(_KEYS, "PROXY", None)


def transforming() -> str | None:
    """Return what makes the tensors of this moment unreadable, or None."""
    try:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return "under a torch.func transform"
        if torch._C._get_tracing_state() is not None:
            return "while being traced"
        mode = torch._C._get_dispatch_mode  # written out: this is asked at every hook
        if mode(_FAKE) is not None or mode(_PROXY) is not None:
            return "with fake tensors, while being traced"
    except Exception as error:
        switch_off("transforms", error)
    return None


_FAKE_TENSOR = _found("wrappers", "torch._subclasses.fake_tensor.FakeTensor", None)
_IS_WRAPPER = _found("wrappers", "torch.utils._python_dispatch.is_traceable_wrapper_subclass", None)
_ORDINARY_DISPATCH = Tensor.__torch_dispatch__


def ordinary(x: Tensor) -> bool:
    """Return whether a tensor holds its own numbers: not fake, not a wrapper (DTensor and such)."""
    if type(x) is Tensor:
        return True
    try:
        return not isinstance(x, _FAKE_TENSOR) and not _IS_WRAPPER(x)
    except Exception as error:
        switch_off("wrappers", error)
        return type(x).__torch_dispatch__ is _ORDINARY_DISPATCH


#: Makes our own arithmetic nobody else's business: no mode and no subclass sees it.
OwnArithmetic: Callable[[], AbstractContextManager[None]] = _found(
    "own arithmetic", "torch._C.DisableTorchFunction", nullcontext
)


def is_replica(module: nn.Module) -> bool:
    """Return whether a module is one of the copies that nn.DataParallel makes for a forward."""
    return bool(getattr(module, "_is_replica", False))


# --- modes on the stack of functions ----------------------------------------------------------


def push_mode(mode: TorchFunctionMode) -> None:
    """Make a mode active in this thread, unless it could not be taken off again."""
    if "own arithmetic" in _State.off:
        return
    try:
        _ = torch._C._pop_torch_function_stack, torch._C._len_torch_function_stack  # for later
        torch._C._push_on_torch_function_stack(mode)
    except Exception as error:
        switch_off("function modes", error)


def remove_mode(mode: TorchFunctionMode) -> None:
    """Take a mode off, wherever on the stack of modes it has come to lie."""
    above = []
    try:
        while torch._C._len_torch_function_stack() > 0:
            top = torch._C._pop_torch_function_stack()
            if top is mode:
                break
            above.append(top)
        for other in reversed(above):
            torch._C._push_on_torch_function_stack(other)
    except Exception as error:
        switch_off("function modes", error)


# --- layers, tensors, autograd ----------------------------------------------------------------

_CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d
_TRANSPOSED = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
_INSTANCE_NORMS = nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d


def _kinds(name: str, *public: type[nn.Module]) -> tuple[type[nn.Module], ...]:
    """Return a base class, or the public classes that derive from it."""
    base = _found("layers", f"torch.nn.modules.{name}", None)
    return public if base is None else (base,)


#: What isinstance asks for: convolutions, transposed ones, batch and instance normalization.
CONVOLUTIONS = _kinds("conv._ConvNd", *_CONVOLUTIONS, *_TRANSPOSED)
TRANSPOSED_CONVOLUTIONS = _kinds("conv._ConvTransposeNd", *_TRANSPOSED)
BATCH_NORMALIZATIONS = _kinds("batchnorm._NormBase", *_NORMS, *_INSTANCE_NORMS)


def _version_of() -> Callable[[Tensor], int]:
    """Return what counts the writes to a tensor; without it nothing is like it was before."""
    if _found("versions", "torch.Tensor._version", None) is not None:
        return attrgetter("_version")  # no call of Python: it is asked at every tap
    counter = itertools.count()
    return lambda x: next(counter)


#: How often a tensor was written to.
version_of = _version_of()


def zero(tensors: list[Tensor]) -> None:
    """Set tensors of one type on one device to 0."""
    try:
        torch._foreach_zero_(tensors)
    except Exception as error:
        switch_off("foreach", error)
        for x in tensors:
            x.zero_()


def after_backward(act: Callable[[], None]) -> bool:
    """Have ``act`` called when the backward pass that runs now ends; return whether it will be."""
    try:
        torch.autograd.Variable._execution_engine.queue_callback(act)
    except Exception as error:
        switch_off("end of backward", error)
        return False
    return True


def scale_of(scaler: torch.amp.GradScaler) -> Tensor | None:
    """Return the tensor in which a scaler keeps its scale; None before it has scaled a loss."""
    scale = getattr(scaler, "_scale", None)
    return scale if isinstance(scale, Tensor) else None


# --- compiled modules -------------------------------------------------------------------------


def _dynamo() -> Any:
    """Return the compiler, if anybody has imported it; until then nothing is compiled."""
    return sys.modules.get("torch._dynamo")


def compiled(module: nn.Module) -> bool:
    """Return whether a module runs as compiled code."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        return True
    return wrapped_by_compiler(module) is not None


def wrapped_by_compiler(module: nn.Module) -> nn.Module | None:
    """Return the module inside a wrapper of `torch.compile`, None if it is no such wrapper."""
    dynamo = _dynamo()
    if dynamo is None:
        return None
    try:
        inner = module._orig_mod if isinstance(module, dynamo.OptimizedModule) else None
    except Exception as error:
        switch_off("compiled modules", error)
        return None
    return inner if isinstance(inner, nn.Module) else None


class HookGuards:
    """Makes compilers notice hooks; process-wide, on while a probe is attached.

    A graph made before a hook was put on, or for another model of the same class, is used again by
    default as if there was none.
    """

    def __init__(self) -> None:
        self._skipped: bool | None = None

    def on(self) -> None:
        """Have every graph that is made from now on depend on its modules' hooks."""
        dynamo = _dynamo()
        if dynamo is None or self._skipped is not None:
            return
        try:
            self._skipped = bool(dynamo.config.skip_nnmodule_hook_guards)
            dynamo.config.skip_nnmodule_hook_guards = False
        except Exception as error:
            switch_off("hook guards", error)

    def off(self) -> None:
        """Restore what was set."""
        if self._skipped is not None:
            _dynamo().config.skip_nnmodule_hook_guards = self._skipped
            self._skipped = None

    def forget_graphs(self) -> None:
        """Let go of the graphs that were made without these guards."""
        if _dynamo() is not None and self._skipped is None:
            torch.compiler.reset()


HOOK_GUARDS = HookGuards()


# --- a graph that is being made ---------------------------------------------------------------

#: Whether a compiler can trace hooks on a tensor's gradient into a graph, as far as was tried.
TRACEABLE = _TRACED[0] <= VERSION <= _TRACED[1]


def graph_being_made() -> bool:
    """Return whether a compiler traces this moment into a graph of which it can have our taps.

    What is exported runs elsewhere, without a recorder.
    """
    return TRACEABLE and torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


def at_trace_time(function: F) -> F:
    """Mark a function as called once, when traced; its result is a constant of the graph."""
    # What torch.compiler.assume_constant_result does, without importing the compiler for it.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Shown:
    """The last that the compiler showed; one for all, since it compiles one thing at a time."""

    graph: weakref.ref[Any] | None = None
    code: CodeType | None = None
    x: Tensor | None = None


def show_graph() -> None:
    """Show the graph that is being made to Python at trace time; part of traced code."""
    from torch._dynamo.comptime import comptime  # only where somebody compiles

    comptime(_hold_graph)


def show(x: Tensor) -> None:
    """Show a tensor of the graph that is being made to Python; part of traced code."""
    from torch._dynamo.comptime import comptime

    comptime(_hold)


def _hold_graph(context: Any) -> None:
    translator = context._i_will_not_complain_if_bc_breaks_InstructionTranslator()
    # Not its fx.Graph: a checkpointed part has one of its own.
    graph = translator.output
    Shown.graph, Shown.code = weakref.ref(graph), graph.root_tx.f_code


def _hold(context: Any) -> None:
    Shown.x = context.get_local("x").as_fake()


def missing() -> Iterable[str]:
    """Return the entries that were switched off in this process."""
    return tuple(_State.off)
