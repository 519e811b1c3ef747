"""How the entries of each parameter's gradient are distributed: tails and histograms."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device
from sigprop.objectives.objective import Objective

Array = npt.NDArray[np.float64]

#: Tails are read from tensors with at least so many entries.
_LEAST = 50


def tails(
    model: nn.Module, loss: Loss, batch: object, share: float = 0.05, *, device: Device = "auto"
) -> pd.DataFrame:
    """Return how heavy the tails of each parameter's gradient are.

    The Hill estimate is the exponent a of P(|g| > t) ~ t^-a in the largest ``share`` of entries:
    below 2 the variance of such a tail is infinite, and a Gaussian has a large one that grows as
    the share shrinks. Kurtosis is 3 for a Gaussian.

    Args:
        model: a copy of it is evaluated.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        share: of entries, the largest by magnitude, that the tail's exponent is read from.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        A row per parameter of at least 50 entries: ``name, count, norm, kurtosis, hill, largest``,
        the last over the root mean square. NaN where the gradient is zero.

    Raises:
        BadInput: what `Objective` refuses, or a share that is not in 0..1.

    Source: Bjorck et al. 2018, section 3.1, figure 2; Hill 1975.
    """
    if not 0 < share < 1:
        raise BadInput(f"share is between 0 and 1, not {share!r}")
    rows = [
        (
            name,
            len(g),
            float(np.linalg.norm(g)),
            kurtosis(g),
            hill(g, share),
            float(np.abs(g).max() / rms) if (rms := math.sqrt(float(np.mean(g**2)))) else math.nan,
        )
        for name, g in _gradients(model, loss, batch, device).items()
        if len(g) >= _LEAST
    ]
    return pd.DataFrame(rows, columns=["name", "count", "norm", "kurtosis", "hill", "largest"])


def histogram(
    model: nn.Module, loss: Loss, batch: object, bins: int = 60, *, device: Device = "auto"
) -> pd.DataFrame:
    """Count the entries of each parameter's gradient in bins of equal width.

    Args:
        model: a copy of it is evaluated.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        bins: how many, over -m..m with m the largest magnitude of that gradient.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        A row per parameter and bin: ``name, low, high, count``; none of a gradient that is zero.

    Raises:
        BadInput: what `Objective` refuses, or fewer than 2 bins.
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise BadInput(f"bins is a whole number of at least 2, not {bins!r}")
    found = []
    for name, g in _gradients(model, loss, batch, device).items():
        edge = float(np.abs(g).max())
        if edge > 0:
            counts, edges = np.histogram(g, bins, (-edge, edge))
            columns = {"name": name, "low": edges[:-1], "high": edges[1:], "count": counts}
            found.append(pd.DataFrame(columns))
    if not found:
        return pd.DataFrame(columns=["name", "low", "high", "count"])
    return pd.concat(found, ignore_index=True)


def kurtosis(values: npt.ArrayLike) -> float:
    """Return E[(x - mean)^4]/variance²; NaN where the variance is 0.

    Example:
        >>> kurtosis([-1.0, 1.0, -1.0, 1.0])
        1.0
    """
    x = np.asarray(values, dtype=np.float64)
    centered = x - x.mean()
    variance = float(np.mean(centered**2))
    return float(np.mean((centered / math.sqrt(variance)) ** 4)) if variance > 0 else math.nan


def hill(values: npt.ArrayLike, share: float = 0.05) -> float:
    """Return Hill's estimate of a power-law tail's exponent, from the largest magnitudes.

    Args:
        values: a sample.
        share: of it that is the tail.

    Returns:
        1/mean(log(x_i/x_0)) over the k largest, x_0 the next one; its standard error is that over
        √k. NaN for fewer than 2 values in the tail, or where it is not positive.

    Example:
        >>> uniform = np.linspace(0, 1, 100_001)[1:]
        >>> round(hill(uniform ** (-1 / 3), share=0.1), 2)  # P(x > t) = t^-3
        3.0
    """
    x = np.sort(np.abs(np.asarray(values, dtype=np.float64)).reshape(-1))[::-1]
    k = int(share * len(x))
    if k < 2 or not x[k] > 0 or not x[0] > x[k]:
        return math.nan
    return float(1 / np.mean(np.log(x[:k] / x[k])))


def _gradients(model: nn.Module, loss: Loss, batch: object, device: Device) -> dict[str, Array]:
    objective = Objective(model, loss, batch, device)
    parts = objective.split(objective.start_gradient.double().cpu())
    return {name: part.reshape(-1).numpy() for name, part in parts.items()}
