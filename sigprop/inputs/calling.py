"""How a model is called: inputs in any of the usual forms, a loss for any of the usual outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sigprop.capture.model.nested import tensors
from sigprop.errors import BadInput
from sigprop.inputs.devices import derived_seed, generator, normal

Loss = Callable[[Any, Any], Tensor]


def split_batch(inputs: object, targets: object) -> tuple[Any, Any]:
    """Return one batch of (inputs, targets); a DataLoader gives its first.

    Args:
        inputs: a tensor, tuple, dict, or a DataLoader.
        targets: what a loss compares with; None where there is none or the loader brings its own.

    Raises:
        BadInput: the loader is empty, or the inputs hold non-finite values.
    """
    if isinstance(inputs, DataLoader):
        batch = next(iter(inputs), None)
        if batch is None:
            raise BadInput("the DataLoader is empty")
        pair = isinstance(batch, tuple | list) and len(batch) == 2 and targets is None
        inputs, targets = batch if pair else (batch, targets)
    for path, x in tensors(inputs):
        bad = int((~x.isfinite()).sum()) if x.is_floating_point() else 0
        if bad:
            raise BadInput(
                f"inputs{path} of shape {tuple(x.shape)} hold {bad} non-finite values of "
                f"{x.numel()}; clean them first"
            )
    return inputs, targets


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Return ``model(x)``, ``model(*tuple)`` or ``model(**dict)``.

    Args:
        model: the model, or a function that is called as it is.
        inputs: what it takes, on its device.

    Raises:
        BadInput: the model does not take these inputs.
    """
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
    except BadInput:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for _, x in tensors(inputs)) or "no tensor"
        raise BadInput(
            f"the model does not take inputs of {shapes}: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def backward(output: Any, targets: Any, loss: Loss | None, seed: int) -> bool:
    """Send a gradient back through ``output``; return whether there was a way back.

    Without a loss, integer targets get a cross entropy and float targets a squared error; of
    several outputs the first that fits the targets is taken. Without targets every element of the
    first output receives a standard normal gradient, which is what backward recursions assume; it
    is drawn on the CPU, so that it does not depend on the device. The global random state is not
    touched.

    Args:
        output: what the model returned.
        targets: what the loss compares with, on the model's device, or None.
        loss: ``(output, targets) -> scalar``, or None.
        seed: of the standard normal gradient.

    Returns:
        False where the output has no gradient to send back.

    Raises:
        BadInput: the output holds no tensor, or the loss cannot be computed.
    """
    outputs = [x for _, x in tensors(output) if x.is_floating_point()]
    if not outputs:
        raise BadInput(f"the model returned no floating-point tensor but {type(output).__name__}")
    with_graph = [x for x in outputs if x.requires_grad]
    if not with_graph:
        return False
    if loss is None and targets is None:
        out = with_graph[0]
        out.backward(normal(out.shape, seed).to(out))
        return True
    if loss is None:
        if not isinstance(targets, Tensor):
            raise BadInput(
                f"targets are a tensor, not {type(targets).__name__}, unless a loss is given: "
                "loss=(output, targets) -> scalar"
            )
        _default_loss(with_graph, targets).backward()
        return True
    try:
        loss(output, targets).backward()
    except (RuntimeError, ValueError, IndexError) as error:
        raise BadInput(_no_loss(outputs, targets, first_line(error))) from error
    return True


def send_signs(output: Any, seed: int) -> int:
    """Send a gradient of random signs back through the first output that has one.

    With v of independent ±1, E‖Jᵀv‖² = ‖J‖²_F for any Jacobian J, and its variance is the least
    of all v with independent entries (Hutchinson 1990). The signs are drawn on the CPU, so that
    they do not depend on the device, and the global random state is not touched.

    Args:
        output: what the model returned.
        seed: of the signs.

    Returns:
        The number of signs, the elements of that output.

    Raises:
        BadInput: no output has a gradient to send back.
    """
    found = [x for _, x in tensors(output) if x.is_floating_point() and x.requires_grad]
    if not found:
        raise BadInput("a cotangent needs an output with a gradient, and the model returned none")
    out = found[0]
    draws = generator(derived_seed(seed, "cotangent"))
    signs = 2 * torch.randint(0, 2, tuple(out.shape), generator=draws, device="cpu") - 1
    out.backward(signs.to(out))
    return out.numel()


def _default_loss(outputs: list[Tensor], targets: Any) -> Tensor:
    """Return the loss of the first output that fits the targets.

    Raises:
        BadInput: no output fits the targets.
    """
    errors: list[Exception] = []
    for out in outputs:
        try:
            if targets.is_floating_point():
                return nn.functional.mse_loss(out, _like(targets, out))
            return nn.functional.cross_entropy(out, targets)
        except (RuntimeError, ValueError, IndexError) as error:
            errors.append(error)
    raise BadInput(_no_loss(outputs, targets, first_line(errors[0]))) from errors[0]


def _like(targets: Tensor, out: Tensor) -> Tensor:
    """Return targets in the shape of an output with as many elements: (N,) for (N, 1).

    Raises:
        ValueError: the numbers of elements differ.
    """
    if targets.numel() != out.numel():  # never broadcast: that would be another loss
        raise ValueError("the numbers of elements differ")
    return targets.reshape(out.shape)


def _no_loss(outputs: list[Tensor], targets: Any, reason: str) -> str:
    shapes = " or ".join(str(tuple(x.shape)) for x in outputs)
    shape = tuple(getattr(targets, "shape", ()))
    return (
        f"no loss of outputs {shapes} and targets {shape}: {reason}; give "
        "loss=(output, targets) -> scalar"
    )
