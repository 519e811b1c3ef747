"""One network's records as finders read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sigprop.diagnosis.finding import Measured, Where
from sigprop.diagnosis.profile import Direction, Profile, profiles
from sigprop.records import Records
from sigprop.records.queries import at_first_step, in_training_mode, own_rows, weight_matrices
from sigprop.records.sequence import blocks_in_order, unrolled

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Subject:
    """A network under diagnosis.

    Attributes:
        network: its name in the records.
        records: of this network alone.
        model: the network itself, if it is at hand.
    """

    network: str
    records: Records
    model: nn.Module | None = None

    @cached_property
    def signals(self) -> pd.DataFrame:
        """Rows of training mode; of a network that has none, all. One block per call."""
        return unrolled(in_training_mode(self.records.signals))

    @cached_property
    def forward(self) -> pd.DataFrame:
        """Activations of `signals`."""
        return self.signals[self.signals["direction"] == "forward"]

    @cached_property
    def outputs(self) -> pd.DataFrame:
        """Activations at the outputs of the chosen modules."""
        own = own_rows(self.forward)
        return own[own["port"] == "out"]

    @cached_property
    def parameters(self) -> pd.DataFrame:
        """Rows of parameters."""
        return self.records.parameters

    @cached_property
    def matrices(self) -> pd.DataFrame:
        """Rows of matrices and kernels inside of blocks."""
        return weight_matrices(self.parameters)

    @cached_property
    def order(self) -> pd.DataFrame:
        """The frame of `blocks_in_order` at the first step."""
        return blocks_in_order(at_first_step(self.signals))

    @cached_property
    def labels(self) -> dict[int, str]:
        """Block -> the name of its module."""
        columns = self.order["block"], self.order["label"]
        return {int(b): str(m) for b, m in zip(*columns, strict=True)}

    def profiles(self, direction: Direction) -> list[Profile]:
        """Return how the size of the signal changes at the first step, by sequence of blocks.

        Args:
            direction: of activations or of gradients.
        """
        return profiles(at_first_step(self.signals), self.order, direction)

    @cached_property
    def steps(self) -> list[int]:
        """The recorded steps."""
        return sorted(int(step) for step in self.signals["step"].unique())

    @cached_property
    def types(self) -> frozenset[str]:
        """The classes of all modules."""
        return frozenset(self.records.coverage["type"])

    def has(self, *words: str) -> bool:
        """Return whether a class of the network has one of ``words`` in its name.

        Args:
            words: such as ``"BatchNorm"``.
        """
        return any(word in kind for kind in self.types for word in words)

    @cached_property
    def residual(self) -> bool:
        """Whether a residual addition was recorded."""
        return bool((self.forward["port"] == "branch").any())

    def where(
        self, blocks: Iterable[int] = (), steps: Iterable[int] = (), names: Iterable[str] = ()
    ) -> Where:
        """Return a place in this network.

        Args:
            blocks: depth indices.
            steps: recorded steps.
            names: of modules or parameters; those of the blocks when not given.
        """
        found = tuple(sorted({int(block) for block in blocks}))
        modules = tuple(dict.fromkeys(names)) or tuple(self.labels.get(b, "") for b in found)
        return Where(
            found,
            tuple(name for name in modules if name),
            tuple(sorted({int(step) for step in steps})),
            tuple(self.labels),
        )


def largest(values: pd.Series[float]) -> int:
    """Return the block of the largest value.

    Args:
        values: by block.

    Example:
        >>> largest(pd.Series([1.0, 3.0], index=[4, 5]))
        5
    """
    return int(values.index[int(values.to_numpy().argmax())])


def measured(values: Iterable[float]) -> Measured:
    """Return the mean over draws, with an interval of two standard errors.

    Args:
        values: one per draw.

    Example:
        >>> print(measured([1.0, 3.0]))
        2 (0 to 4)
    """
    array = np.asarray(list(values), dtype=float)
    center = float(array.mean())
    if len(array) < 2 or not np.isfinite(array).all():
        return Measured(center)
    error = float(array.std(ddof=1) / np.sqrt(len(array)))
    return Measured(center, center - 2 * error, center + 2 * error)


def measured_rate(logs: Iterable[float]) -> Measured:
    """Return a factor from its logarithms, one per draw: the geometric mean and its interval.

    Args:
        logs: natural logarithms.
    """
    log = measured(logs)
    ends = (log.value, log.low, log.high)
    value, low, high = (None if end is None else float(np.exp(min(end, 700.0))) for end in ends)
    assert value is not None
    return Measured(value, low, high)
