"""How the size of a signal changes over the blocks, as logarithms. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sigprop.diagnosis.growth import shape
from sigprop.records.queries import DRAW, by_block
from sigprop.records.sequence import with_stack

Direction = Literal["forward", "backward"]

#: Share of a change that the blocks called responsible for it make up together.
RESPONSIBLE = 0.9
#: Share of a change that one block must make for it to be that block's own.
ALONE = 0.6


@dataclass(frozen=True)
class Profile:
    """The logarithm of a size before the first and behind every block, in the order of travel.

    Forward, the size is the second moment at block inputs and outputs. Backward, it is the squared
    norm of the gradient, from the last block's output to the first one's input: unlike its second
    moment, it does not change with the number of elements.

    Attributes:
        stack: the module above the blocks, where there are several sequences of blocks.
        blocks: depth indices of the blocks that are crossed, n of them.
        logs: draws x (n + 1), relative to the start; -inf where the size is 0, NaN where it is
            unknown or not finite.
        width: channels at the narrowest block.
    """

    stack: str
    blocks: tuple[int, ...]
    logs: NDArray[np.float64]
    width: float

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean over the draws, length n + 1."""
        return np.asarray(self.logs.mean(axis=0))


@dataclass(frozen=True)
class Change:
    """The largest departure of a profile from its start.

    Attributes:
        log: its logarithm at the furthest point; -inf where the signal is gone.
        crossed: how many blocks lie before that point.
        responsible: the first to the last of the fewest blocks that make `RESPONSIBLE` of it.
        alone: whether one block makes most of it.
        linear: whether a straight line describes the sizes better than a geometric curve.
    """

    log: float
    crossed: int
    responsible: tuple[int, ...]
    alone: bool
    linear: bool

    @property
    def rate(self) -> float:
        """Logarithm of the mean factor per block."""
        return self.log / max(self.crossed, 1)


def profiles(signals: pd.DataFrame, order: pd.DataFrame, direction: Direction) -> list[Profile]:
    """Return one profile per sequence of blocks that has a start and a block behind it.

    Args:
        signals: rows of one network, one step per draw, one block per call.
        order: the frame of `blocks_in_order`.
        direction: of activations or of gradients.
    """
    ends = [_sizes(signals, order, direction, port) for port in ("in", "out")]
    found = []
    for stack, outs in ends[1].groupby("stack", sort=True):
        ins = ends[0][ends[0]["stack"] == stack]
        table = outs.pivot_table(index=DRAW, columns="block", values="size", dropna=False)
        first = int(table.columns[0])
        entry = ins[ins["block"] == first].set_index(DRAW)["size"].reindex(table.index)
        known = bool(entry.notna().any())
        columns = [entry, *(table[block] for block in table)] if known else list(table.T.values)
        blocks = [int(block) for block in table.columns][0 if known else 1 :]
        logs = _logs(np.stack([np.asarray(column, dtype=float) for column in columns], axis=1))
        if direction == "backward":
            logs, blocks = logs[:, ::-1], blocks[::-1]
        logs = logs[np.isfinite(logs[:, 0])]
        if blocks and len(logs):
            name = str(outs["stack_name"].iloc[0]) if len(ends[1]["stack"].unique()) > 1 else ""
            width = float(outs["channels"].min())
            found.append(Profile(name, tuple(blocks), logs - logs[:, :1], width))
    return found


def _sizes(
    signals: pd.DataFrame, order: pd.DataFrame, direction: Direction, port: str
) -> pd.DataFrame:
    rows = by_block(signals, ["second_moment", "count", "channels"], direction, port)
    size = rows["second_moment"] * (rows["count"] if direction == "backward" else 1)
    return with_stack(rows.assign(size=size.mask(rows["nonfinite"])), order)


def _logs(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.log(np.where(np.isfinite(sizes), sizes, np.nan))


def change(profile: Profile) -> Change | None:
    """Return the largest departure from the start; None where there is none, or no size is known.

    Args:
        profile: as measured.

    Example:
        >>> logs = np.array([[0.0, 0.0, 7.0, 7.0]])
        >>> found = change(Profile("", (0, 1, 2), logs, 64))
        >>> found.responsible, found.alone
        ((1,), True)
    """
    mean = profile.mean
    known = np.flatnonzero(~np.isnan(mean))
    if len(known) < 2:
        return None
    gone = np.flatnonzero(np.isneginf(mean))
    if len(gone):
        at = int(gone[0])
        return Change(-math.inf, at, (profile.blocks[at - 1],), True, False)
    at = int(known[np.argmax(np.abs(mean[known]))])
    if mean[at] == 0:
        return None
    until = known[known <= at]
    steps = np.diff(mean[until]) * np.sign(mean[at])
    crossed = until[1:]
    largest = np.argsort(-steps, kind="stable")
    sums = np.cumsum(steps[largest])
    enough = int(np.argmax(sums >= RESPONSIBLE * abs(mean[at]))) + 1
    ends = np.sort(crossed[largest[:enough]])
    responsible = sorted(profile.blocks[ends[0] - 1 : ends[-1]])
    alone = len(steps) > 1 and bool(steps[largest[0]] >= ALONE * abs(mean[at]))
    with np.errstate(over="ignore"):
        sizes = pd.Series(np.exp(np.clip(mean[known], -700, 700)))
    form = shape(pd.Series(known), sizes)
    if alone:
        responsible = [profile.blocks[crossed[largest[0]] - 1]]
    return Change(float(mean[at]), at, tuple(responsible), alone, form == "linear")


def by_chance(blocks: int, width: float) -> float:
    """Return how far chance moves the log of a healthy signal: four standard deviations.

    Of a ReLU network with He's weights the second moment over the input's has an expectation of 1,
    and its logarithm the mean -5L/(2n) and the variance 5L/n over initializations.

    Source: Hanin 2018, *Which neural net architectures give rise to exploding and vanishing
    gradients?*, theorem 3.

    Args:
        blocks: L, layers that are crossed.
        width: n, units of a layer.

    Example:
        >>> round(by_chance(20, 100), 3)
        4.5
    """
    spread = 5 * blocks / max(width, 1)
    return spread / 2 + 4 * math.sqrt(spread)
