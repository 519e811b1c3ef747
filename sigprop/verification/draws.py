"""Independent draws of a network: fresh weights per seed, or a batch of one model each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from sigprop.errors import BadInput
from sigprop.experiments.measure import measure
from sigprop.inputs.calling import split_batch
from sigprop.inputs.devices import kept_random_state
from sigprop.inputs.factories import Factory
from sigprop.inputs.gradients import require_gradients, with_gradients
from sigprop.records import Records, concat


def draw(
    model: nn.Module | Factory | str,
    inputs: object,
    seeds: Sequence[int],
    backward: bool,
    how: Mapping[str, Any],
) -> tuple[Records, bool]:
    """Measure one draw per seed.

    Args:
        model: what `sigprop.measure` takes; a plain model is measured on a batch a seed.
        inputs: a tensor, tuple or dict, or a DataLoader, which gives every seed a batch.
        seeds: one a draw.
        backward: a gradient is to reach the first block, so the inputs have to require one.
        how: further arguments of `sigprop.measure`.

    Returns:
        The records of all draws, and whether the inputs required a gradient.

    Raises:
        BadInput: there are too few inputs, or the factory repeats its weights.
    """
    one_model = isinstance(model, nn.Module)
    found, entered = [], backward
    for seed, batch in zip(seeds, _batches(inputs, len(seeds), one_model), strict=False):
        given = with_gradients(batch) if backward else batch
        entered = entered and require_gradients(given)
        found.append(measure(model, given, seeds=[seed], spectra=False, **how))
    records = concat(found)
    if not one_model:
        _check_weights_differ(records)
    return records, entered


def _batches(inputs: object, count: int, one_model: bool) -> Iterator[Any]:
    if isinstance(inputs, DataLoader):
        yield from _from_loader(inputs, count)
    elif one_model:
        x, _ = split_batch(inputs, None)
        if not isinstance(x, Tensor) or len(x) < 2 * count:
            raise BadInput(
                f"a plain model needs {count} batches of at least 2 samples: pass a tensor of "
                f"{2 * count} or more, a DataLoader, or a callable that builds the model anew"
            )
        yield from x.tensor_split(count)
    else:
        yield from itertools.repeat(inputs, count)


def _from_loader(loader: DataLoader[Any], count: int) -> Iterator[Any]:
    """Yield batches without their targets, again from the beginning when they run out.

    Raises:
        BadInput: the loader has no batch.
    """
    with kept_random_state():  # a sampler draws from the global generator
        batches = list(itertools.islice(loader, count))
    if not batches:
        raise BadInput("the DataLoader is empty")
    for batch in itertools.islice(itertools.cycle(batches), count):
        yield batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch


def _check_weights_differ(records: Records) -> None:
    norms = records.parameters.pivot_table(index="name", columns="seed", values="weight_norm")
    if len(norms) and norms.eq(norms.iloc[:, 0], axis=0).all(axis=None):
        raise BadInput(
            "the factory returned the same weights for every seed; let it draw them from torch's "
            "global generator, which is seeded before each call"
        )
