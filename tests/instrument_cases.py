"""What the tests of curvature, landscape, gradients and scale invariance share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprop.inputs.devices import normal, seeded

Batch = tuple[Tensor, Tensor]


def tanh_net(double: bool = True, norm: bool = False) -> nn.Sequential:
    """Return a small classifier: 5 inputs, 3 classes, smooth, a few dozen parameters."""
    with seeded(3):
        net = nn.Sequential(
            nn.Linear(5, 7),
            nn.BatchNorm1d(7) if norm else nn.Identity(),
            nn.Tanh(),
            nn.Linear(7, 6),
            nn.Tanh(),
            nn.Linear(6, 3),
        )
    return net.double() if double else net


def labeled(count: int = 24, double: bool = True) -> Batch:
    x = normal((count, 5), seed=1)
    return x.double() if double else x, torch.arange(count) % 3


def quadratic_loss(out: Tensor, targets: Tensor) -> Tensor:
    """Half the mean squared error, whose Hessian in the weights of a linear map is X^T X/N."""
    return ((out - targets) ** 2).sum() / (2 * len(out))


class Quadratic(nn.Module):
    """L(w) = w^T A w/2 + b^T w with a given A, whatever the input."""

    def __init__(self, matrix: Tensor, slope: Tensor, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())
        self.register_buffer("matrix", matrix)
        self.register_buffer("slope", slope)

    def forward(self, _: Tensor) -> Tensor:
        assert isinstance(self.matrix, Tensor)
        assert isinstance(self.slope, Tensor)
        out: Tensor = 0.5 * self.w @ self.matrix @ self.w + self.slope @ self.w
        return out


def as_loss(out: Tensor, _: object) -> Tensor:
    """Return the output itself, of a model that computes a loss."""
    return out


def quadratic(size: int = 12, seed: int = 0) -> tuple[Quadratic, Tensor]:
    """Return a quadratic with a random positive definite A, and A."""
    root = normal((size, size), seed).double()
    matrix = root @ root.T / size
    model = Quadratic(
        matrix, normal((size,), seed + 1).double(), normal((size,), seed + 2).double()
    )
    return model, matrix


NOTHING = (torch.zeros(1), None)
"""The batch of a `Quadratic`."""

cross_entropy = functional.cross_entropy
