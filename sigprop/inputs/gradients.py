"""Inputs that require a gradient, so that one reaches the first block unless something cuts it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sigprop.capture.model.nested import tensors


def with_gradients(value: Any) -> Any:
    """Return a nest of tuples, lists and dicts whose floating-point tensors require a gradient.

    They are copies after a leaf, so that a model may still change its input in place.

    Args:
        value: a batch of inputs; what is in it is not changed.

    Example:
        >>> import torch
        >>> with_gradients({"x": torch.ones(1)})["x"].requires_grad
        True
    """
    if isinstance(value, Tensor):
        return value.detach().requires_grad_().clone() if value.is_floating_point() else value
    if type(value) is dict:
        return {key: with_gradients(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(with_gradients(part) for part in value)
    return value


def require_gradients(value: object) -> bool:
    """Return whether any tensor in a nest requires a gradient."""
    return any(x.requires_grad for _, x in tensors(value))
