"""Slow float64 twins of every number, made from another idea than the code: plain Python loops."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def channels(x: Tensor, channel_dim: int) -> list[list[float]]:
    """Return the finite values of each channel, walking the tensor element by element."""
    axis = channel_dim % x.ndim
    found: list[list[float]] = [[] for _ in range(x.shape[axis])]
    for position in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)).reshape(-1, x.ndim):
        value = float(x[tuple(position.tolist())].double())
        if math.isfinite(value):
            found[position[axis]].append(value)
    return found


def mean(values: Iterable[float]) -> float:
    kept = list(values)
    return math.fsum(kept) / len(kept)


def second_moment(x: Tensor) -> float:
    return mean(v * v for v in x.double().flatten().tolist())


def channel_variance(x: Tensor, channel_dim: int) -> float:
    rows = channels(x, channel_dim)
    return mean(mean((v - mean(row)) ** 2 for v in row) for row in rows)


def mean_shift(x: Tensor, channel_dim: int) -> float:
    return mean(mean(row) ** 2 for row in channels(x, channel_dim))


def kurtosis(x: Tensor) -> float:
    values = x.double().flatten().tolist()
    center = mean(values)
    variance = mean((v - center) ** 2 for v in values)
    return mean((v - center) ** 4 for v in values) / variance**2


def zero_fraction(x: Tensor) -> float:
    return mean(float(v == 0) for v in x.flatten().tolist())


def dead_fraction(batches: Iterable[Tensor], channel_dim: int) -> float:
    alive: dict[int, bool] = {}
    for batch in batches:
        for unit, row in enumerate(channels(batch, channel_dim)):
            alive[unit] = alive.get(unit, False) or any(v > 0 for v in row)
    return mean(float(not on) for on in alive.values())


def norm(x: Tensor) -> float:
    return math.sqrt(math.fsum(v * v for v in x.detach().double().flatten().tolist()))


def correlation(a: Tensor, b: Tensor) -> float:
    pairs = list(zip(a.double().flatten().tolist(), b.double().flatten().tolist(), strict=True))
    return math.fsum(u * v for u, v in pairs) / (norm(a) * norm(b))
