"""What private parts of PyTorch are used for, and what is lost where one is gone.

`sigprop.capture.torch_internals` is where they are used; each is an entry here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch

from sigprop.errors import ProbeWarning


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
    "structure": Internal(
        ("torch.nn.Module._parameters", "torch.nn.Module._modules"),
        _ALL,
        "named_parameters() walks over the whole model at every step",
        "the parameters of the model are looked for anew at every step",
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
    "ranks": Internal(
        (
            "torch.distributed.distributed_c10d._get_default_store",
            "torch.distributed.distributed_c10d.ProcessGroupGloo",
        ),
        _ALL,
        "torch.distributed.new_group counts the groups of a process: made on some ranks only, it "
        "has training's own groups go by other names there, and hang",
        "each rank records its own part of the batch",
    ),
    "calls": Internal(
        ("torch.nn.Module._call_impl",),
        _ALL,
        "a KeyboardInterrupt ends a forward without calling its hooks, also those always called",
        "after a KeyboardInterrupt inside a forward, functions outside of the model are recorded",
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
        "hooks registered after a model was compiled are silently skipped (pytorch#117758)",
        "that a model is compiled is not noticed",
    ),
    "hook guards": Internal(
        ("torch._dynamo.config.skip_nnmodule_hook_guards",),
        _ALL,
        "compiled graphs do not depend on hooks by default (pytorch#117758, #115750)",
        "a model that was compiled and run before the probe was attached is not recorded",
    ),
    "forgetting graphs": Internal(
        (
            "torch._dynamo.convert_frame.input_codes",
            "torch._dynamo.eval_frame._debug_get_cache_entry_list",
            "torch._dynamo.eval_frame.reset_code",
            "torch._dynamo.guards.DeletedGuardManagerWrapper",
        ),
        _ALL,
        "the public torch.compiler.reset() loses every compiled graph of the process, and a graph "
        "made before hooks were registered skips them (pytorch#117758)",
        "a model that was compiled and run before the probe was attached is not recorded, unless "
        "torch.compiler.reset() is called",
    ),
    "tracing": Internal(
        (
            "torch._dynamo.comptime.comptime",
            "torch._dynamo.comptime.ComptimeContext."
            "_i_will_not_complain_if_bc_breaks_InstructionTranslator",
            "function._dynamo_marked_constant",
        ),
        _ALL,
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
    """Note that an entry failed, and say once what is lost.

    Args:
        entry: its name in `INTERNALS`.
        error: what was raised.
    """
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


def switched_off(entry: str) -> bool:
    """Return whether an entry failed or is missing."""
    return entry in _State.off


def missing(entry: str, error: BaseException) -> None:
    """Note that an entry was found missing when sigprop was imported; said by `warn_of_missing`.

    Args:
        entry: its name in `INTERNALS`.
        error: what was raised.
    """
    _State.off.setdefault(entry, f"{type(error).__name__}: {error}")


def warn_of_missing() -> None:
    """Say once of each entry that was found missing when sigprop was imported."""
    for entry in [entry for entry in _State.off if entry not in _State.warned]:
        switch_off(entry, AttributeError())
