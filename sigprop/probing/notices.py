"""Warnings of what a probe cannot see: of a model before it is recorded, and of a training loop."""

from __future__ import annotations

import warnings
from collections.abc import Container

from torch import nn
from torch.optim import Optimizer

from sigprop.capture.hooks.trial import can_trace
from sigprop.capture.model.blocks import EXPORTED, SCRIPTED, unread
from sigprop.capture.model.naming import modules
from sigprop.capture.parameters.sharded import flattened, sharded
from sigprop.capture.torch_internals import compiled
from sigprop.errors import ProbeWarning
from sigprop.probing.optimizer_hooks import parameters_of
from sigprop.torch_version import RUN_EAGERLY

_UNCOMPILE = (
    f"Where code is compiled and nothing is read: run the steps to record {RUN_EAGERLY}, or train "
    "the model uncompiled while probing"
)


def warn_of_compiled(model: nn.Module) -> None:
    """Warn of a compiled model where this torch's compiler cannot trace the probe."""
    if any(compiled(module) for module in model.modules()) and not can_trace():
        warnings.warn(f"this model is compiled. {_UNCOMPILE}", ProbeWarning, stacklevel=4)


def warn_of_unread(model: nn.Module) -> None:
    """Warn of modules that take no hooks: scripted ones, and what `torch.export` leaves."""
    found = {name: unread(module) for name, module in modules(model)}
    blind = {name: reason for name, reason in found.items() if reason in (SCRIPTED, EXPORTED)}
    if blind:
        name, reason = next(iter(blind.items()))
        warnings.warn(
            f"{len(blind)} of {len(found)} modules of this model cannot be read, {name!r} first: "
            f"{reason}",
            ProbeWarning,
            stacklevel=4,
        )


def warn_of_parts(model: nn.Module) -> None:
    """Warn of parameters that are spread over ranks where no optimizer says when they are read."""
    if flattened(model) or any(sharded(p) for p in model.parameters()):
        warnings.warn(
            "parameters of this model are spread over ranks, and are recorded at an optimizer's "
            "step: give attach the optimizer to have their norms",
            ProbeWarning,
            stacklevel=4,
        )


def warn_of_optimizer(optimizer: Optimizer, own: Container[int]) -> None:
    """Warn of an optimizer that trains another model.

    Args:
        optimizer: the one that steps.
        own: ids of the probed model's parameters.
    """
    if any(id(p) in own for p in parameters_of(optimizer)):
        return
    warnings.warn(
        f"the {type(optimizer).__name__} given to attach holds no parameter of the probed "
        "model, so no update is recorded; give attach the optimizer that trains the model",
        ProbeWarning,
        stacklevel=3,
    )


def warn_of_silence() -> None:
    """Warn that a recorded step ends in which no forward pass was seen."""
    warnings.warn(
        "a recorded step ends and no forward of the probed model was seen: it runs as compiled "
        f"code, or another object is trained. {_UNCOMPILE}",
        ProbeWarning,
        stacklevel=3,
    )
