"""Endless, resumable batches from tensors, a Dataset or a DataLoader. No files, no global state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import count
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from sigprop.errors import BadInput
from sigprop.inputs.devices import derived_seed, permutation, seeded

Batch: TypeAlias = tuple[Tensor, Tensor]
Source: TypeAlias = Batch | Dataset[Any] | DataLoader[Any]


def endless(source: Source, seed: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
    """Yield batches without end from step ``start`` on; batch k depends on (seed, batch_size, k).

    The order of an epoch is drawn from (seed, epoch), so that starting late replays nothing.
    A DataLoader keeps its own batch size and sampler and skips inside one epoch at most (from the
    beginning if it does not know its length).

    Args:
        source: (inputs (N, ...), targets (N,)), or what yields such pairs.
        seed: of the order, and of whatever draws from torch's CPU generator while a batch is made.
        batch_size: samples per batch; all N when there are fewer.
        start: index of the first batch to yield.

    Returns:
        An iterator that does not end.

    Raises:
        BadInput: a DataLoader yields nothing, or something that is not a pair of tensors.
    """
    if isinstance(source, DataLoader):
        return _from_loader(source, seed, start)
    return _from_indices(source, seed, batch_size, start)


def in_order(source: Source, batch_size: int) -> Iterator[Batch]:
    """Yield every sample once, in order; the last batch may be shorter.

    Args:
        source: a split.
        batch_size: samples of a batch; the last may have fewer.

    Raises:
        BadInput: an element is not a pair of tensors, or a DataLoader yields nothing.
    """
    if isinstance(source, DataLoader):
        yield from _not_empty(_one_epoch(source, "in order"))
        return
    for chosen in torch.arange(length(source)).split(batch_size):
        with _isolated("in order", int(chosen[0])):
            batch = _take(source, chosen)
        yield batch


def _from_indices(source: Any, seed: int, batch_size: int, start: int) -> Iterator[Batch]:
    size = min(batch_size, length(source))
    per_epoch = length(source) // size
    order, ordered = torch.empty(0), -1
    for step in count(start):
        epoch, index = divmod(step, per_epoch)
        if epoch != ordered:
            order, ordered = permutation(length(source), derived_seed(seed, epoch)), epoch
        with _isolated(seed, epoch, index):
            batch = _take(source, order[index * size : (index + 1) * size])
        yield batch


def _take(source: Any, chosen: Tensor) -> Batch:
    if isinstance(source, tuple):
        return source[0][chosen], source[1][chosen]
    return _pair(default_collate([source[index] for index in chosen.tolist()]))


def _from_loader(loader: DataLoader[Any], seed: int, start: int) -> Iterator[Batch]:
    known = not isinstance(loader.dataset, IterableDataset) and len(loader) > 0
    first, skip = divmod(start, len(loader)) if known else (0, start)
    for epoch in count(first):
        for batch in _not_empty(_one_epoch(loader, seed, epoch)):
            if skip > 0:
                skip -= 1
            else:
                yield batch


def _not_empty(batches: Iterator[Batch]) -> Iterator[Batch]:
    first = next(batches, None)
    if first is None:
        raise BadInput("the DataLoader yields no batch; is its data smaller than one batch?")
    yield first
    yield from batches


def _one_epoch(loader: DataLoader[Any], *seed: object) -> Iterator[Batch]:
    with _isolated(*seed, "sampler"):
        batches = iter(loader)
    for index in count():
        with _isolated(*seed, index):  # never held across a yield: the user's code runs there
            batch = next(batches, None)
        if batch is None:
            return
        yield _pair(batch)


def length(source: Any) -> int:
    """Return the number of samples of a source that knows it."""
    return len(source[1]) if isinstance(source, tuple) else len(source)


def describe(source: Source | None) -> str:
    """Return a source in a word or two, without reading it."""
    if source is None:
        return "none"
    return f"{length(source)} samples" if isinstance(source, tuple) else type(source).__name__


def check_length(source: Source, name: str) -> None:
    """Raise BadInput if a source is known to hold nothing.

    Args:
        source: a split.
        name: what it is called in the message.

    Raises:
        BadInput: it is known to hold nothing.
    """
    if isinstance(source, DataLoader):
        return  # it may not know; it is asked when its first batch is due
    if length(source) == 0:
        raise BadInput(f"{name} is empty")


def check(batch: Batch, name: str, classes: int | None = None) -> Batch:
    """Return a batch (inputs (N, ...), targets (N,)) if a classifier can be trained on it.

    Args:
        batch: inputs and targets.
        name: what messages call it.
        classes: number of classes; any when not given.

    Raises:
        BadInput: it is empty, lengths differ, targets are not labels in range, or an input value
            is NaN or infinite.
    """
    inputs, targets = batch
    if targets.is_floating_point() or targets.is_complex() or targets.dim() != 1:
        raise BadInput(
            f"{name}: targets must be whole numbers of shape (N,), "
            f"got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    if len(inputs) != len(targets):
        raise BadInput(f"{name}: there are {len(inputs)} inputs but {len(targets)} targets")
    if not len(inputs):
        raise BadInput(f"{name} is empty")
    if not torch.isfinite(inputs).all():
        bad = int((~torch.isfinite(inputs)).sum())
        raise BadInput(f"{name}: {bad} of {inputs.numel()} input values are NaN or infinite")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (classes is not None and high >= classes):
        allowed = "0 and above" if classes is None else f"0..{classes - 1}"
        raise BadInput(f"{name}: labels go from {low} to {high}, allowed are {allowed}")
    return batch


def _pair(batch: Any) -> Batch:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, targets = batch
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
            return inputs, targets
    raise BadInput("a batch must be a pair (inputs, targets) of tensors")


def _isolated(*parts: object) -> AbstractContextManager[None]:
    """Let user code draw from a seeded CPU generator, and put the global one back after it.

    Returns:
        A context manager.
    """
    return seeded(derived_seed(*parts), torch.device("cpu"))
