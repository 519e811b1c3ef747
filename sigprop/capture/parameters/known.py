"""One parameter as the model and its optimizer have it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@dataclass(frozen=True)
class Known:
    """One parameter.

    Attributes:
        name: its name.
        parameter: the parameter.
        unit_dim: the axis of its output units.
        updated: whether the optimizer updates it.
    """

    name: str
    parameter: nn.Parameter
    unit_dim: int = 0
    updated: bool = False


def has_norms(parameter: nn.Parameter) -> bool:
    """Return whether a parameter has numbers: real or complex ones, and at least one."""
    return (
        not is_lazy(parameter)
        and (parameter.is_floating_point() or parameter.is_complex())
        and not parameter.is_meta
        and parameter.numel() > 0
    )


def real(x: Tensor) -> Tensor:
    """Return a tensor of real numbers with as many units and the same norms as ``x``.

    Of a complex tensor the real and the imaginary parts are returned side by side.
    """
    if not x.is_complex():
        return x
    parts = torch.view_as_real(x.resolve_conj())
    if x.squeeze().ndim > 1:
        return parts
    return parts.reshape(-1, *[1] * (x.ndim - 1))  # a bias or a gain is one unit
