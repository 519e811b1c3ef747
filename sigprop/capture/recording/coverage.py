"""Says of every module whether it was recorded, and if not, why: a probe is never silent."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Literal

from torch import nn

from sigprop.capture.model.blocks import CONTAINER, EXPORTED, SCRIPTED, unread
from sigprop.capture.model.naming import ROOT, aliases, modules
from sigprop.capture.recording.module_log import ModuleLog
from sigprop.capture.torch_internals import compiled
from sigprop.torch_version import RUN_EAGERLY

#: What became of a module, as a code.
Status = Literal[
    "recorded",
    "not_chosen",
    "container",
    "never_called",
    "called_directly",
    "no_gradient",
    "scripted",
    "fused",
    "unsupported",
    "failed",
]
#: Status and reason of a module.
State = tuple[Status, str]

BYPASSED = "not callable: nn.MultiheadAttention uses its weight directly"
DIRECT = "never called as a module, yet its weights have gradients: its forward is bypassed"
FUSED = "not called: PyTorch ran the whole encoder layer as one fused function"
UNCALLED = "never called in a recorded step (or its forward was called directly)"
COMPILED = f"compiled, and no graph was traced; run the steps to record {RUN_EAGERLY}"
RECORDED: State = "recorded", ""
UNREADABLE: State = "unsupported", "returned no non-empty real floating-point tensor"
NO_GRADIENT = "none: all before it is frozen, or cut off by detach or no_grad"
UNSEEN = "none seen"
MISSED = (
    "reentrant checkpointing runs it again outside of any module that is watched; with "
    "use_reentrant=False it is recorded"
)


def coverage(
    model: nn.Module,
    targets: Container[str],
    log: ModuleLog,
    forward: Container[str],
    backward: Container[str],
    made: Container[str],
) -> list[dict[str, object]]:
    """Return one row per module, in the model's own order, and one per function and alias.

    Args:
        model: the probed model.
        targets: names of the modules chosen as blocks.
        log: which modules were called, and how often.
        forward: names of the modules with at least one activation recorded.
        backward: names of the modules with at least one gradient recorded.
        made: names of the modules with at least one output recorded.
    """
    everything = dict(modules(model))
    states = {name: _state(name, everything, targets, log, forward, made) for name in everything}
    called: dict[str, list[str]] = {}
    for function, module in log.functions.items():
        called.setdefault(module, []).append(function)

    def row(name: str, kind: str, status: Status, reason: str) -> dict[str, object]:
        """Return the row of a module or function."""
        gradient = _gradient(name, name in targets, log, forward, backward)
        if status == "recorded" and gradient.startswith((NO_GRADIENT, UNSEEN)):
            status = "no_gradient"
        return {
            "name": name,
            "type": kind,
            "recorded": name in forward,
            "status": status,
            "calls": log.total_calls[name],
            "gradient": gradient,
            "reason": reason,
        }

    def rows() -> Iterator[dict[str, object]]:
        """Yield modules in their order, each with its functions, then aliases."""
        for name, module in everything.items():
            status, reason = states[name]
            if not log.total_calls[name] and compiled(model):
                status, reason = "unsupported", COMPILED
            yield row(name, type(module).__name__, status, reason)
            for function in called.get(name, ()):
                state = RECORDED if function in forward else UNREADABLE
                yield row(function, "function", *state)
        for name, known, module in aliases(model):
            reason = f"another name of {known!r}, recorded there"
            yield row(name, type(module).__name__, "not_chosen", reason)

    return list(rows())


def _state(
    name: str,
    everything: dict[str, nn.Module],
    targets: Container[str],
    log: ModuleLog,
    forward: Container[str],
    made: Container[str],
) -> State:
    module = everything[name]
    if log.broken and name in targets:
        return "failed", f"the probe failed and is off: {log.broken}"
    if name in made:
        return RECORDED
    if name in forward:
        return UNREADABLE if name in targets and log.total_calls[name] else RECORDED
    reason = unread(module)
    if reason == SCRIPTED:
        return "scripted", reason
    if reason == CONTAINER:
        return "container" if name in targets else "not_chosen", reason
    if reason is not None:
        status: Status = "unsupported" if name in targets or reason == EXPORTED else "not_chosen"
        return status, reason
    if not log.total_calls[name]:
        return _why_not_called(name, module, everything, log)
    if name not in targets:
        return "not_chosen", "not selected by blocks"
    return UNREADABLE


def _why_not_called(
    name: str, module: nn.Module, everything: dict[str, nn.Module], log: ModuleLog
) -> State:
    above = [everything[n] for n in _ancestors(name) if n in everything]
    if above and isinstance(above[0], nn.MultiheadAttention):
        return "unsupported", BYPASSED
    if any(compiled(m) for m in (module, *above)):
        return "unsupported", COMPILED
    transformed = [p for p in log.passed_by if p.startswith(f"{name}: ")]
    if transformed:
        how = transformed[0].removeprefix(f"{name}: ")
        return "unsupported", f"called only {how}, where nothing can be read"
    for ancestor in above:
        if isinstance(ancestor, nn.TransformerEncoderLayer) and not ancestor.training:
            return "fused", FUSED
    if any(p.grad is not None for p in module.parameters(recurse=False)):
        return "called_directly", DIRECT
    return "never_called", UNCALLED


def _ancestors(name: str) -> Iterator[str]:
    """Yield the names of the modules around ``name``, the nearest first."""
    while name and name != ROOT:
        name = name.rpartition(".")[0]
        yield name or ROOT


def _gradient(
    name: str,
    target: bool,
    log: ModuleLog,
    forward: Container[str],
    backward: Container[str],
) -> str:
    if name in backward:
        return f"recorded in part: {MISSED}" if name in log.not_recomputed else "recorded"
    if name not in forward:
        return ""
    if name in log.without_gradient:
        return NO_GRADIENT
    if not target:
        return "not asked: a rectifier inside a block is read for its dead units"
    return f"{UNSEEN}: {MISSED}" if name in log.not_recomputed else UNSEEN
