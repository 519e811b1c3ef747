"""Loss and gradient along the gradient of one step: band, predictiveness, effective smoothness."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from torch import nn

from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device
from sigprop.objectives.objective import Objective

COLUMNS = ("eta", "loss", "gradient_change", "effective_smoothness")


def scan(
    model: nn.Module,
    loss: Loss,
    batch: object,
    etas: Iterable[float],
    *,
    device: Device = "auto",
) -> pd.DataFrame:
    """Evaluate the loss and its gradient at w - eta g, for the gradient g of this batch at w.

    Args:
        model: a copy of it is moved; the model itself stays as it is.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)`` of one training step.
        etas: step sizes, at least 0 (Santurkar et al.: up to .4 for a VGG, 30 for a deep linear
            network, in units of the gradient).
        device: where to compute, as in `sigprop.measure`.

    Returns:
        A row per eta: ``eta``; ``loss`` L(w - eta g); ``gradient_change`` ‖grad L(w) -
        grad L(w - eta g)‖; ``effective_smoothness``, that change over the distance ‖eta g‖, NaN
        where nothing moved. A loss that left the range of numbers is NaN or infinite.

    Raises:
        BadInput: what `Objective` refuses, or a step size that is negative or not finite.

    Source: Santurkar et al. 2018, section 3.1, figure 4.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)  # L = 9/2 (w - 1)², so that H = 9
        >>> half = lambda out, y: ((out - y) ** 2).mean() / 2
        >>> frame = scan(layer, half, (torch.tensor([[3.0]]), torch.tensor([[3.0]])), [0.1, 0.2])
        >>> frame["effective_smoothness"].round(3).tolist()
        [9.0, 9.0]
    """
    steps = _checked(etas)
    objective = Objective(model, loss, batch, device)
    gradient = objective.start_gradient
    length = float(gradient.double().norm())
    rows = []
    for eta in steps:
        at = objective.start - eta * gradient
        change = float((objective.gradient(at) - gradient).double().norm())
        moved = eta * length
        rows.append((eta, objective.value(at), change, change / moved if moved > 0 else math.nan))
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=np.float64)


def summary(scanned: pd.DataFrame, by: Iterable[str] = ()) -> pd.DataFrame:
    """Return what the paper draws of scans: the band of losses and the largest changes.

    Args:
        scanned: rows of `scan`, with further columns such as ``network`` and ``step``.
        by: columns that tell one scan from another.

    Returns:
        A row per scan: ``lowest_loss`` and ``highest_loss`` (the band), ``lowest_change`` and
        ``highest_change`` (gradient predictiveness), ``effective_smoothness`` (the largest).

    Example:
        >>> rows = pd.DataFrame([(0.1, 1.0, 2.0, 3.0), (0.2, 0.5, 4.0, 3.5)], columns=list(COLUMNS))
        >>> summary(rows).iloc[0].tolist()
        [0.5, 1.0, 2.0, 4.0, 3.5]
    """
    keys = list(by)
    grouped = scanned.groupby(keys, sort=False) if keys else scanned.groupby(lambda _: 0)
    found = grouped.agg(
        lowest_loss=("loss", _lowest),
        highest_loss=("loss", _highest),
        lowest_change=("gradient_change", _lowest),
        highest_change=("gradient_change", _highest),
        effective_smoothness=("effective_smoothness", _highest_known),
    )
    return found.reset_index(drop=not keys)


def _lowest(values: pd.Series) -> float:
    return float(values.min(skipna=True))


def _highest(values: pd.Series) -> float:
    """Return the largest value; a loss or change that is NaN has left the range of numbers."""
    return math.inf if values.isna().any() else float(values.max())


def _highest_known(values: pd.Series) -> float:
    """Return the largest value; NaN stands where nothing moved, at eta = 0."""
    return float(values.max(skipna=True))


def _checked(etas: Iterable[float]) -> list[float]:
    steps = [float(eta) for eta in etas]
    bad = [eta for eta in steps if not 0 <= eta < math.inf]
    if bad or not steps:
        found = f"{bad[0]!r}" if bad else "none"
        raise BadInput(f"etas are step sizes of at least 0 and finite, got {found}")
    return steps
