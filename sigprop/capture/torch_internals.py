"""Says whether a forward is an ordinary one: not a recomputation, not under a transform."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

#: Whether a compiler can trace hooks on a tensor's gradient into a graph. Seen to work from 2.13.
TRACEABLE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)

_FAKE, _PROXY = torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY


def recomputing() -> bool:
    """Return whether a backward pass is running: then activation checkpointing calls the model."""
    return torch._C._current_graph_task_id() != -1


def transforming() -> str | None:
    """Return what makes the tensors of this moment unreadable, or None."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "under a torch.func transform"
    if torch._C._get_tracing_state() is not None:
        return "while being traced"
    mode = torch._C._get_dispatch_mode  # written out: this is asked at every hook
    if mode(_FAKE) is not None or mode(_PROXY) is not None:
        return "with fake tensors, while being traced"
    return None


def graph_being_made() -> bool:
    """Return whether a compiler traces this moment into a graph of which it can have our taps.

    What is exported runs elsewhere, without a recorder.
    """
    return TRACEABLE and torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


def compiled(module: nn.Module) -> bool:
    """Return whether a module runs as compiled code."""
    dynamo = sys.modules.get("torch._dynamo")  # not imported: nothing has been compiled
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return True
    return getattr(module, "_compiled_call_impl", None) is not None


def ordinary(x: Tensor) -> bool:
    """Return whether a tensor holds its own numbers: not fake, not a wrapper (DTensor and such)."""
    if type(x) is Tensor:
        return True
    return not isinstance(x, FakeTensor) and not is_traceable_wrapper_subclass(x)


class HookGuards:
    """Makes compilers notice hooks; process-wide, on while a probe is attached.

    A graph made before a hook was put on, or for another model of the same class, is used again by
    default as if there was none.
    """

    def __init__(self) -> None:
        self._skipped: bool | None = None

    def on(self) -> None:
        """Have every graph that is made from now on depend on its modules' hooks."""
        config = getattr(sys.modules.get("torch._dynamo"), "config", None)
        if config is not None and self._skipped is None:
            self._skipped = config.skip_nnmodule_hook_guards
            config.skip_nnmodule_hook_guards = False

    def off(self) -> None:
        """Restore what was set."""
        if self._skipped is not None:
            sys.modules["torch._dynamo"].config.skip_nnmodule_hook_guards = self._skipped
            self._skipped = None

    def forget_graphs(self) -> None:
        """Let go of the graphs that were made without these guards."""
        if "torch._dynamo" in sys.modules and self._skipped is None:
            torch.compiler.reset()


HOOK_GUARDS = HookGuards()
