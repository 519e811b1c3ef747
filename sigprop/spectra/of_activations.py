"""The spectrum of activations' covariance: how many directions a layer uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.records.records import Records
from sigprop.spectra.rows import Columns, frame, spectrum

if TYPE_CHECKING:
    import pandas as pd


def covariance(
    activations: Tensor | Mapping[str, Tensor], channel_dim: int = 1, *, centered: bool = True
) -> pd.DataFrame:
    """Return the eigenvalues of the covariance of activations over their channels.

    C = E[(x - μ)(x - μ)ᵀ] with the mean over samples and positions, divided by their number (the
    biased estimate, as the variances of `signals`). They are found as squared singular values of
    the centered samples, so that small ones are not lost to rounding.

    Args:
        activations: shape (samples, channels) or (samples, channels, positions, ...); or several
            by name.
        channel_dim: the axis of the channels.
        centered: subtract the mean of each channel; without it the second-moment matrix.

    Returns:
        A `spectra` frame with ``operator="covariance"``: as many values as channels.

    Raises:
        BadInput: activations that are no tensors, hold no sample or non-finite values, or have no
            such axis.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
        >>> covariance(x)["singular_value"].round(12).tolist()
        [2.0, 0.5]
    """
    if isinstance(activations, Records):
        raise BadInput(
            "records keep statistics of activations, not the activations; pass a tensor of shape "
            "(samples, channels, ...), or several by name"
        )
    named = {"activations": activations} if isinstance(activations, Tensor) else activations
    return frame(_spectrum(name, x, channel_dim, centered) for name, x in named.items())


def _spectrum(name: str, activations: object, channel_dim: int, centered: bool) -> Columns:
    if not isinstance(activations, Tensor) or not activations.is_floating_point():
        raise BadInput(f"{name} is no floating-point tensor but {type(activations).__name__}")
    if activations.ndim < 2 or not -activations.ndim <= channel_dim < activations.ndim:
        raise BadInput(
            f"{name} of shape {tuple(activations.shape)} are not samples by channels with the "
            f"channels on axis {channel_dim}"
        )
    x = activations.detach().movedim(channel_dim, -1).flatten(0, -2).to("cpu", torch.float64)
    samples, channels = x.shape
    if not samples or not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).sum())
        raise BadInput(
            f"{name} of shape {tuple(activations.shape)} hold {samples} samples and {bad} "
            "non-finite values; a covariance needs samples that are finite"
        )
    if centered:
        x = x - x.mean(0)
    squares = torch.linalg.svdvals(x).square() / samples
    values = torch.zeros(channels, dtype=torch.float64)  # fewer samples than channels: the rest 0
    values[: len(squares)] = squares
    return spectrum(name, "covariance", values.numpy())
