"""What came of a claim, number by number, and tables of many. Runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from sigprop.claims.claim import CLAIMS, NOT_RUN, Claim
from sigprop.claims.comparison import Comparison, overall_verdict
from sigprop.verification.intervals import UNDECIDED


@dataclass(frozen=True)
class Finding:
    """One number of a claim, with its verdict.

    Attributes:
        claim: name of the claim.
        comparison: prediction and measurement.
        saboteur: what was broken on purpose; empty where nothing was.
    """

    claim: str
    comparison: Comparison
    saboteur: str = ""

    @property
    def verdict(self) -> str:
        """``"holds"``, ``"violated"`` or ``"undecided"``."""
        return self.comparison.verdict


@dataclass(frozen=True)
class Outcome:
    """What came of one claim.

    Attributes:
        name: of the claim.
        findings: its numbers; none when it was not run.
        seconds: how long it took.
        failure: the error that ended it, or empty.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0
    failure: str = ""

    @property
    def claim(self) -> Claim:
        """The claim itself."""
        return CLAIMS[self.name]

    @property
    def verdict(self) -> str:
        """Of all numbers together; a claim that could not be measured is undecided."""
        if self.claim.function is None:
            return NOT_RUN
        return UNDECIDED if self.failure else overall_verdict([f.verdict for f in self.findings])

    @property
    def decisive(self) -> Finding | None:
        """The number that uses most of what is allowed, of those with the outcome's verdict."""
        alike = [f for f in self.findings if f.verdict == self.verdict]
        return max(alike, key=lambda f: abs(f.comparison.tolerance_used), default=None)


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the number of claims per verdict."""
    found = pd.Series([o.verdict for o in outcomes], dtype="object").value_counts()
    return {str(name): int(count) for name, count in found.items()}


def table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row per number; a claim that was not run has one row without numbers."""
    rows = []
    for outcome in outcomes:
        made = outcome.claim
        about = {
            "claim": made.name,
            "theme": made.theme,
            "title": made.title,
            "source": made.source,
            "conditions": made.conditions,
        }
        end = {"seconds": outcome.seconds, "claim_verdict": outcome.verdict}
        comparisons = [f.comparison for f in outcome.findings]
        rows += [{**about, **_columns(comparison), **end} for comparison in comparisons]
        if not comparisons:
            rows.append({**about, "verdict": outcome.verdict, **end})
    return pd.DataFrame(rows)


def summary(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row per claim, with the number that decides its verdict."""
    rows = []
    for outcome in outcomes:
        row: dict[str, Any] = {"claim": outcome.name}
        if outcome.decisive is not None:
            kept = _columns(outcome.decisive.comparison)
            names = ("what", "relation", "predicted", "measured", "error", "tolerance")
            row |= {name: kept[name] for name in names}
        rows.append({**row, "verdict": outcome.verdict, "seconds": outcome.seconds})
    return pd.DataFrame(rows)


def _columns(comparison: Comparison) -> dict[str, Any]:
    columns = asdict(comparison)
    del columns["verdict_elsewhere"]
    return {**columns, "verdict": comparison.verdict}
