"""Law and records make a verdict: does the variance propagate as an architecture claims?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from sigprop.capture import Blocks, ChannelDim
from sigprop.errors import BadInput
from sigprop.experiments.measure import measure
from sigprop.inputs.calling import split_batch
from sigprop.inputs.devices import Device
from sigprop.inputs.factories import Factory, design
from sigprop.records import Records, concat

if TYPE_CHECKING:  # pandas, scipy and the theory are loaded by the first verdict, not with sigprop
    from sigprop.verification.result import Result


def verify(
    model: nn.Module | Factory | str,
    inputs: object,
    law: str | Callable[[int], float] = "preserved",
    seeds: int | Sequence[int] = 16,
    tolerance: float = 0.05,
    *,
    level: float = 0.95,
    blocks: Blocks = "auto",
    channel_dim: ChannelDim = None,
    options: Mapping[str, object] | None = None,
    device: Device = "auto",
) -> Result:
    """Test a law of signal propagation over freshly initialized weights, block by block.

    Per block, and over each stage as a whole, the mean ratio of the quantity after and before is
    given a confidence interval. The law holds where the interval lies inside the tolerance, is
    violated where it lies outside, and is undecided where it crosses an edge. Intervals are
    simultaneous: half of the error probability goes to the stages, half is shared by the blocks.

    A block that changes width or resolution opens a new stage; the law is not stated across it.

    Args:
        model: a callable that builds the network anew, ``"module:factory"``, or a name of the zoo.
            A plain model is taken as it is: intervals then speak of this one draw of weights,
            over batches of the inputs.
        inputs: a tensor, tuple or dict, the same for every seed; or a DataLoader, a batch a seed.
        law: ``"preserved"``, ``"preserved:channel_variance"``, ``"gradient-preserved"``,
            ``"doubling"``, ``"predicted"`` (networks of the zoo), or a callable ``block -> ratio``.
        seeds: how many initializations (0, 1, ...), or which.
        tolerance: relative deviation that still counts as holding.
        level: confidence of all intervals together.
        blocks: what a block is, as in `attach`.
        channel_dim: the channel axis, as in `attach`.
        options: of a network of the zoo (depth, width, ...).
        device: where to compute, as in `measure`.

    Raises:
        UnknownName: no law or network has that name.
        BadInput: fewer than two seeds, a factory that repeats its weights, or inputs that do not
            fit.

    Example:
        >>> options = {"depth": 4, "width": 128, "inputs": 64}
        >>> x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        >>> verify("plain", x, seeds=4, options=options).verdict
        'violated'
    """
    from sigprop.verification.evidence import evidence
    from sigprop.verification.judgment import judgment
    from sigprop.verification.laws import law_of
    from sigprop.verification.predictions import recursion_of, start_kernel
    from sigprop.verification.result import Result

    chosen = law_of(law)
    which = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    _check(which, tolerance, level)
    how = {"blocks": blocks, "channel_dim": channel_dim, "options": options, "device": device}
    records = concat(list(_draws(model, inputs, which, how)))
    if not isinstance(model, nn.Module):
        _check_weights_differ(records)
    found = evidence(records, chosen)
    prediction = None
    if isinstance(model, str):
        start = start_kernel(records.signals)
        prediction = recursion_of(design(model, **(options or {})), start) if start else None
    indices = np.sort(found["block"].unique()).astype(np.float64)
    targets = dict(
        zip(indices.astype(int), np.log(chosen.ratios(indices, prediction)), strict=True)
    )
    table = judgment(found, targets, tolerance, level)
    return Result(
        chosen, table, records, tolerance, level, len(which), isinstance(model, nn.Module)
    )


def assert_preserved(
    model: nn.Module | Factory | str,
    inputs: object,
    tolerance: float = 0.05,
    *,
    law: str | Callable[[int], float] = "preserved",
    seeds: int | Sequence[int] = 16,
    **options: Any,
) -> None:
    """Assert that a law holds, for a test suite; the options are those of `verify`.

    Raises:
        AssertionError: the law is violated or undecided. The message is a small table around the
            first block that breaks it, with the likely cause, or says how many more seeds decide.

    Example:
        >>> options = {"depth": 4, "width": 256, "inputs": 64}
        >>> x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        >>> assert_preserved("rescale", x, options=options)
    """
    __tracebackhide__ = True
    result = verify(model, inputs, law, seeds, tolerance, **options)
    if not result.holds:
        raise AssertionError(result.failure())


def _check(seeds: Sequence[int], tolerance: float, level: float) -> None:
    if len(seeds) < 2:
        raise BadInput(f"an interval needs at least 2 seeds, got {len(seeds)}")
    if len(set(seeds)) < len(seeds):
        raise BadInput("the same seed is given twice; draws must be independent")
    if not 0 < tolerance < 1:
        raise BadInput(f"tolerance is a relative deviation between 0 and 1, got {tolerance!r}")
    if not 0 < level < 1:
        raise BadInput(f"level is a confidence between 0 and 1, got {level!r}")


def _draws(
    model: nn.Module | Factory | str,
    inputs: object,
    seeds: Sequence[int],
    how: Mapping[str, Any],
) -> Iterator[Records]:
    batches = _batches(inputs, len(seeds), isinstance(model, nn.Module))
    for seed, batch in zip(seeds, batches, strict=False):
        yield measure(model, batch, seeds=[seed], spectra=False, **how)


def _batches(inputs: object, count: int, one_model: bool) -> Iterator[Any]:
    if isinstance(inputs, DataLoader):
        given = itertools.islice(itertools.chain.from_iterable(itertools.repeat(inputs)), count)
        for batch in given:
            yield batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch
    elif one_model:
        x, _ = split_batch(inputs, None)
        if not isinstance(x, torch.Tensor) or len(x) < 2 * count:
            raise BadInput(
                f"a plain model needs {count} batches of at least 2 samples: pass a tensor of "
                f"{2 * count} or more, a DataLoader, or a callable that builds the model anew"
            )
        yield from x.tensor_split(count)
    else:
        yield from itertools.repeat(inputs, count)


def _check_weights_differ(records: Records) -> None:
    norms = records.parameters.pivot_table(index="name", columns="seed", values="weight_norm")
    if len(norms) and norms.eq(norms.iloc[:, 0], axis=0).all(axis=None):
        raise BadInput(
            "the factory returned the same weights for every seed; let it draw them from torch's "
            "global generator, which is seeded before each call"
        )
