"""``diagnose``: what is wrong with a recorded network, where, why, and what to do."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sigprop.diagnosis.finding import Finding, Findings, Severity, sorted_findings
from sigprop.errors import BadInput
from sigprop.records import Records, load

if TYPE_CHECKING:
    from torch import nn

_THEMES = ("finiteness", "propagation", "wiring", "activations", "learning", "normalization")


def diagnose(records: Records | str | Path, model: nn.Module | None = None) -> Findings:
    """Return what is wrong with each recorded network: where, why, and what to do about it.

    Args:
        records: what was recorded, or the path of a run directory.
        model: the network itself, if there is one and it is at hand: it says which parameters are
            in half precision, frozen, or behind a normalization.

    Returns:
        Findings, network by network, the worst first. What the records do not show (no gradients,
        no optimizer, one step) is not judged.

    Raises:
        BadInput: the records hold no activation and no parameter, or a model is given and the
            records are of several networks.

    Example:
        >>> import torch, sigprop
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> layers = [nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(10)]
        >>> records = sigprop.measure(nn.Sequential(*layers), torch.randn(64, 64))
        >>> diagnose(records).ids
        ['vanishing-backward', 'vanishing-forward', 'mean-shift']
    """
    seen = records if isinstance(records, Records) else load(records)
    if seen.signals.empty and seen.parameters.empty and seen.training.empty:
        raise BadInput(
            "the records are empty, there is nothing to diagnose; measure something first, "
            "for example records = sigprop.measure(model, inputs)"
        )
    networks = seen.networks()
    if model is not None and len(networks) > 1:
        raise BadInput(
            f"a model is given, and the records are of {len(networks)} networks: "
            f"{', '.join(networks)}; diagnose them without it"
        )
    return sorted_findings(_found(seen, networks, model), networks)


def _found(seen: Records, networks: Iterable[str], model: nn.Module | None) -> Iterable[Finding]:
    order = {f"sigprop.diagnosis.{theme}": number for number, theme in enumerate(_THEMES)}
    for module in order:
        importlib.import_module(module)
    from sigprop.diagnosis.finders import FINDERS
    from sigprop.diagnosis.subject import Subject

    # findings do not depend on which theme was imported first
    finders = dict.fromkeys(FINDERS.values())
    functions = sorted(finders, key=lambda finder: order.get(finder.__module__, len(order)))
    for network in networks:
        own = Records(manifest=seen.manifest)
        for table, frame in seen.tables().items():
            setattr(own, table, frame[frame["network"] == network])
        subject = Subject(network, own, model)
        for function in functions:
            yield from function(subject)


def assert_healthy(
    model: object, inputs: object, *, severity: Severity = "error", **options: object
) -> None:
    """Assert that nothing is wrong with a network at initialization, for a test suite.

    Args:
        model: as in `measure`.
        inputs: as in `measure`.
        severity: the least severity that fails.
        **options: the other arguments of `measure`.

    Raises:
        AssertionError: with every finding of that severity or worse.

    Example:
        >>> import torch
        >>> assert_healthy("rescale", torch.randn(64, 64), options={"depth": 10, "inputs": 64})
    """
    __tracebackhide__ = True
    from torch import nn

    from sigprop.experiments.measure import measure

    records = measure(model, inputs, **options)  # type: ignore[arg-type]
    found = diagnose(records, model if isinstance(model, nn.Module) else None)
    bad = found.at_least(severity)
    if bad:
        raise AssertionError(str(bad))
