"""Layer-sequential unit variance: scale the weights of any model until its layers agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.networks.arguments import check_number
from sigprop.networks.submodules import (
    Change,
    Submodule,
    check_batch,
    run_in_evaluation,
    weighted_layers,
)


def lsuv_(
    model: nn.Module,
    inputs: Tensor,
    target: float = 1.0,
    tolerance: float = 0.01,
    most: int = 10,
) -> list[Change]:
    """Scale weights, layer by layer in the order of execution, until outputs have variance 1.

    Layer-sequential unit-variance initialization: W <- W √(target/Var out), with the model in
    evaluation mode and no gradient, repeated where a bias or a recurrence makes once too few.

    Source: Mishkin & Matas 2016, algorithm 1 (make weights orthonormal beforehand for theirs).

    Args:
        model: changed in place.
        inputs: one batch of at least 2 samples.
        target: the variance.
        tolerance: relative error that is left.
        most: passes per layer.

    Returns:
        One `Change` per layer; ``done`` is False for one never called, of constant output, or whose
        bias has more variance than the target.

    Raises:
        BadInput: no such layer, one that is lazy, parametrized or used in two places, a batch that
            cannot be used, or a target that is not above 0.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False))
        >>> _ = nn.init.constant_(model[0].weight, 4.0)
        >>> print(lsuv_(model, torch.tensor([[1.0], [-1.0]]))[0])
        0: output variance 16 -> 1, weight times 0.25
    """
    check_batch(inputs)
    if check_number("target", target) == 0:
        raise BadInput(f"target must be above 0, got {target!r}")
    layers = weighted_layers(model, (nn.Conv2d, nn.Linear))
    order: list[nn.Module] = []
    handles = [
        submodule.module.register_forward_hook(lambda module, args, out: order.append(module))
        for submodule in layers
    ]
    try:
        run_in_evaluation(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    changes = {
        submodule.name: _unit_variance(model, submodule, inputs, target, tolerance, most)
        for submodule in sorted(
            (p for p in layers if p.module in order), key=lambda p: order.index(p.module)
        )
    }
    idle = [submodule.name for submodule in layers if submodule.name not in changes]
    return [*changes.values(), *(Change(n, "never called", done=False) for n in idle)]


def _unit_variance(
    model: nn.Module,
    submodule: Submodule,
    inputs: Tensor,
    target: float,
    tolerance: float,
    most: int,
) -> Change:
    layer, factor = submodule.layer, 1.0
    original = layer.weight.detach().clone()
    first = found = _output_variance(model, layer, inputs)
    for _ in range(most):
        if not (math.isfinite(found) and found > 0):
            return Change(submodule.name, f"its output has variance {found:g}", done=False)
        if abs(found / target - 1) <= tolerance:
            break
        step = math.sqrt(target / found)
        with torch.no_grad():
            layer.weight.mul_(step)
        factor *= step
        found = _output_variance(model, layer, inputs)
    if abs(found / target - 1) > tolerance:
        with torch.no_grad():
            layer.weight.copy_(original)
        return Change(submodule.name, f"its bias alone has variance {found:g}", done=False)
    what = f"output variance {first:.6g} -> {found:.6g}, weight times {factor:.6g}"
    return Change(submodule.name, what)


def _output_variance(model: nn.Module, layer: nn.Module, inputs: Tensor) -> float:
    seen: list[float] = []

    def read(module: nn.Module, args: object, out: Tensor) -> None:
        seen.append(out.double().var(correction=0).item())

    handle = layer.register_forward_hook(read)
    try:
        run_in_evaluation(model, inputs)
    finally:
        handle.remove()
    return seen[0]
