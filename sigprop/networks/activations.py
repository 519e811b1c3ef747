"""Nonlinearities by name, as modules. Their gains are in `gains`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from sigprop.networks.arguments import check_known


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), of x's shape (Hendrycks & Gimpel 2016's fast GELU; CLIP).

    Example:
        >>> round(QuickGELU()(torch.tensor(1.0)).item(), 4)
        0.8458
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x * sigmoid(1.702 x)``."""
        return x * torch.sigmoid(1.702 * x)


class Erf(nn.Module):
    """The error function, of x's shape: its Gaussian integrals are closed (Williams 1997).

    Example:
        >>> round(Erf()(torch.tensor(1.0)).item(), 4)
        0.8427
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``erf(x)``."""
        return torch.erf(x)


def _gelu_tanh() -> nn.Module:
    return nn.GELU(approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "relu": nn.ReLU,
        "identity": nn.Identity,
        "tanh": nn.Tanh,
        "leaky_relu": nn.LeakyReLU,
        "gelu": nn.GELU,
        "gelu_tanh": _gelu_tanh,
        "silu": nn.SiLU,
        "quickgelu": QuickGELU,
        "elu": nn.ELU,
        "celu": nn.CELU,
        "selu": nn.SELU,
        "sigmoid": nn.Sigmoid,
        "softplus": nn.Softplus,
        "logsigmoid": nn.LogSigmoid,
        "softsign": nn.Softsign,
        "mish": nn.Mish,
        "hardswish": nn.Hardswish,
        "erf": Erf,
    }
)

#: f(s x) = s f(x) for s > 0: a scale may move through these without changing the function.
HOMOGENEOUS = ("relu", "identity", "leaky_relu")


def activation(name: str) -> nn.Module:
    """Return a fresh nonlinearity.

    Raises:
        BadInput: none has that name.

    Example:
        >>> activation("relu")
        ReLU()
        >>> activation("rlu")
        Traceback (most recent call last):
        sigprop.errors.BadInput: no activation is called 'rlu'; did you mean 'relu' or 'elu'?
    """
    check_known("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()
