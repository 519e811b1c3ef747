"""Laws of how scale-invariant weights move, judged on the recorded steps of one training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from sigprop.errors import BadInput, suggestion
from sigprop.records import Records
from sigprop.registry import Registry
from sigprop.scale_invariance.equilibrium import Equilibrium, equilibrium
from sigprop.verification.intervals import HOLDS, UNDECIDED, VIOLATED, judge, log_mean_interval

Array = npt.NDArray[np.float64]

#: Recorded steps are cut into so many stretches; each gives one ratio, nearly independent.
_STRETCHES = 10


@dataclass(frozen=True)
class MotionLaw:
    """What a scale-invariant weight does from step to step.

    Attributes:
        name: as the user asks for it.
        says: the law in words.
        ratio: ``(rows of one parameter, equilibrium) -> measured over predicted``, one number of a
            stretch of steps.
        at_equilibrium: needs weight decay, and steps after the balance is reached.
    """

    name: str
    says: str
    ratio: Callable[[pd.DataFrame, Equilibrium | None], float]
    at_equilibrium: bool = False


def _growth(rows: pd.DataFrame, _: Equilibrium | None) -> float:
    lengths, moved = _column(rows, "weight_norm"), _column(rows, "update_to_weight")
    grown = (lengths[1:] / lengths[:-1]) ** 2 - 1  # what a ratio of lengths near 1 would hide
    return float(np.sum(grown) / np.sum(moved[:-1] ** 2))


def _effective_rate(rows: pd.DataFrame, _: Equilibrium | None) -> float:
    steepness = _column(rows, "grad_norm") * _column(rows, "weight_norm")
    expected = np.arctan(_column(rows, "effective_lr") * steepness)
    return _rms(_column(rows, "angular_update") / expected)


def _angle(rows: pd.DataFrame, settled: Equilibrium | None) -> float:
    assert settled is not None
    return _rms(_column(rows, "angular_update")) / settled.angle


def _norm(rows: pd.DataFrame, settled: Equilibrium | None) -> float:
    assert settled is not None
    length = _rms(_column(rows, "weight_norm"))
    drive = float(rows["count"].iloc[0])
    if settled.norm_power == 4:
        drive = (_rms(_column(rows, "grad_norm")) * length) ** 2
    return length / settled.norm(drive)


#: The laws by name.
LAWS: Registry[MotionLaw] = Registry("law of motion")
for _law in (
    MotionLaw(
        "growth",
        "plain SGD without decay makes the weight longer: ‖w'‖ = √(1 + c²) ‖w‖, c = ‖Δw‖/‖w‖",
        _growth,
    ),
    MotionLaw(
        "effective-rate",
        "plain SGD without decay turns the weight by tan(angle) = (eta/‖w‖²) ‖w‖‖g‖",
        _effective_rate,
    ),
    MotionLaw(
        "equilibrium-angle",
        "with weight decay the angle per step settles where theory has it",
        _angle,
        at_equilibrium=True,
    ),
    MotionLaw(
        "equilibrium-norm",
        "with weight decay the length settles where theory has it",
        _norm,
        at_equilibrium=True,
    ),
):
    LAWS.register(_law.name)(_law)


@dataclass(frozen=True)
class MotionResult:
    """What `verify_motion` found.

    Attributes:
        law: that was tested.
        table: a row per parameter: ``name``, ``ratio`` of measured over predicted, ``low`` and
            ``high`` of its interval, ``steps`` that it rests on, ``verdict``.
        tolerance: the relative deviation that still holds.
    """

    law: MotionLaw
    table: pd.DataFrame
    tolerance: float

    @property
    def verdict(self) -> str:
        """``"holds"``, ``"violated"`` or ``"undecided"``: of all parameters together."""
        found = set(self.table["verdict"])
        if VIOLATED in found:
            return VIOLATED
        return HOLDS if found == {HOLDS} else UNDECIDED

    @property
    def holds(self) -> bool:
        """Whether every parameter keeps the law, shown by its interval."""
        return self.verdict == HOLDS

    def __str__(self) -> str:
        head = f"{self.verdict.upper()}: {self.law.says}, within {self.tolerance:.0%}"
        rows = self.table.to_string(index=False, float_format="{:.4g}".format)
        return f"{head}\n{rows}"


def verify_motion(
    records: Records,
    optimizer: torch.optim.Optimizer,
    law: str,
    names: Iterable[str],
    tolerance: float = 0.05,
    *,
    level: float = 0.95,
    discard: int | None = None,
) -> MotionResult:
    """Judge a law of motion on a training that was recorded step by step.

    `sigprop.verify` draws initializations and judges blocks; here the draws are ten stretches of
    one training, and parameters are judged. The mean ratio of measured over predicted is given an
    interval, and the verdict is that of an equivalence test, as there.

    Args:
        records: of a probe that was attached to the optimizer, every step recorded.
        optimizer: as the training had it; only its settings are read.
        law: ``"growth"``, ``"effective-rate"``, ``"equilibrium-angle"``, ``"equilibrium-norm"``.
        names: parameters, such as `find` returns them.
        tolerance: relative deviation that still holds.
        level: confidence of each interval.
        discard: steps at the beginning that are left out; 2/(eta lambda) for an equilibrium, none
            for other laws, when not given.

    Returns:
        Verdict and table.

    Raises:
        UnknownName: no law has that name.
        BadInput: a parameter that was not recorded with its updates, steps left out, fewer than
            20 steps after what is discarded, or an optimizer whose equilibrium is not known.
    """
    chosen = LAWS[law]
    settled = equilibrium(optimizer) if chosen.at_equilibrium else None
    start = math.ceil(4 * settled.steps) if settled is not None else 0
    if discard is not None:
        start = discard
    rows = []
    for name in names:
        series = _series(records.parameters, name, start)
        ratios = np.array([chosen.ratio(stretch, settled) for stretch in _stretches(series)])
        mean = float(ratios.mean())
        if not mean > 0:  # the weight shrinks where the law has it grow, or nothing moves
            rows.append((name, mean, math.nan, math.nan, len(series), VIOLATED))
            continue
        interval = log_mean_interval(ratios, level)
        ends = [math.exp(x) for x in (interval.estimate, interval.low, interval.high)]
        rows.append((name, *ends, len(series), judge(interval, 0.0, tolerance)))
    if not rows:
        raise BadInput("give at least one parameter's name; scale_invariance.find tells them")
    columns = ["name", "ratio", "low", "high", "steps", "verdict"]
    return MotionResult(chosen, pd.DataFrame(rows, columns=columns), tolerance)


def _series(parameters: pd.DataFrame, name: str, start: int) -> pd.DataFrame:
    """Return the rows of one parameter in the order of steps, from ``start`` on.

    Raises:
        BadInput: it was not recorded, without updates, not at every step, or too few times.
    """
    found = parameters[parameters["name"] == name].sort_values("step")
    if found.empty:
        known = parameters["name"].unique()
        raise BadInput(f"no parameter {name!r} was recorded; {suggestion(name, known)}")
    if not (found["step"].diff().dropna() == 1).all():
        raise BadInput(
            f"{name!r} was not recorded at every step of one training; attach with every=1"
        )
    kept = found[found["step"] >= start]
    if kept["angular_update"].isna().any():
        raise BadInput(f"{name!r} has steps without an update; attach with the optimizer")
    if len(kept) < 2 * _STRETCHES:
        raise BadInput(
            f"{len(kept)} steps of {name!r} are left after the first {start}, and at least "
            f"{2 * _STRETCHES} are needed; record a longer training"
        )
    return kept


def _stretches(series: pd.DataFrame) -> list[pd.DataFrame]:
    edges = np.linspace(0, len(series), _STRETCHES + 1).astype(int)
    return [series.iloc[a:b] for a, b in pairwise(edges)]


def _column(rows: pd.DataFrame, name: str) -> Array:
    return rows[name].to_numpy(np.float64)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))
