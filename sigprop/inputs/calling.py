"""How a model is called: inputs in any of the usual forms, a loss for any of the usual outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sigprop.capture.model.nested import tensors
from sigprop.errors import BadInput

Loss = Callable[[Any, Any], Tensor]


def split_batch(inputs: object, targets: object) -> tuple[Any, Any]:
    """Return one batch of (inputs, targets); a DataLoader gives its first.

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


def call(model: nn.Module, inputs: Any) -> Any:
    """Return ``model(x)``, ``model(*tuple)`` or ``model(**dict)``.

    Raises:
        BadInput: the model does not take these inputs.
    """
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, BadInput):
            raise
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for _, x in tensors(inputs)) or "no tensor"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"the model does not take inputs of {shapes}: {reason}") from error


def backward(output: Any, targets: Any, loss: Loss | None, seed: int) -> bool:
    """Send a gradient back through ``output``; return whether there was a way back.

    Without a loss, integer targets get a cross entropy and float targets a squared error; without
    targets every output element receives a standard normal gradient, which is what backward
    recursions assume. The global random state is not touched.

    Raises:
        BadInput: the output holds no tensor, or the loss cannot be computed.
    """
    out = next((x for _, x in tensors(output) if x.is_floating_point()), None)
    if out is None:
        raise BadInput(f"the model returned no floating-point tensor but {type(output).__name__}")
    if not out.requires_grad:
        return False
    if loss is None and targets is None:
        generator = torch.Generator().manual_seed(seed)
        gradient = torch.randn(out.shape, generator=generator, dtype=torch.float32)
        out.backward(gradient.to(out))
        return True
    try:
        if loss is not None:
            loss(output, targets).backward()
        elif targets.is_floating_point():
            nn.functional.mse_loss(out, targets).backward()
        else:
            nn.functional.cross_entropy(out, targets).backward()
    except (RuntimeError, ValueError, IndexError) as error:
        shape = tuple(getattr(targets, "shape", ()))
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"no loss of outputs {tuple(out.shape)} and targets {shape}: {reason}"
        ) from error
    return True
