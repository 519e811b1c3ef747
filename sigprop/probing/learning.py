"""Learns a model's blocks from one forward pass of a copy of it, before anything is recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sigprop.capture import Blocks, choose, trace_calls
from sigprop.capture.model.naming import bare, modules
from sigprop.capture.torch_internals import compiled
from sigprop.inputs.calling import call
from sigprop.inputs.devices import kept_random_state
from sigprop.inputs.factories import copied


def learned(model: nn.Module, batch: Any, blocks: Blocks, device: torch.device) -> Blocks:
    """Return what ``"auto"`` chooses for a model by its call tree; other choices as they are.

    A model that cannot be copied, or run here, is left to the rules that need no forward pass; what
    is wrong with it is said when it is measured.

    Args:
        model: it is not touched.
        batch: its inputs.
        blocks: what was asked for.
        device: where both are.
    """
    if not (isinstance(blocks, str) and blocks == "auto"):
        return blocks
    if any(compiled(module) for module in model.modules()):
        return blocks
    try:
        twin = copied(bare(model))
        with kept_random_state(device), torch.no_grad():
            tree = trace_calls(twin, lambda: call(twin, batch))
    except Exception:
        return blocks
    return choose(dict(modules(twin)), tree)
