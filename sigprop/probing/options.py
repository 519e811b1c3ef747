"""What `attach` accepts: its options checked, before anything is put on a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sigprop.capture import Metric
from sigprop.capture.model.naming import bare
from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.records import SCHEMA
from sigprop.signals import QUANTITIES
from sigprop.signals.pooled import Quantity

Every = int | Callable[[int], bool]
Metrics = Mapping[str, Metric] | Sequence[str]


def check_options(model: object, options: Mapping[str, Any]) -> None:
    """Check what `attach` was given.

    Raises:
        BadInput: the model cannot carry a probe, or an option is not of the form asked for.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"a probe is attached to an nn.Module, not to {type(model).__name__}")
    if isinstance(bare(model), torch.jit.ScriptModule):
        raise BadInput("a ScriptModule cannot be hooked; probe the Python model it came from")
    if next(model.parameters(), None) is None:
        raise BadInput(f"{type(model).__name__} has no parameters: there is nothing to diagnose")
    every, window = options.get("every", 1), options.get("window")
    optimizer = options.get("optimizer")
    if not callable(every) and not (isinstance(every, int) and every >= 1):
        raise BadInput(f"every is a whole number of steps from 1, or a callable, not {every!r}")
    if window is not None and not (isinstance(window, int) and window >= 1):
        raise BadInput(
            f"window is a whole number of recorded steps from 1, or None, not {window!r}"
        )
    overhead = options.get("overhead")
    if overhead is not None and not (isinstance(overhead, int | float) and overhead > 0):
        raise BadInput(f"overhead is a share of the step time such as 0.03, not {overhead!r}")
    if overhead is not None and every != 1:
        raise BadInput(f"overhead chooses the cadence by itself; leave every={every!r} out")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise BadInput(f"optimizer is a torch.optim.Optimizer, not {type(optimizer).__name__}")


def split_metrics(metrics: Metrics) -> tuple[dict[str, Metric], dict[str, Quantity]]:
    """Return (the user's own functions, the built-in numbers to compute).

    Args:
        metrics: own functions by column name, or names of the built-in numbers, empty for all.

    Raises:
        UnknownName: no built-in number has that name.
        BadInput: an own name is taken by a column.

    Example:
        >>> own, built_in = split_metrics(["kurtosis"])
        >>> list(own), list(built_in)
        ([], ['kurtosis'])
    """
    if isinstance(metrics, Mapping):
        taken = [name for name in metrics if name in SCHEMA["signals"]]
        if taken:
            raise BadInput(f"{taken[0]!r} is a column already; give your metric another name")
        return dict(metrics), dict(QUANTITIES)
    unknown = [name for name in metrics if name not in QUANTITIES]
    if unknown:
        raise UnknownName(
            f"no metric is called {unknown[0]!r}; {suggestion(unknown[0], QUANTITIES)}"
        )
    return {}, {name: QUANTITIES[name] for name in metrics or QUANTITIES}
