"""The physical limit: how long it takes to read once what the recorded numbers depend on.

A probe that cost nothing but memory traffic would read each activation, gradient and weight once,
and each weight once more after its update. What lies in a cache when it is read comes faster: a
probe may even be below the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

import sigprop
from benchmarks.subjects import Training
from sigprop.capture.recording.reader import TensorReader
from sigprop.capture.recording.tensor_statistics import TensorStatistics

#: Of the array that bandwidth is measured with: more than any cache holds.
_BYTES = 1 << 28


def bandwidth(device: torch.device, rounds: int = 7) -> float:
    """Return how many bytes are read in a second, at best: the sum of a quarter of a gigabyte."""
    x = torch.ones(_BYTES // 4, device=device)
    return _BYTES / min(_seconds(x.sum, device) for _ in range(rounds))


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bytes_needed(training: Training, blocks: object) -> int:
    """Return the bytes that the numbers of one recorded step depend on.

    Args:
        training: what is trained; it takes two steps.
        blocks: as for `sigprop.attach`; None for parameters alone.
    """
    read, total = TensorReader.read, 0

    def counted(reader: TensorReader, x: Tensor) -> TensorStatistics | None:
        nonlocal total
        statistics = read(reader, x)
        total += 0 if statistics is None else x.numel() * x.element_size()
        return statistics

    weights = sum(
        p.numel() * p.element_size()
        for group in training.optimizer.param_groups
        for p in group["params"]
    )
    if blocks is not None:
        with sigprop.attach(training.model, training.optimizer, blocks=blocks, every=2):  # type: ignore[arg-type]
            with mock.patch.object(TensorReader, "read", counted):
                training.step()
            training.step()
    return total + 3 * weights  # weights, gradients, and the weights after their update
