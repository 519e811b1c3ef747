"""Independent draws of a network: fresh weights per seed, or a batch of one model each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from sigprop.verification.looks import LOOKS
from sigprop.verification.padding import with_circular_padding

#: How many batches of a loader are taken for seeds of their own, before they come again.
_LOADED = 16

#: What is measured: a seed, and the inputs that it is given.
Pairs = list[tuple[int, Any]]


def pairs(inputs: object, seeds: Sequence[int] | None, one_model: bool) -> Pairs:
    """Return the seeds, each with its inputs.

    Args:
        inputs: a tensor, tuple or dict, which every seed is given; or a DataLoader, which gives
            each a batch. A plain model is measured on a part of the tensor, or a batch, a seed.
        seeds: which; None for as many as the last look of `LOOKS` needs. A plain model then has
            as many batches as there are, at most 16.
        one_model: a plain model is measured.

    Raises:
        BadInput: there are too few inputs.
    """
    if isinstance(inputs, DataLoader):
        batches = _loaded(inputs, len(seeds) if seeds is not None else _LOADED)
    elif one_model:
        batches = _parts(inputs, len(seeds) if seeds is not None else None)
    else:
        batches = [inputs]
    if one_model:
        which = range(len(batches)) if seeds is None else seeds
        if len(batches) < max(2, len(which)):
            raise BadInput(
                f"a plain model needs {max(2, len(which))} batches that differ, and the DataLoader "
                f"has {len(batches)}; pass more data, fewer seeds, or a callable that builds the "
                "model anew"
            )
    else:
        which = range(LOOKS[-1]) if seeds is None else seeds
    return list(zip(which, itertools.cycle(batches), strict=False))


@dataclass
class Draws:
    """Draws of one network, measured as more of them are asked for.

    Attributes:
        model: what `sigprop.measure` takes; a plain model is measured on a batch a seed.
        given: seeds and their inputs.
        backward: a gradient is to reach the first block, so the inputs have to require one.
        how: further arguments of `sigprop.measure`.
        records: of the draws made so far.
        entered: whether the inputs required a gradient.
    """

    model: nn.Module | Factory | str
    given: Pairs
    backward: bool
    how: Mapping[str, Any]
    records: Records = field(default_factory=Records)
    entered: bool = False
    _made: int = 0

    def __post_init__(self) -> None:
        """No draw says yet that its inputs cannot have a gradient."""
        self.entered = self.backward

    def up_to(self, count: int) -> Records:
        """Return the records of the first ``count`` draws, of which the missing ones are made.

        Raises:
            BadInput: a factory builds the same weights again and again.
        """
        found = [self.records] if self._made else []
        for seed, batch in self.given[self._made : count]:
            x = with_gradients(batch) if self.backward else batch
            self.entered = self.entered and require_gradients(x)
            found.append(measure(self.model, x, seeds=[seed], spectra=False, **self.how))
        self.records, self._made = concat(found), count
        if not isinstance(self.model, nn.Module):
            _check_weights_differ(self.records)
        return self.records

    def with_circular_padding(self) -> Draws | None:
        """Return the same draws of networks whose padding wraps around; None where none pads."""
        model = with_circular_padding(self.model, self.how.get("options"), self.given[0][0])
        if model is None:
            return None
        return Draws(model, self.given, self.backward, {**self.how, "options": None})


def _parts(inputs: object, count: int | None) -> list[Any]:
    x, _ = split_batch(inputs, None)
    samples = len(x) if isinstance(x, Tensor) and x.ndim else 0
    count = max(2, min(_LOADED, samples // 2)) if count is None else count
    if samples < 2 * count:
        raise BadInput(
            f"a plain model needs {count} batches of at least 2 samples: pass a tensor of "
            f"{2 * count} or more, a DataLoader, or a callable that builds the model anew"
        )
    return list(x.tensor_split(count))


def _loaded(loader: DataLoader[Any], count: int) -> list[Any]:
    """Return the first batches, without their targets.

    Raises:
        BadInput: the loader has no batch.
    """
    with kept_random_state():  # a sampler draws from the global generator
        batches = list(itertools.islice(loader, count))
    if not batches:
        raise BadInput("the DataLoader is empty")
    return [b[0] if isinstance(b, tuple | list) and len(b) == 2 else b for b in batches]


def _check_weights_differ(records: Records) -> None:
    """Refuse a factory that builds the same network again and again.

    Raises:
        BadInput: no parameter's norm differs between two seeds.
    """
    norms = records.parameters.pivot_table(index="name", columns="seed", values="weight_norm")
    if len(norms) and norms.eq(norms.iloc[:, 0], axis=0).all(axis=None):
        raise BadInput(
            "the factory returned the same weights for every seed; let it draw them from torch's "
            "global generator, which is seeded before each call"
        )
