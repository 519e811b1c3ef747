"""The cell of a sweep over networks, depths, widths and seeds: one short training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigprop.experiments.compare import compare
from sigprop.experiments.training import Plan
from sigprop.inputs.devices import Device
from sigprop.inputs.factories import Factory
from sigprop.records import Records


def train_cell(
    network: str | Factory,
    depth: int,
    width: int,
    seed: int,
    *,
    data: object = "digits",
    plan: Plan,
    options: Mapping[str, object] | None = None,
    device: Device = "auto",
) -> tuple[Records, dict[str, Any]]:
    """Train one network of a sweep, and return what it recorded and what it reached.

    Args:
        network: a name of the zoo, or ``"module:factory"`` for one that takes depth and width.
        depth: of the network.
        width: of the network.
        seed: of initialization and of the order of batches.
        data: as in `sigprop.compare`.
        plan: how long and how fast to train.
        options: others of the zoo's networks.
        device: where to train.

    Returns:
        The records, and ``loss`` and ``accuracy`` of the test data at the end.

    Raises:
        UnknownName: no network has that name.
        BadInput: an option or the data cannot be used.

    Example:
        >>> _, numbers = train_cell("plain", 2, 8, 0, plan=Plan(steps=1))
        >>> sorted(numbers)
        ['accuracy', 'loss']
    """
    label = f"{network if isinstance(network, str) else network.__name__}, {depth} x {width}"
    chosen = {**(options or {}), "depth": depth, "width": width}
    records = compare(
        {label: network}, data, seeds=[seed], plan=plan, options=chosen, device=device
    )
    last = records.training.sort_values(["step", "mode"], kind="stable")
    evaluated = last[last["mode"] == "eval"]
    end = (evaluated if len(evaluated) else last).iloc[-1]
    return records, {"loss": float(end["loss"]), "accuracy": float(end["accuracy"])}
