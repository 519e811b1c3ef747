"""Full precision for statistics, and whether values lie in its safe range."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast does not reach operations on ``x``'s device."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type that a real type is computed in: float32, or itself where that is wider.

    PyTorch promotes no type of eight bits.
    """
    return torch.float64 if dtype is torch.float64 else torch.float32


def widened(x: Tensor) -> Tensor:
    """Return ``x`` detached, in float32 or wider."""
    return x.detach().to(wide_type(x.dtype))


def in_safe_range(lowest: Tensor, highest: Tensor) -> bool:
    """Return whether everything between these extremes is finite, with safe fourth powers.

    To know costs nothing on the CPU; an accelerator would have to be waited for, and a compiled
    graph would break, so there the answer is no and the careful path is taken.

    Args:
        lowest: the smallest values.
        highest: the largest.
    """
    if lowest.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return 1e-7 < float(torch.maximum(-lowest, highest).amax()) < 1e7
