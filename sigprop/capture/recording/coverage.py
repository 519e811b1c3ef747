"""Says of every module whether it was recorded, and if not, why: a probe is never silent."""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from torch import nn

from sigprop.capture.model.naming import ROOT, aliases, modules
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.torch_internals import compiled

SCRIPTED = "a ScriptModule cannot be hooked; probe the Python module it was made from"
BYPASSED = "not callable: nn.MultiheadAttention uses its weight directly"
DIRECT = "never called as a module, yet its weights have gradients: its forward is bypassed"
FUSED = "not called: PyTorch ran the whole encoder layer as one fused function"
COMPILED = "compiled, and no graph was traced; use torch.compiler.set_stance('force_eager')"


def coverage(
    model: nn.Module,
    targets: Container[str],
    recorder: Recorder,
    forward: Container[str],
    backward: Container[str],
) -> list[dict[str, object]]:
    """Return one row per module, in the model's own order, and one per function and alias.

    Args:
        model: the probed model.
        targets: names of the modules chosen as blocks.
        recorder: knows how often each module was called.
        forward: names of the modules with at least one activation recorded.
        backward: names of the modules with at least one gradient recorded.
    """
    everything = dict(modules(model))
    called: dict[str, list[str]] = {}
    for function, place in recorder.functions.items():
        called.setdefault(place, []).append(function)

    def row(name: str, kind: str, reason: str) -> dict[str, object]:
        return {
            "name": name,
            "type": kind,
            "recorded": name in forward,
            "calls": recorder.total_calls[name],
            "gradient": _gradient(name, name in targets, recorder, forward, backward),
            "reason": reason,
        }

    def rows() -> Iterator[dict[str, object]]:
        for name, module in everything.items():
            reason = _reason(name, everything, targets, recorder, forward)
            if not recorder.total_calls[name] and compiled(model):
                reason = COMPILED
            yield row(name, type(module).__name__, reason)
            for function in called.get(name, ()):
                yield row(function, "function", "")
        for name, known, module in aliases(model):
            yield row(name, type(module).__name__, f"another name of {known!r}, recorded there")

    return list(rows())


def _reason(
    name: str,
    everything: dict[str, nn.Module],
    targets: Container[str],
    recorder: Recorder,
    forward: Container[str],
) -> str:
    module = everything[name]
    if recorder.broken and name in targets:
        return f"the probe failed and is off: {recorder.broken}"
    if name in forward:
        return ""
    if isinstance(module, torch.jit.ScriptModule):
        return SCRIPTED
    if type(module).forward is nn.Module.forward:
        return "a container without a forward of its own"
    if not recorder.total_calls[name]:
        return _why_not_called(name, module, everything, recorder)
    if name not in targets:
        return "not selected by blocks"
    return "returned no non-empty real floating-point tensor"


def _why_not_called(
    name: str, module: nn.Module, everything: dict[str, nn.Module], recorder: Recorder
) -> str:
    above = [everything[n] for n in _ancestors(name) if n in everything]
    if above and isinstance(above[0], nn.MultiheadAttention):
        return BYPASSED
    if any(compiled(m) for m in (module, *above)):
        return COMPILED
    transformed = [p for p in recorder.passed_by if p.startswith(f"{name}: ")]
    if transformed:
        return f"called only {transformed[0].removeprefix(f'{name}: ')}, where nothing can be read"
    for ancestor in above:
        if isinstance(ancestor, nn.TransformerEncoderLayer) and not ancestor.training:
            return FUSED
    if any(p.grad is not None for p in module.parameters(recurse=False)):
        return DIRECT
    return "never called in a recorded step (or its forward was called directly)"


def _ancestors(name: str) -> Iterator[str]:
    """Yield the names of the modules around ``name``, the nearest first."""
    while name and name != ROOT:
        name = name.rpartition(".")[0]
        yield name or ROOT


def _gradient(
    name: str,
    target: bool,
    recorder: Recorder,
    forward: Container[str],
    backward: Container[str],
) -> str:
    if name in backward:
        return "recorded"
    if name not in forward:
        return ""
    if name in recorder.without_gradient:
        return "none by design: nothing before it requires a gradient"
    if not target:
        return "not asked: a rectifier inside a block is read for its dead units"
    return "none seen"
