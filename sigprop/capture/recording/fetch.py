"""Brings numbers from their devices to the host: all at once, since each transfer waits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sigprop.capture.recording.tensor_statistics import Array


def fetch(numbers: Sequence[Array | Tensor]) -> list[Array]:
    """Return arrays in float64, in one transfer per accelerator; arrays are returned as they are.

    Example:
        >>> [x.tolist() for x in fetch([np.ones(1), torch.zeros(2), torch.ones(1, 1)])]
        [[1.0], [0.0, 0.0], [[1.0]]]
    """
    fetched: list[Array] = []
    waiting: dict[torch.device, list[int]] = {}
    for index, values in enumerate(numbers):
        if isinstance(values, np.ndarray):
            fetched.append(values)
        elif values.is_cpu:
            fetched.append(values.double().numpy())
        else:
            fetched.append(np.empty(tuple(values.shape)))
            waiting.setdefault(values.device, []).append(index)
    for indices in waiting.values():
        parts = [numbers[i] for i in indices]
        whole = _joined([part for part in parts if isinstance(part, Tensor)]).cpu().double().numpy()
        start = 0
        for i in indices:
            end = start + fetched[i].size
            fetched[i] = whole[start:end].reshape(fetched[i].shape)
            start = end
    return fetched


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return the numbers of tensors of one device end to end, in the widest of their types."""
    widest = tensors[0].dtype
    for x in tensors:
        widest = torch.promote_types(widest, x.dtype)
    return torch.cat([x.reshape(-1).to(widest) for x in tensors])
