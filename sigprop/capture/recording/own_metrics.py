"""A user's own metrics: functions from a tensor to one number, averaged over a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sigprop.capture.recording.tap import Tap
from sigprop.capture.recording.tensor_statistics import Array
from sigprop.errors import ProbeWarning

Metric = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Averages:
    """The metrics of one tensor, or averages over several by their numbers of elements."""

    numbers: Array
    weight: float

    def merge(self, other: Averages) -> Averages:
        """Return the average over both."""
        weight = self.weight + other.weight
        return Averages(
            (self.numbers * self.weight + other.numbers * other.weight) / weight, weight
        )


@dataclass(frozen=True)
class OwnAverages:
    """The metrics of one tensor, still on its device.

    Attributes:
        numbers: one a metric.
        weight: elements of the tensor.
        taps: where the tensor was seen; more may join until the step is fetched.
    """

    numbers: Tensor
    weight: float
    taps: Sequence[Tap]


class OwnMetrics:
    """The metrics that a user gave, by column; one that fails is switched off with a warning.

    Args:
        functions: take a tensor, return one number.
        strict: raise what a function raises.
    """

    def __init__(self, functions: Mapping[str, Metric], strict: bool) -> None:
        self._functions, self._strict = dict(functions), strict

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self._functions)

    def of(self, x: Tensor, taps: Sequence[Tap]) -> OwnAverages:
        """Return every metric of a tensor.

        Args:
            x: the tensor.
            taps: where it was read.

        Raises:
            Exception: whatever a function raised, in strict mode.
        """
        numbers = torch.stack([self._call(name, x) for name in self._functions])
        return OwnAverages(numbers, float(x.numel()), taps)

    def _call(self, name: str, x: Tensor) -> Tensor:
        try:
            value = self._functions[name](x.detach())
            return torch.as_tensor(value, device=x.device).detach().reshape(()).float()
        except Exception as error:
            if self._strict:
                raise
            self._functions[name] = _switched_off
            warnings.warn(
                f"the metric {name!r} failed on a tensor of shape {tuple(x.shape)} and is now off "
                f"({type(error).__name__}: {error}); a metric takes a tensor, returns one number",
                ProbeWarning,
                stacklevel=2,
            )
            return _switched_off(x)


def _switched_off(x: Tensor) -> Tensor:
    return torch.full((), float("nan"), device=x.device)
