"""Batch normalization in conditions that it was not made for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import nn

from sigprop.diagnosis.finders import finder
from sigprop.diagnosis.finding import Finding, Measured
from sigprop.diagnosis.subject import Subject
from sigprop.words import number

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm

#: Values per channel below which the statistics of a batch are noise: their variance has a
#: relative standard error of √(2/(N-1)), a half at 9.
FEW = 9


@finder("tiny-batch")
def tiny_batch(subject: Subject) -> Iterator[Finding]:
    """Find batch normalization over so few values that its statistics are noise.

    Args:
        subject: the network.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    rows = subject.outputs[subject.outputs["mode"] == "train"]
    if not subject.has("BatchNorm") or rows.empty:
        return
    values = rows["count"] / rows["channels"]
    few = rows[values < FEW]
    if few.empty:
        return
    least = float(values.min())
    yield Finding(
        "tiny-batch",
        "warning",
        subject.network,
        f"batch normalization sees {number(least)} values per channel",
        subject.where(few["block"], few["step"].unique()[:1]),
        {
            "values_per_channel": Measured(least),
            "relative_error_of_variance": Measured(math.sqrt(2 / max(least - 1, 1))),
        },
        "the variance of so few values is noise, gradients grow faster through the layers, and "
        "the running statistics used in evaluation differ from those of training",
        "use larger batches, SyncBatchNorm over processes, or group normalization",
        "model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # with several processes",
        "Wu & He 2018 (group normalization), figure 1; Yang et al. 2019",
    )


@finder("dead-by-normalization")
def dead_by_normalization(subject: Subject) -> Iterator[Finding]:
    """Find units that no batch can switch on: β + |γ| √(N - 1) ≤ 0 in front of a ReLU.

    A normalized value of N is at most √(N - 1) standard deviations from the mean.

    Args:
        subject: the network; its model has β and γ.

    Yields:
        At most one finding of each kind; none where all is well.
    """
    if subject.model is None or subject.outputs.empty:
        return
    values = float((subject.outputs["count"] / subject.outputs["channels"]).max())
    found = {}
    for name, norm in _before_rectifiers(subject):
        gamma, beta = norm.weight.detach().abs(), norm.bias.detach()
        off = int((beta + gamma * math.sqrt(max(values - 1, 0)) <= 0).sum())
        if off:
            found[name] = off / beta.numel()
    if found:
        yield Finding(
            "dead-by-normalization",
            "warning",
            subject.network,
            f"up to {number(100 * max(found.values()))} % of the units behind "
            f"{max(found, key=lambda n: found[n])} can be switched on by no batch of "
            f"{values:.0f} values",
            subject.where(names=found),
            {"share": Measured(max(found.values()))},
            "β is so far below 0 that the largest normalized value, √(N-1), stays below it",
            "set β of these units to 0, and decay it less, or lower the learning rate",
            "",
            "derived: max of a standardized sample of N is √(N-1)",
        )


def _before_rectifiers(subject: Subject) -> Iterator[tuple[str, BatchNorm]]:
    """Yield the affine batch norms that a ReLU follows in the same Sequential."""
    assert subject.model is not None
    for parent, module in subject.model.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        parts = list(module.named_children())
        for (name, one), (_, two) in pairwise(parts):
            if isinstance(two, nn.ReLU) and isinstance(one, BatchNorm) and one.affine:
                yield f"{parent}.{name}".lstrip("."), one
