"""Parameters of which each rank holds a part: sums over parts give what the whole would."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from sigprop.capture.parameters.known import Known, real
from sigprop.signals.norms import angles
from sigprop.signals.ratios import UNIT_FLOOR

Array = npt.NDArray[np.float64]

#: Numbers of a parameter besides those of its units: elements, whether it has a gradient, and the
#: squared norms before the update, after it, and of it.
_SCALARS = 5


def sharded(parameter: Tensor) -> bool:
    """Return whether a parameter is spread over ranks as a DTensor (FSDP2, tensor parallelism)."""
    return hasattr(parameter, "placements") and hasattr(parameter, "device_mesh")


def flattened(model: nn.Module) -> bool:
    """Return whether `FullyShardedDataParallel` keeps the model's parameters in flat pieces."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # else nobody has wrapped anything with it
    kind = getattr(fsdp, "FullyShardedDataParallel", None)
    return kind is not None and any(isinstance(module, kind) for module in model.modules())


def local(x: Tensor) -> Tensor:
    """Return the part of a tensor that this rank holds; no communication."""
    part: Tensor = getattr(x, "to_local", lambda: x)()
    return part.detach()


class _Shard:
    """One parameter's part on this rank.

    Attributes:
        units: output units of the whole parameter; 1 where they are not known.
        known_units: whether they are.
        start: the first unit of the part.
        counts: whether this part is summed: of replicas one is.
        before: the part before the optimizer's step.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.units, self.start, self.counts = 1, 0, True
        self.by_unit = self.known_units = False
        self.before: Tensor | None = None
        parameter: Any = known.parameter
        if not sharded(parameter):
            return
        several = sum(size > 1 for size in parameter.shape) > 1
        mesh, place = parameter.device_mesh, parameter.device_mesh.get_coordinate()
        split = 0
        for axis, placement in enumerate(parameter.placements):
            if not placement.is_shard():
                self.counts = self.counts and placement.is_replicate() and place[axis] == 0
            elif placement.dim == known.unit_dim and several:
                split += 1
                chunk = -(-parameter.shape[placement.dim] // mesh.size(axis))
                self.start = min(chunk * place[axis], parameter.shape[placement.dim])
        self.by_unit = several and split <= 1  # the units of parts of parts are not known
        self.known_units = self.by_unit or not several
        self.units = parameter.shape[known.unit_dim] if self.by_unit else 1

    def squares(self, x: Tensor) -> Array:
        """Return the sum of squares in each unit of the whole that the part has a share of."""
        numbers = np.zeros(self.units)
        if not self.counts or x.numel() == 0:
            return numbers
        exact = real(x).double()
        if self.by_unit:
            exact = exact.movedim(self.known.unit_dim, 0)
            exact = exact.reshape(len(exact), -1)
            numbers[self.start : self.start + len(exact)] = exact.square().sum(1).cpu().numpy()
        else:
            numbers[0] = float(exact.square().sum())
        return numbers


class ShardedParameters:
    """Reads the parts of parameters that this rank holds, and what the sums over ranks mean.

    Args:
        known: the parameters, the same on every rank and in one order.
    """

    def __init__(self, known: Sequence[Known]) -> None:
        self._shards = [_Shard(one) for one in known]
        self._rows = [np.zeros(_SCALARS + 2 * shard.units) for shard in self._shards]

    def read(self, remember: bool) -> None:
        """Read weights and gradients.

        Args:
            remember: copy this rank's parts of those that the optimizer is about to update.
        """
        for row, shard in zip(self._rows, self._shards, strict=True):
            row[:] = 0
            weight, grad = local(shard.known.parameter), shard.known.parameter.grad
            row[0] = weight.numel() * shard.counts
            weights, gradients = np.split(row[_SCALARS:], 2)
            weights[:] = shard.squares(weight)
            shard.before = None
            if grad is None:
                continue
            row[1] = 1
            gradients[:] = shard.squares(local(grad))
            if remember and shard.known.updated:
                shard.before = weight.clone()

    def compare(self) -> None:
        """Read how far the parts have moved; drop the copies."""
        for row, shard in zip(self._rows, self._shards, strict=True):
            before, shard.before = shard.before, None
            if before is None:
                continue
            after = local(shard.known.parameter)
            moved = after.double() - before.double()
            row[2:_SCALARS] = [shard.squares(x).sum() for x in (before, after, moved)]

    def packed(self) -> Array:
        """Return the numbers that add over ranks."""
        return np.concatenate([np.zeros(0), *self._rows])

    def norms(self, summed: Array) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return rows (weight, gradient, worst unit, distance, angle, weight before), and counts.

        Args:
            summed: `packed`, summed over ranks.
        """
        ends = np.cumsum([len(row) for row in self._rows])
        rows = np.full((len(self._rows), 6), math.nan)
        counts = np.zeros(len(self._rows), dtype=np.int64)
        parts = np.split(summed, ends[:-1]) if len(ends) else []
        for at, (shard, part) in enumerate(zip(self._shards, parts, strict=True)):
            counts[at] = part[0]
            weights, gradients = np.sqrt(np.split(part[_SCALARS:], 2))
            rows[at, 0] = math.hypot(*weights)
            if not part[1]:
                continue
            rows[at, 1] = math.hypot(*gradients)
            if shard.known_units:
                rows[at, 2] = (gradients / np.maximum(weights, UNIT_FLOOR)).max()
            if part[2]:
                update = part[2:_SCALARS]
                rows[at, 3:] = math.sqrt(update[2]), angles(update[None])[0], math.sqrt(update[0])
        return rows, counts
