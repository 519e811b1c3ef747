"""The parameters of a model as its optimizer has them: found once, used while they stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sigprop.capture.parameters.dense import DenseParameters, supported
from sigprop.capture.parameters.known import Known, has_norms
from sigprop.capture.parameters.sharded import ShardedParameters, flattened, sharded
from sigprop.capture.torch_internals import Structure


class ParameterPlan:
    """What is read at every step of one optimizer.

    Args:
        model: the model.
        known: its parameters.
        optimizer: the optimizer.

    Attributes:
        known: the parameters that have norms.
        names: their names.
        sizes: the columns of the `parameters` frame that follow from their shapes.
        dense: reads those that lie densely in CPU memory.
        others: the rows of all others that this rank has as a whole.
        sharded: reads those of which it holds a part.
        split: their rows.
    """

    def __init__(
        self, model: nn.Module, known: Sequence[Known], optimizer: torch.optim.Optimizer
    ) -> None:
        flat = flattened(model)
        split = [flat or sharded(one.parameter) for one in known]
        self._lazy = any(
            not (part or has_norms(one.parameter)) for one, part in zip(known, split, strict=True)
        )
        kept = [
            (one, part)
            for one, part in zip(known, split, strict=True)
            if part or has_norms(one.parameter)  # this rank may hold nothing of a part
        ]
        self.known = [one for one, _ in kept]
        self.names = [one.name for one in self.known]
        self.sizes = sizes(self.known)
        self.split = [row for row, (_, part) in enumerate(kept) if part]
        self.sharded = ShardedParameters([self.known[row] for row in self.split])
        rows = [row for row, (_, part) in enumerate(kept) if not part]
        dense = [supported(one.parameter, one.unit_dim) for one in self.known]
        self.dense = DenseParameters([(row, self.known[row]) for row in rows if dense[row]])
        self.others = [row for row in rows if not dense[row]]
        self._structure = Structure(model)
        self._trained = _trained(optimizer)
        group_of = {
            id(p): g for g, group in enumerate(optimizer.param_groups) for p in group["params"]
        }
        self._group = np.array(
            [group_of.get(id(one.parameter), -1) for one in self.known], dtype=int
        )

    def fits(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether the model's modules and the optimizer's parameters are still the same."""
        return not self._lazy and self._trained == _trained(optimizer) and self._structure.same()

    def rates(self, optimizer: torch.optim.Optimizer) -> np.ndarray[Any, Any]:
        """Return the learning rate of each parameter, NaN for none."""
        by_group = [rate_of(group) for group in optimizer.param_groups]
        return np.array([*by_group, math.nan])[self._group]


def sizes(known: Sequence[Known]) -> dict[str, Any]:
    """Return the columns of the `parameters` frame that follow from shapes."""
    shapes = [tuple(one.parameter.shape) for one in known]
    return {
        "shape": ["x".join(map(str, shape)) for shape in shapes],
        "ndim": np.array([len(shape) for shape in shapes], dtype=np.int64),
        "count": np.array([one.parameter.numel() for one in known], dtype=np.int64),
    }


def rate_of(group: Mapping[str, Any]) -> float:
    """Return the learning rate of a group of parameters; some optimizers have none."""
    rate = group.get("lr")
    return math.nan if rate is None else float(rate)


def _trained(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    """Return the ids of an optimizer's parameters, by group."""
    return [list(map(id, group["params"])) for group in optimizer.param_groups]
