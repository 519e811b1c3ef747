"""The noise of a minibatch gradient, from the gradients of single samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from sigprop import theory
from sigprop.capture.model.nested import tensors
from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device, derived_seed
from sigprop.objectives.objective import Objective

Array = npt.NDArray[np.float64]

#: How far the mean of the samples' gradients may lie from the batch's, relative.
_COUPLED = 1e-3

_COUPLES = (
    "the samples have no gradients of their own: {reason}. A model that couples them (batch "
    "normalization) is given in evaluation mode; the loss is a mean over samples"
)


@dataclass(frozen=True)
class Noise:
    """The squared error of SGD steps, predicted and drawn.

    Attributes:
        per_sample: C = mean of ‖g_i - g‖² over the samples, the variance of one sample's gradient.
        gradient_norm: ‖g‖ of the whole batch.
        predicted: alpha² C/B; without replacement times (N - B)/(N - 1).
        draws: ‖alpha g_SGD - alpha g‖² of every drawn minibatch.
    """

    per_sample: float
    gradient_norm: float
    predicted: float
    draws: Array

    @property
    def measured(self) -> float:
        """Mean of the draws."""
        return float(self.draws.mean())

    @property
    def error(self) -> float:
        """Standard error of `measured`."""
        return float(self.draws.std(ddof=1) / math.sqrt(len(self.draws)))

    @property
    def to_signal(self) -> float:
        """Root of the expected squared error over the length of the step; NaN without gradient."""
        return math.sqrt(self.per_sample) / self.gradient_norm if self.gradient_norm else math.nan


def noise(
    model: nn.Module,
    loss: Loss,
    batch: object,
    rate: float = 1.0,
    size: int = 1,
    *,
    replace: bool = True,
    draws: int = 1000,
    seed: int = 0,
    device: Device = "auto",
) -> Noise:
    """Compare SGD steps on drawn minibatches with the step on all samples of a batch.

    Args:
        model: a copy of it is evaluated, sample by sample.
        loss: ``(output, targets) -> scalar``, a mean over samples.
        batch: ``(inputs, targets)``, the N samples that minibatches are drawn from.
        rate: alpha, the learning rate.
        size: B, samples in a minibatch.
        replace: draw with replacement, where E‖alpha g_SGD - alpha g‖² = alpha² C/B exactly.
        draws: minibatches.
        seed: of the draws; the global random state is left alone.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        Predicted and measured squared error. N gradients are held at once: N n numbers.

    Raises:
        BadInput: what `Objective` refuses; a minibatch larger than the batch; samples whose
            gradients do not average to that of the batch, since the model couples them (batch
            normalization in training mode) or the loss is a sum.

    Source: Bjorck et al. 2018, section 3.2.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [1.0]])
        >>> y = torch.tensor([[0.0], [1.0]])
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> found = noise(layer, nn.functional.mse_loss, (x, y), rate=0.5, size=2, draws=10)
        >>> round(found.per_sample, 6), round(found.predicted, 6)  # g_i = 2(w - y_i)
        (1.0, 0.125)
    """
    each, whole = _each_gradient(model, loss, batch, device)
    count = len(each)
    if not 1 <= size <= count or draws < 2:
        raise BadInput(
            f"a minibatch has 1 to {count} samples and there are at least 2 draws, "
            f"got size={size!r}, draws={draws!r}"
        )
    spread = float(((each - whole) ** 2).sum(axis=1).mean())
    population = None if replace else count
    return Noise(
        spread,
        float(np.linalg.norm(whole)),
        theory.sgd_noise(rate, spread, size, population) if count > 1 else 0.0,
        rate**2 * squared_errors(each, size, draws, replace, seed),
    )


def squared_errors(
    each: Array, size: int, draws: int, replace: bool = True, seed: int = 0
) -> Array:
    """Return ‖g_SGD - g‖² of drawn minibatches.

    Args:
        each: one gradient per sample, shape (N, n).
        size: B, samples in a minibatch.
        draws: minibatches.
        replace: draw with replacement.
        seed: of the draws.

    Returns:
        One squared error per draw.
    """
    rng = np.random.default_rng(derived_seed(seed, "minibatches"))
    centered = each - each.mean(axis=0)
    errors = np.empty(draws)
    for draw in range(draws):
        rows = rng.choice(len(each), size, replace=replace)
        errors[draw] = (centered[rows].mean(axis=0) ** 2).sum()
    return errors


def _each_gradient(
    model: nn.Module, loss: Loss, batch: object, device: Device
) -> tuple[Array, Array]:
    """Return each sample's gradient, shape (N, n), and that of the whole batch.

    Raises:
        BadInput: the model couples its samples.
    """
    objective = Objective(model, loss, batch, device)
    whole = objective.start_gradient.double().cpu().numpy()
    count = _samples(objective.batch)
    try:
        each = np.stack(
            [
                objective.with_batch(_one(objective.batch, i)).gradient().double().cpu().numpy()
                for i in range(count)
            ]
        )
    except BadInput as error:  # batch normalization of one sample: torch refuses
        raise BadInput(_COUPLES.format(reason=error)) from error
    off = float(np.linalg.norm(each.mean(axis=0) - whole))
    if off > _COUPLED * float(np.linalg.norm(each, axis=1).mean()):
        raise BadInput(_COUPLES.format(reason="they do not average to that of the batch"))
    return each, whole


def _samples(batch: tuple[object, object]) -> int:
    counts = {len(x) for _, x in tensors(batch) if x.dim()}
    if len(counts) != 1:
        raise BadInput(
            f"inputs and targets have one row per sample, got {sorted(counts)} rows in them"
        )
    return counts.pop()


def _one(value: Any, index: int) -> Any:
    """Return a nest of tensors with one sample of each."""
    if isinstance(value, Tensor):
        return value[index : index + 1]
    if isinstance(value, dict):
        return {key: _one(part, index) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_one(part, index) for part in value)
    return value
