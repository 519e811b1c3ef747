"""What `attach` accepts: one set of options, checked before anything is attached to a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from sigprop.capture import Blocks, ChannelDim, Metric
from sigprop.capture.model.naming import bare
from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.records import SCHEMA
from sigprop.signals import QUANTITIES
from sigprop.signals.pooled import Quantity

Every = int | Callable[[int], bool]
Metrics = Mapping[str, Metric] | Sequence[str]
#: What becomes of a run that is in the directory already.
Resume = Literal["never", "allow", "must"]


@dataclass(frozen=True)
class ProbeOptions:
    """The options of one probe; what each means is said at `sigprop.attach`.

    Raises:
        BadInput: an option is not of the form asked for, or two of them contradict each other.
        UnknownName: no built-in number has the name of a metric.

    Example:
        >>> ProbeOptions(every=0)
        Traceback (most recent call last):
        ...
        sigprop.errors.BadInput: every is a whole number of steps from 1, or a callable, not 0
    """

    optimizer: torch.optim.Optimizer | None = None
    blocks: Blocks = "auto"
    every: Every = 1
    network: str = "model"
    seed: int = 0
    run: str = "run"
    step: int = 0
    metrics: Metrics = ()
    window: int | None = None
    channel_dim: ChannelDim = None
    strict: bool = False
    scaler: torch.amp.GradScaler | None = None
    overhead: float | None = None
    ranks: Any = "merge"
    grad_scale: float | None = None
    directory: str | Path | None = None
    flush_every: int = 50
    resume: Resume = "never"

    def __post_init__(self) -> None:
        self._check_cadence()
        if not _whole(self.step, 0):
            raise BadInput(f"step is the number of the first step, from 0, not {self.step!r}")
        if self.window is not None and not _whole(self.window, 1):
            raise BadInput(
                f"window is a whole number of recorded steps from 1, or None, not {self.window!r}"
            )
        if self.scaler is not None and not isinstance(self.scaler, torch.amp.GradScaler):
            raise BadInput(f"scaler is a torch.amp.GradScaler, not {type(self.scaler).__name__}")
        split_metrics(self.metrics)
        if isinstance(self.ranks, str) and self.ranks not in ("merge", "own"):
            raise BadInput(
                f"ranks is 'merge', 'own', or a process group whose ranks merge, not {self.ranks!r}"
            )
        scale = self.grad_scale
        if scale is not None and not (isinstance(scale, int | float) and 0 < scale < math.inf):
            raise BadInput(f"grad_scale is a positive number, or None, not {scale!r}")
        self._check_directory()

    def _check_directory(self) -> None:
        if not _whole(self.flush_every, 1):
            raise BadInput(
                f"flush_every is a whole number of recorded steps from 1, not {self.flush_every!r}"
            )
        if self.resume not in get_args(Resume):
            raise BadInput(f"resume is 'never', 'allow' or 'must', not {self.resume!r}")
        if self.directory is None and self.resume != "never":
            raise BadInput(
                f"resume={self.resume!r} goes on with the run in a directory; say directory= too"
            )

    def _check_cadence(self) -> None:
        if not (callable(self.every) or _whole(self.every, 1)):
            raise BadInput(
                f"every is a whole number of steps from 1, or a callable, not {self.every!r}"
            )
        if self.overhead is None:
            return
        share = self.overhead
        if not (isinstance(share, int | float) and 0 < share < math.inf):
            raise BadInput(f"overhead is a share of the step time such as 0.03, not {share!r}")
        if self.every != 1:
            raise BadInput(
                f"overhead chooses the cadence by itself; leave every={self.every!r} out"
            )

    @property
    def origin(self) -> dict[str, Any]:
        """The columns that say which run, network and seed a row is from."""
        return {"run": self.run, "network": self.network, "seed": self.seed}

    def require_same(self, other: ProbeOptions) -> None:
        """Check that a second `attach` asks for what the first one asked for.

        Raises:
            BadInput: an option differs.
        """
        for field in fields(self):
            have, wanted = getattr(self, field.name), getattr(other, field.name)
            if wanted is not have and wanted != have:
                raise BadInput(
                    f"this model carries a probe with {field.name}={have!r}, not {wanted!r}; "
                    "detach it first"
                )


def check_model(model: object) -> None:
    """Check that something can carry a probe.

    Raises:
        BadInput: it is no module, a ScriptModule, or a single module in which nothing is learned.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"a probe is attached to an nn.Module, not to {type(model).__name__}")
    if isinstance(bare(model), torch.jit.ScriptModule):
        raise BadInput("a ScriptModule cannot be hooked; probe the Python model it came from")
    # A quantized model keeps its weights elsewhere; the activations of its parts can be read.
    parts = itertools.chain(model.children(), model.parameters(), model.buffers())
    if next(parts, None) is None:
        raise BadInput(f"{type(model).__name__} has no parameters: there is nothing to diagnose")


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


def _whole(value: object, lowest: int) -> bool:
    return isinstance(value, int) and value >= lowest
