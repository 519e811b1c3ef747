"""The one door to private torch: nothing else in sigprop touches what PyTorch may change unasked.

Each use is an entry of `sigprop.capture.internals`: in which versions it was seen to work, why
there is no public way, and what is lost where it is gone. Where it is gone, or fails, that one
thing is switched off with one warning, and the function here returns what it would return in an
ordinary forward pass in eager mode.

Process-wide while a probe is attached: `torch._dynamo.config.skip_nnmodule_hook_guards` is False,
once a compiler was imported (see `sigprop.capture.hooks.compiled_graphs`), so that graphs made
meanwhile depend on their modules' hooks. Graphs of other models stay.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from operator import attrgetter
from types import CodeType
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from sigprop.capture.internals import INTERNALS, missing, switch_off, switched_off
from sigprop.torch_version import VERSION

F = TypeVar("F", bound=Callable[..., Any])


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
        missing(entry, error)
        return otherwise
    if found is None:
        missing(entry, AttributeError(f"{name} is None"))
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


#: What `interruption` says while activation checkpointing runs a forward again.
RECOMPUTED = "recomputed"


def interruption() -> str | None:
    """Return why this is no ordinary forward pass: `RECOMPUTED`, or as `transforming`; or None.

    Both questions in one call, since it is asked at every hook.
    """
    try:
        if torch._C._functorch.peek_interpreter_stack() is None is torch._C._get_tracing_state():
            mode = torch._C._get_dispatch_mode
            if mode(_FAKE) is None is mode(_PROXY):
                return None if torch._C._current_graph_task_id() == -1 else RECOMPUTED
    except Exception:  # either says what is missing
        pass
    return transforming() or (RECOMPUTED if recomputing() else None)


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


_CALL = getattr(_found("calls", "torch.nn.Module._call_impl", None), "__code__", None)
_CHECKPOINT = CheckpointFunction.forward.__code__
_RECOMPUTATION = CheckpointFunction.backward.__code__


def calling(modules: frozenset[int]) -> bool:
    """Return whether a call of one of these modules, by id, is on this thread's stack."""
    frame = inspect.currentframe() if _CALL is not None else None
    while frame is not None:
        if frame.f_code is _CALL and id(frame.f_locals.get("self")) in modules:
            return True
        frame = frame.f_back
    return _CALL is None


def reentrant_checkpoints() -> tuple[object | None, object | None]:
    """Return which reentrant checkpoints are at work on this thread's stack.

    Returns:
        The one that runs its function for the first time, without gradients, the outermost of
        several; and the one that runs it again around that, the innermost. None where none is.
    """
    running = None
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is _CHECKPOINT:
            running = frame.f_locals.get("ctx")
        elif frame.f_code is _RECOMPUTATION:
            return running, frame.f_locals.get("ctx")
        frame = frame.f_back
    return running, None


def checkpointing() -> bool:
    """Return whether reentrant checkpointing runs a forward for the first time: no gradients."""
    return reentrant_checkpoints()[0] is not None


def is_replica(module: nn.Module) -> bool:
    """Return whether a module is one of the copies that nn.DataParallel makes for a forward."""
    return bool(getattr(module, "_is_replica", False))


# --- modes on the stack of functions ----------------------------------------------------------


def push_mode(mode: TorchFunctionMode) -> None:
    """Make a mode active in this thread, unless it could not be taken off again."""
    if switched_off("own arithmetic"):
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
    """Have ``act`` called when the backward pass that runs now ends; return whether it will be.

    Returns:
        False where torch has no such callback.
    """
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


class Structure:
    """Which modules and parameters a model is made of, and whether it still is.

    To walk over `nn.Module.named_parameters` at every step takes longer than to read the norms of
    small parameters.

    Args:
        model: the model; its modules are held weakly.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts: list[tuple[weakref.ref[nn.Module], list[int], list[int]]] | None = None
        try:
            self._parts = [(weakref.ref(module), *_parts(module)) for module in model.modules()]
        except AttributeError as error:
            switch_off("structure", error)

    def same(self) -> bool:
        """Return whether no module and no parameter was added, replaced or taken away."""
        if self._parts is None:
            return False
        for known, parameters, modules in self._parts:  # written out: asked at every step
            module = known()
            if module is None or list(map(id, module._modules.values())) != modules:
                return False
            if list(map(id, module._parameters.values())) != parameters:
                return False
        return True


def _parts(module: nn.Module) -> tuple[list[int], list[int]]:
    """Return the ids of a module's own parameters and of its children."""
    parameters, modules = module._parameters.values(), module._modules.values()
    return list(map(id, parameters)), list(map(id, modules))


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


def hook_guards_skipped() -> bool | None:
    """Return whether compiled graphs do not depend on hooks; None without a compiler."""
    dynamo = _dynamo()
    try:
        return None if dynamo is None else bool(dynamo.config.skip_nnmodule_hook_guards)
    except Exception as error:
        switch_off("hook guards", error)
        return None


def skip_hook_guards(skip: bool) -> None:
    """Set whether graphs that are made from now on depend on hooks; process-wide."""
    try:
        _dynamo().config.skip_nnmodule_hook_guards = skip
    except Exception as error:
        switch_off("hook guards", error)


class CompiledGraph(NamedTuple):
    """A graph that a compiler keeps.

    Attributes:
        code: the code that it runs in place of.
        entry: the compiler's own record of it.
        guards: what it depends on, as the compiler prints it.
    """

    code: CodeType
    entry: Any
    guards: str


def compiled_graphs() -> list[CompiledGraph]:
    """Return every graph of this process."""
    dynamo = _dynamo()
    if dynamo is None:
        return []
    try:
        seen = [code() for code in dynamo.convert_frame.input_codes.seen]
        entries = dynamo.eval_frame._debug_get_cache_entry_list
        return [
            CompiledGraph(code, entry, str(_guards(entry)))
            for code in seen
            if code is not None
            for entry in entries(code)
        ]
    except Exception as error:
        switch_off("forgetting graphs", error)
        return []


def discard(graphs: Sequence[CompiledGraph]) -> None:
    """Have the compiler forget graphs; it makes them anew when their code runs again."""
    try:
        for code in {graph.code for graph in graphs}:
            mine = [graph.entry for graph in graphs if graph.code is code]
            if len(mine) == len(_dynamo().eval_frame._debug_get_cache_entry_list(code)):
                _dynamo().eval_frame.reset_code(code)  # with what it has learned of the code
                continue
            for entry in mine:
                _discard(entry)
    except Exception as error:
        switch_off("forgetting graphs", error)


def forget_skipped(codes: Callable[[CodeType], bool]) -> None:
    """Have the compiler decide anew on code that it chose to leave to Python.

    Args:
        codes: which; code of which it has made a graph stays as it is.
    """
    dynamo = _dynamo()
    if dynamo is None:
        return
    try:
        for code in [code() for code in dynamo.convert_frame.input_codes.seen]:
            if code is None or not codes(code):
                continue
            if not dynamo.eval_frame._debug_get_cache_entry_list(code):
                dynamo.eval_frame.reset_code(code)
    except Exception as error:
        switch_off("forgetting graphs", error)


def _guards(entry: Any) -> Any:
    return entry.guard_manager if VERSION >= (2, 6) else entry.check_fn


def _discard(entry: Any) -> None:
    guards = _guards(entry)
    if VERSION < (2, 6):
        guards.extra_state.invalidate(guards.cache_entry)
        return
    gone = _dynamo().guards.DeletedGuardManagerWrapper("a probe was attached to its model")
    guards.extra_state.invalidate(guards.cache_entry, gone)


# --- a graph that is being made ---------------------------------------------------------------

#: Whether a compiler can trace our hooks into a graph, as far as versions were tried.
TRACEABLE = INTERNALS["tracing"].versions[0] <= VERSION <= INTERNALS["tracing"].versions[1]
_SAYS_EXPORTING = hasattr(torch.compiler, "is_exporting")  # from 2.7


def graph_being_made() -> bool:
    """Return whether a compiler traces this moment into a graph of which it can have our taps.

    What is exported runs elsewhere, without a recorder.
    """
    if not TRACEABLE or not torch.compiler.is_dynamo_compiling():
        return False
    return not (_SAYS_EXPORTING and torch.compiler.is_exporting())


def at_trace_time(function: F) -> F:
    """Mark a function as called once, when traced; its result is a constant of the graph.

    Returns:
        The function itself.
    """
    # What torch.compiler.assume_constant_result does, without importing the compiler for it.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Shown:
    """The last that the compiler showed; one for all, since it compiles one thing at a time."""

    graph: weakref.ref[Any] | None = None
    code: CodeType | None = None
    x: Tensor | None = None
    exported = False


def show_graph() -> None:
    """Show the graph that is being made to Python at trace time; part of traced code."""
    from torch._dynamo.comptime import comptime  # only where somebody compiles

    comptime(_hold_graph)


def show(x: Tensor) -> None:
    """Show a tensor of the graph that is being made to Python; part of traced code."""
    from torch._dynamo.comptime import comptime

    comptime(_hold)


def _hold_graph(context: Any) -> None:
    Shown.graph = Shown.code = None
    try:
        translator = context._i_will_not_complain_if_bc_breaks_InstructionTranslator()
        # Not its fx.Graph: a checkpointed part has one of its own.
        graph = translator.output
        Shown.graph, Shown.code = weakref.ref(graph), graph.root_tx.f_code
        Shown.exported = bool(graph.export)
    except Exception as error:
        switch_off("tracing", error)


def _hold(context: Any) -> None:
    Shown.x = None
    try:
        Shown.x = context.get_local("x").as_fake()
    except Exception as error:
        switch_off("tracing", error)


# --- many processes ---------------------------------------------------------------------------


def rendezvous(name: str) -> Any:
    """Return keys and values that all ranks share, apart from those of training.

    Args:
        name: the same on ranks that meet; no others see these keys.

    Returns:
        None where torch has no such thing.
    """
    try:
        store = dist.distributed_c10d._get_default_store()
        return dist.distributed_c10d.PrefixStore(name, store)
    except Exception as error:
        switch_off("ranks", error)
        return None


def gloo_group(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """Return a process group that torch.distributed does not know of.

    Args:
        store: from `rendezvous`.
        rank: of this process.
        size: how many ranks there are.
        timeout: of each of its collectives.
    """
    return dist.distributed_c10d.ProcessGroupGloo(store, rank, size, timeout)
