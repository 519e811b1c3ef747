"""Finds the tensors in whatever a module takes or returns, each with its path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from sigprop.signals.channel_statistics import readable


def tensors(value: object, path: str = "") -> Iterable[tuple[str, Tensor]]:
    """Give ``(path, tensor)`` for every tensor in a nest of tuples, lists, dicts and dataclasses.

    The path is ``""`` for a bare tensor, else ``"[1][0]"`` or ``"[logits]"``. Iterators and
    generators are left alone: to look would be to consume. A nested tensor gives its values, its
    ragged axes flattened into the first.

    Args:
        value: a tensor, a nest of tensors, or anything else.
        path: where the value itself lies in a larger nest.

    Returns:
        Pairs, in the order of the nest.

    Example:
        >>> [path for path, _ in tensors((torch.ones(1), {"h": [torch.ones(2)]}))]
        ['[0]', '[1][h][0]']
    """
    if isinstance(value, Tensor):
        return ((path, _values(value) if value.is_nested else value),)
    if isinstance(value, PackedSequence):
        return ((path, value.data),)
    return _within(value, path)


def _within(value: object, path: str) -> Iterator[tuple[str, Tensor]]:
    for key, part in _parts(value):
        yield from tensors(part, f"{path}[{key}]")


def _values(nested: Tensor) -> Tensor:
    values = nested.values()
    if nested.layout is not torch.strided or not values.numel():
        return values
    try:
        return values.reshape(-1, nested.size(-1))
    except RuntimeError:  # the last axis is ragged too
        return values


def _parts(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (tuple, list)):  # a union of types is not traced before torch 2.7
        yield from enumerate(value)
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        made: Any = value  # is_dataclass is not traced before torch 2.7
        yield from ((field.name, getattr(made, field.name)) for field in fields(made))


def first_readable(
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None = None,
    check: Callable[[Tensor], bool] = readable,
) -> object:
    """Return the first argument that holds a readable tensor: a block's input; else None.

    Args:
        args: the arguments by position, which come first.
        kwargs: those by name.
        check: whether a tensor can be read.
    """
    for value in args if not kwargs else (*args, *kwargs.values()):
        if type(value) is Tensor and not value.is_nested:
            if check(value):
                return value
            continue
        for _, x in tensors(value):
            if check(x):
                return value
    return None
