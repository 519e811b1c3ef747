"""Says of every module whether it was recorded, and if not, why: a probe is never silent."""

from __future__ import annotations

from collections.abc import Container

from torch import nn

from sigprop.capture.naming import modules
from sigprop.capture.recorder import Recorder


def coverage(
    model: nn.Module,
    targets: Container[str],
    recorder: Recorder,
    forward: Container[str],
    backward: Container[str],
) -> list[dict[str, object]]:
    """Return one row per module, in the model's own order.

    Args:
        model: the probed model.
        targets: names of the modules chosen as blocks.
        recorder: knows how often each module was called.
        forward: names of the modules with at least one activation recorded.
        backward: names of the modules with at least one gradient recorded.
    """
    rows = []
    for name, module in modules(model):
        calls = recorder.total_calls[name]
        reason = _reason(name in targets, calls, name in forward, _forwardless(module))
        if recorder.broken and name in targets:
            reason = f"the probe failed and is off: {recorder.broken}"
        rows.append(
            {
                "name": name,
                "type": type(module).__name__,
                "recorded": name in forward,
                "calls": calls,
                "gradient": _gradient(name, name in targets, recorder, forward, backward),
                "reason": reason,
            }
        )
    return rows


def _forwardless(module: nn.Module) -> bool:
    return type(module).forward is nn.Module.forward


def _reason(target: bool, calls: int, recorded: bool, forwardless: bool) -> str:
    if recorded:
        return ""
    if forwardless:
        return "a container without a forward of its own"
    if not calls:
        return "never called in a recorded step (or its forward was called directly)"
    if not target:
        return "not selected by blocks"
    return "returned no non-empty real floating-point tensor"


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
    if not target:
        return "not asked: a rectifier inside a block is read for its dead units"
    if name in recorder.without_gradient:
        return "none by design: nothing before it requires a gradient"
    return "none seen"
