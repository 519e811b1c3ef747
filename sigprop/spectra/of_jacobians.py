"""Singular values of the Jacobian of any range of a model's blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.inputs.calling import split_batch
from sigprop.inputs.devices import Device, moved, resolve_device
from sigprop.inputs.factories import copied
from sigprop.linear_operators import Operator, largest_singular_values, spectral_density
from sigprop.linear_operators.extremes import check_count
from sigprop.linear_operators.operator import DENSE_LIMIT
from sigprop.spectra.block_range import BlockRange
from sigprop.spectra.rows import Columns, frame, spectrum

if TYPE_CHECKING:
    import pandas as pd


def jacobian(
    model: nn.Module,
    inputs: object,
    start: str | None = None,
    stop: str | None = None,
    k: int | None = None,
    *,
    density: bool = False,
    batch_statistics: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> pd.DataFrame:
    """Return the singular values of the derivative of a range of blocks by its input.

    The operator is that of the whole batch, (outputs of all samples) by (inputs of all samples):
    pass one sample for its own Jacobian. Where samples do not interact, its values are those of
    all their Jacobians together. Of several inputs or outputs the first floating-point tensor is
    taken; what goes around the range is held constant.

    A small Jacobian is written out and decomposed. Of a large one, ask for the k largest values or
    for the density; both take products with vectors only, and about as much memory as one
    training step.

    Args:
        model: a module; it is neither changed nor run in another mode.
        inputs: a tensor, tuple or dict, or a DataLoader whose first batch is used.
        start: name of the first module of the range; the range begins at its input. The model's
            own input by default.
        stop: name of the last module; the range ends at its output. The model's own by default.
        k: only the k largest values.
        density: sample the spectral density instead, by Lanczos' recursion with full
            reorthogonalization: each row is then a point with the share of values (``mass``) that
            it stands for, and dynamical isometry is a density around 1 (Pennington et al. 2017).
        batch_statistics: allow BatchNorm in training mode, which couples the samples: the operator
            then has entries from each sample to every other.
        seed: of the density's random vectors.
        device: where to compute; a copy of the model is moved where it is elsewhere.

    Returns:
        A `spectra` frame with ``operator`` ``"jacobian"``, or ``"jacobian:density"``.

    Raises:
        UnknownName: the model has no module of that name.
        BadInput: the range is empty, not deterministic (dropout, BatchNorm in training mode: named)
            or not differentiable; the Jacobian is not finite, has fewer than k values, or is too
            large to be written out and neither k nor density is given.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh())
        >>> _ = net[0].weight.data.copy_(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
        >>> jacobian(net, torch.zeros(1, 3))["singular_value"].tolist()
        [3.0, 2.0, 1.0]
    """
    chosen = resolve_device(device, model)
    batch, _ = moved(split_batch(inputs, None), chosen)
    if any(p.device != chosen for p in model.parameters()):
        model = copied(model).to(chosen)
    blocks = BlockRange(model, batch, start, stop)
    operator = blocks.derivative(batch_statistics)
    if k is not None:
        check_count(k, min(operator.shape), blocks.what)
    if density:
        return frame([_density(operator, blocks.name, seed)])
    return frame([_values(operator, blocks.name, k)])


def _values(operator: Operator, name: str, k: int | None) -> Columns:
    rows, columns = operator.shape
    size = min(rows, columns)
    if k is not None and rows * columns > DENSE_LIMIT // 4 and k < size // 4:
        return spectrum(name, "jacobian", largest_singular_values(operator, k).values, size=size)
    if rows * columns > DENSE_LIMIT:
        raise BadInput(
            f"{operator.name} has {rows} x {columns} elements, more than the {DENSE_LIMIT:,} that "
            "are written out; ask for its k largest values with k=10, or for its spectral density "
            "with density=True"
        )
    matrix = operator.dense().to("cpu", torch.float64)
    _check_finite(matrix, operator)
    return spectrum(name, "jacobian", torch.linalg.svdvals(matrix)[:k].numpy(), size=size)


def _check_finite(matrix: Tensor, operator: Operator) -> None:
    bad = int((~matrix.isfinite()).sum())
    if bad:
        raise BadInput(f"{operator.name} holds {bad} non-finite values of {matrix.numel()}")


def _density(operator: Operator, name: str, seed: int) -> Columns:
    found = spectral_density(operator.gram(), seed=seed)
    values = np.sqrt(np.maximum(found.nodes[::-1], 0))
    size = min(operator.shape)
    return spectrum(name, "jacobian:density", values, size=size, mass=found.weights[::-1])
