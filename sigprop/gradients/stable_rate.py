"""How long a step may be: along the gradient, over a training, and what happens beyond."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import nn

from sigprop.bisection import bracket
from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss, call
from sigprop.inputs.devices import Device, kept_random_state, moved, placed, resolve_device
from sigprop.inputs.factories import copied
from sigprop.objectives.objective import Objective
from sigprop.probing.probe import attach
from sigprop.records import Records
from sigprop.records.frames import tidy

#: A loss above so many times the first one counts as diverged.
_TOO_HIGH = 10.0


def relative_loss(
    model: nn.Module,
    loss: Loss,
    batch: object,
    etas: Iterable[float],
    *,
    device: Device = "auto",
) -> pd.DataFrame:
    """Return the loss after a step along the gradient over the loss before it.

    Args:
        model: a copy of it is moved.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        etas: step sizes.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        A row per step size: ``eta, relative_loss``; infinite where the loss left the range of
        numbers.

    Raises:
        BadInput: what `Objective` refuses, or a first loss of 0.

    Source: Bjorck et al. 2018, section 3.1, figure 3.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 2.0)
        >>> batch = torch.ones(1, 1), torch.zeros(1, 1)  # L = w², so that eta = 1/2 lands on 0
        >>> frame = relative_loss(layer, nn.functional.mse_loss, batch, [0.5, 1.0])
        >>> frame["relative_loss"].tolist()
        [0.0, 1.0]
    """
    objective = Objective(model, loss, batch, device)
    first, gradient = objective.value(), objective.start_gradient
    if first == 0:
        raise BadInput("the loss is 0 before the step: there is nothing to relate to")
    rows = []
    for eta in etas:
        after = objective.value(objective.start - float(eta) * gradient)
        rows.append((float(eta), math.inf if math.isnan(after) else after / first))
    return pd.DataFrame(rows, columns=["eta", "relative_loss"])


def largest_stable_rate(
    model: nn.Module,
    loss: Loss,
    batches: Sequence[object],
    *,
    guess: float = 0.1,
    momentum: float = 0.0,
    precision: float = 0.1,
    device: Device = "auto",
) -> float:
    """Return the largest rate at which SGD on these batches does not diverge, by bisection.

    A training has diverged when a loss is not finite, or is ten times that of its first batch.

    Args:
        model: copies of it are trained; the model itself stays as it is.
        loss: ``(output, targets) -> scalar``.
        batches: one per step; every trial sees the same ones.
        guess: the rate that is tried first, and then doubled or halved.
        momentum: of SGD.
        precision: relative error at which bisection ends.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        A rate that does not diverge, within ``precision`` of one that does; infinite where even
        2^40 times the guess does not, 0 where even 2^-40 of it does.

    Raises:
        BadInput: no batch, or a guess or precision out of range; what `Objective` refuses.

    Source: Bjorck et al. 2018, section 3: the highest rate that trains is what normalization buys.
    """
    if not batches or not 0 < guess < math.inf or not 0 < precision < 1:
        raise BadInput(
            "give at least one batch, a positive guess and a precision between 0 and 1, got "
            f"{len(batches)} batches, guess={guess!r}, precision={precision!r}"
        )
    Objective(model, loss, batches[0], device)  # refuses what cannot be trained

    def diverges(rate: float) -> bool:
        run = _Run(model, loss, rate, momentum, device)
        return not all(run.step(batch) for batch in [*batches, batches[0]])

    return bracket(diverges, guess, precision)[0]


def activations_until_divergence(
    model: nn.Module,
    loss: Loss,
    batches: Sequence[object],
    rate: float,
    *,
    momentum: float = 0.0,
    blocks: str = "auto",
    device: Device = "auto",
) -> Records:
    """Train a copy until it diverges or the batches end, with a probe on it.

    Args:
        model: a copy of it is trained.
        loss: ``(output, targets) -> scalar``.
        batches: one per step.
        rate: of SGD.
        momentum: of SGD.
        blocks: what to record, as in `sigprop.attach`.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        The records of all steps: the moments of every block's activations, and ``training``
        with the loss of each step, the diverged one last.

    Raises:
        BadInput: no batch, or what `Objective` refuses.

    Source: Bjorck et al. 2018, section 3.2, figure 4 (channel means and variances as a network
    diverges).
    """
    if not batches:
        raise BadInput("give at least one batch")
    Objective(model, loss, batches[0], device)  # refuses what cannot be trained
    run = _Run(model, loss, rate, momentum, device)
    with attach(run.model, run.optimizer, blocks=blocks, ranks="own") as probe:
        for batch in batches:
            if not run.step(batch):
                break
    records = probe.records
    rows = {"step": range(len(run.losses)), "loss": run.losses}
    records.training = tidy("training", pd.DataFrame(rows).assign(mode="train", learning_rate=rate))
    return records


class _Run:
    """SGD on a copy of a model, one step at a time, until its loss diverges."""

    def __init__(
        self, model: nn.Module, loss: Loss, rate: float, momentum: float, device: Device
    ) -> None:
        self.place = resolve_device(device, model)
        self.model = placed(copied(model), self.place)
        self.loss = loss
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=momentum)
        self.losses: list[float] = []

    def step(self, batch: object) -> bool:
        """Take one step.

        Returns:
            Whether the loss before it was within range.
        """
        inputs, targets = moved(batch, self.place)
        with kept_random_state(self.place), torch.enable_grad():
            self.optimizer.zero_grad()
            value = self.loss(call(self.model, inputs), targets)
            value.backward()
            self.optimizer.step()
        self.losses.append(float(value.detach()))
        limit = _TOO_HIGH * abs(self.losses[0])
        return math.isfinite(self.losses[-1]) and self.losses[-1] <= limit
