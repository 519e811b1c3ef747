"""The statistics of one step, on the host: what the accumulator returns and rows are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from sigprop.capture.recording.own_metrics import Averages
from sigprop.capture.recording.tap import Tap
from sigprop.capture.recording.tensor_statistics import Array


@dataclass(frozen=True)
class StepStatistics:
    """What was seen in one step.

    Attributes:
        taps: where, one for each row; the very list of the step before where nothing changed.
        tables: channel statistics, each of shape (C, 11).
        index: for each tap, which of ``tables`` is its own; several taps may share one.
        rectified: the taps at which a rectifier's output was seen.
        products: for the taps of branches, (Σa², Σb², Σab) over skip a and branch b.
        averages: for taps, a user's own metrics, with the elements that they are averages over.
    """

    taps: Sequence[Tap]
    tables: Sequence[Array]
    index: Sequence[int]
    rectified: Set[Tap] = frozenset()
    products: Mapping[Tap, Array] = field(default_factory=dict)
    averages: Mapping[Tap, Averages] = field(default_factory=dict)
