"""Recorded numbers under grouped keys: one chart a number, the depth in the end of the key."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

import pandas as pd

from sigprop.diagnosis.finding import Findings
from sigprop.errors import BadInput
from sigprop.records import Records
from sigprop.records.queries import in_training_mode, own_rows

#: Numbers of a block's output and of its gradient that are charted if none are named.
SIGNALS = ("second_moment", "channel_variance", "dead_fraction")
#: Numbers of a weight.
PARAMETERS = ("grad_to_weight", "update_to_weight")
TRAINING = ("loss", "accuracy", "learning_rate")

NO_FINDINGS = Findings(())


class StepNumbers(NamedTuple):
    """The numbers of one step of one network and seed.

    Attributes:
        network: its name.
        seed: what it was initialized from.
        step: the step.
        numbers: key -> number; those that are not defined are left out.
    """

    network: str
    seed: int
    step: int
    numbers: dict[str, float]


def by_step(
    records: Records,
    signals: Sequence[str] = SIGNALS,
    parameters: Sequence[str] = PARAMETERS,
) -> Iterator[StepNumbers]:
    """Yield the numbers of each step, under keys that tools group by their slashes.

    The keys are ``forward/second_moment/03_blocks.3`` for the output of a block, ``backward/...``
    for its gradient, ``parameters/update_to_weight/03_blocks.3.weight`` for a weight with two axes
    or more, and ``train/loss``. The number in front of a name is the depth, so that names sort as
    the signal travels.

    Args:
        records: of any run; of a probe in a loop, what `Probe.drain` returns.
        signals: columns of `signals`, of blocks' outputs.
        parameters: columns of `parameters`.

    Raises:
        BadInput: a column has no such name.

    Example:
        >>> import torch, sigprop
        >>> records = sigprop.measure("plain", torch.randn(8, 1, 8, 8), options={"depth": 2})
        >>> [key for key in next(by_step(records, ["mean"], [])).numbers]
        ['forward/mean/0_blocks.0', 'forward/mean/1_blocks.1', 'backward/mean/1_blocks.1',
        'backward/mean/0_blocks.0']
    """
    rows = own_rows(in_training_mode(records.signals))
    rows = rows[rows["port"] == "out"]
    weights = records.parameters[records.parameters["ndim"] > 1]
    training = records.training
    parts = [
        *_parts(rows, rows["direction"], rows["name"], signals),
        *_parts(weights, pd.Series("parameters", weights.index), weights["name"], parameters),
        *_parts(training.assign(block=-1), training["mode"], None, TRAINING),
    ]
    draw = ["network", "seed", "step"]
    found = pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=[*draw])])
    for _, group in found.groupby(draw, sort=False):
        network, seed, step = group[draw].iloc[0]
        numbers = dict(zip(group["key"], group["value"].astype(float), strict=True))
        yield StepNumbers(str(network), int(seed), int(step), numbers)


def _parts(
    rows: pd.DataFrame,
    first: pd.Series[str],
    name: pd.Series[str] | None,
    columns: Sequence[str],
) -> Iterator[pd.DataFrame]:
    """Yield network, seed, step, key and value of each column, where it is defined.

    Raises:
        BadInput: there is no such column.
    """
    depth = len(str(max(0, rows["block"].max()))) if len(rows) else 1
    for column in columns:
        if column not in rows.columns:
            raise BadInput(f"the records have no column {column!r}")
        key = first.astype(str) + f"/{column}"
        if name is not None:
            inside = rows["block"].clip(lower=0).astype(str).str.zfill(depth)
            key = key + "/" + inside + "_" + name.astype(str)
        made = rows[["network", "seed", "step"]].assign(key=key, value=rows[column])
        yield made[made["value"].notna()]


def findings_text(findings: Findings) -> dict[str, str]:
    """Return findings as texts: ``network/id`` -> a paragraph of Markdown.

    Example:
        >>> findings_text(Findings(()))
        {}
    """
    return {f"{one.network}/{one.id}": f"```\n{one}\n```" for one in findings}


def package(name: str, extra: str) -> ModuleType:
    """Return an optional package.

    Args:
        name: of the module.
        extra: of sigprop, which installs it.

    Raises:
        BadInput: it is not installed.

    Example:
        >>> package("no_such_package", "all")
        Traceback (most recent call last):
        ...
        sigprop.errors.BadInput: no_such_package is not installed; pip install 'sigprop[all]'
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BadInput(
            f"{name.partition('.')[0]} is not installed; pip install 'sigprop[{extra}]'"
        ) from None
