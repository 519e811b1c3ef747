"""Joins the probe of one rank with those of the others, where a model is trained on many."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import nn

from sigprop.capture.distributed.group import Alone, Group, require_same
from sigprop.capture.distributed.ranks import Meeting, Ranks
from sigprop.capture.internals import switched_off
from sigprop.capture.model.naming import modules, parameters
from sigprop.errors import BadInput, ProbeWarning
from sigprop.probing.options import Every, ProbeOptions, split_metrics
from sigprop.probing.overhead import Budget

#: How many steps ahead a callable cadence is asked, before the ranks meet again.
_AHEAD = 256


def running() -> bool:
    """Return whether this process is one of many that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def join(
    model: nn.Module, options: ProbeOptions, targets: Iterable[str], cadence: Every | Budget
) -> Ranks | None:
    """Return what merges this rank's statistics with those of the others, or None for one rank.

    Args:
        model: the model, whole or this rank's part of it.
        options: the probe's options.
        targets: names of the modules chosen as blocks.
        cadence: which steps are recorded; the first rank's counts.

    Raises:
        BadInput: the probes of two ranks differ, or this process is not in the group given.
    """
    if options.ranks == "own" or not running():
        return None
    of = None if options.ranks == "merge" else options.ranks
    if dist.get_rank(of) < 0:
        raise BadInput("ranks is a process group that this process is not in")
    if dist.get_world_size(of) == 1:
        return None
    group = Group(of)
    if switched_off("ranks"):
        return None
    first = following(cadence, options.step - 1)
    try:
        facts = group.join({"alike": _alike(model, options, targets), "first": first})
        require_same([fact["alike"] for fact in facts])
        group.connect()
    except (Alone, RuntimeError) as error:
        warnings.warn(
            f"this probe records this rank alone: {error}. Attach on every rank, or say "
            "ranks='own' here",
            ProbeWarning,
            stacklevel=4,
        )
        return None
    own = len(split_metrics(options.metrics)[0])
    return Ranks(group, Meeting(*facts[0]["first"]), lambda step: following(cadence, step), own)


def following(cadence: Every | Budget, step: int) -> Meeting:
    """Return the step after a given one at which the ranks meet.

    Args:
        cadence: which steps are recorded.
        step: the step that ends.

    Example:
        >>> following(10, 20), following(lambda step: step == 25, 20)
        (Meeting(step=30, record=True), Meeting(step=25, record=True))
    """
    if isinstance(cadence, Budget):
        return Meeting(*cadence.following(step))
    if not callable(cadence):
        return Meeting((step // cadence + 1) * cadence, True)
    ahead = range(step + 1, step + _AHEAD)
    due = next((later for later in ahead if cadence(later)), None)
    return Meeting(step + _AHEAD, False) if due is None else Meeting(due, True)


def _alike(model: nn.Module, options: ProbeOptions, targets: Iterable[str]) -> dict[str, Any]:
    """Return what the probes of all ranks have in common."""
    metrics = options.metrics
    return {
        "the modules of the model": [name for name, _ in modules(model)],
        "the parameters of the model": [name for name, _ in parameters(model)],
        "blocks": sorted(targets),
        "network": options.network,
        "run": options.run,
        "step": options.step,
        "metrics": list(metrics),
        "window": options.window,
        "grad_scale": options.grad_scale,
        "overhead": options.overhead,
        "every": "a callable" if callable(options.every) else options.every,
        "optimizer": options.optimizer is not None,
    }
