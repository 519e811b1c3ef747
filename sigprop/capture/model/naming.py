"""Names as the bare model has them, whatever wraps it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized

from sigprop.capture.torch_internals import wrapped_by_compiler

ROOT = "(model)"

# What torch.compile, FSDP and activation checkpointing put between a parent and its child.
_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.?")


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of data parallelism and of `torch.compile`."""
    while True:
        inner: object
        if isinstance(model, DataParallel | DistributedDataParallel):
            inner = model.module
        else:
            inner = wrapped_by_compiler(model)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@cache  # every parameter is named at every step
def clean(name: str) -> str:
    """Return a module's or parameter's name without wrapper segments; the root is ``(model)``.

    Example:
        >>> clean("_orig_mod.layer1._checkpoint_wrapped_module.weight"), clean("")
        ('layer1.weight', '(model)')
    """
    return _WRAPPERS.sub("", name).rstrip(".") or ROOT


def modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield ``(clean name, module)`` once per module, wrappers named by what they wrap.

    Parametrizations are left out: what they return are weights, not activations; and so is what
    keeps the weights of a quantized layer, which is never called.
    """
    hidden: list[str] = []
    seen: set[str] = set()
    for raw, module in bare(model).named_modules():
        if is_parametrized(module):
            hidden.append(f"{raw}.parametrizations" if raw else "parametrizations")
        if raw.startswith(tuple(hidden)) or raw.rpartition(".")[2] == "_packed_params":
            continue
        name = clean(raw)
        if name not in seen:  # the wrapper comes first; it is what gets called
            seen.add(name)
            yield name, module


def aliases(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield ``(clean name, name in `modules`, module)`` for every second name of a module."""
    first = {id(module): name for name, module in modules(model)}
    for raw, module in bare(model).named_modules(remove_duplicate=False):
        name, known = clean(raw), first.get(id(module))
        if known is not None and name != known and "parametrizations" not in name:
            yield name, known, module


def parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield ``(clean name, parameter)``, a shared parameter once."""
    for raw, parameter in bare(model).named_parameters():
        yield clean(raw), parameter
