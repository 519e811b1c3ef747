"""Runs claims, and saboteurs; keeps the outcomes and has them written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sigprop.claims.claim import CLAIMS, NOT_RUN, SABOTEURS, Claim, Trial, saboteurs_of
from sigprop.claims.comparison import overall_verdict
from sigprop.claims.faults import Fault
from sigprop.claims.outcome import Finding, Outcome, counts, summary, table
from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.inputs.devices import Device, resolve_device
from sigprop.records import new_manifest

#: The order in which themes are run and shown; others follow.
THEMES = (
    "residual",
    "centering",
    "zero_start",
    "training",
    "normalization",
    "invariances",
    "weightnorm",
    "nf",
    "nf_parts",
    "meanfield",
    "width",
    "matrices",
    "optimization",
    "capture",
    "laws",
    "errata",
    "scale",
)

Progress = Callable[[str, int, int, Outcome | None], None]


@dataclass
class Ledger:
    """Outcomes of a run.

    Attributes:
        outcomes: one per claim, by theme.
        manifest: command, versions, seeds.
    """

    outcomes: list[Outcome]
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Of everything that was run; what was not run does not count."""
        return overall_verdict([o.verdict for o in self.outcomes])

    @property
    def counts(self) -> dict[str, int]:
        """Number of claims per verdict."""
        return counts(self.outcomes)

    @property
    def table(self) -> pd.DataFrame:
        """One row per number measured; a claim that was not run has one row without numbers."""
        return table(self.outcomes)

    @property
    def summary(self) -> pd.DataFrame:
        """One row per claim, with the number that decides its verdict."""
        return summary(self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it: no NaN, no infinity."""
        from sigprop.claims.page import plain

        return plain(self.outcomes, self.manifest)

    def save(self, directory: str | Path) -> Path:
        """Write claims.csv, claims.json, the page claims.md and the figures; return the page.

        Args:
            directory: where to; it is made when it is missing.

        Returns:
            The path of claims.md.

        Raises:
            RunError: the directory cannot be written.
        """
        from sigprop.claims.page import write  # matplotlib is loaded when a ledger is written

        return write(self.outcomes, self.manifest, Path(directory))


def select_claims(asked: Sequence[str] = ()) -> list[Claim]:
    """Return the claims that any of the names or tags picks, all of them when there are none.

    Args:
        asked: names or tags.

    Returns:
        Claims in the order of the themes.

    Raises:
        UnknownName: something asked for is neither a name nor a tag.

    Example:
        >>> [claim.name for claim in select_claims(["rezero-jacobian"])]
        ['rezero-jacobian']
    """
    tags = {tag for claim in CLAIMS.values() for tag in claim.tags}
    for name in asked:
        if name not in CLAIMS and name not in tags:
            known = suggestion(name, [*CLAIMS, *tags])
            raise UnknownName(f"no claim or tag is called {name!r}; {known}")
    picked = [
        claim
        for claim in CLAIMS.values()
        if not asked or claim.name in asked or set(claim.tags) & set(asked)
    ]
    order = {theme: position for position, theme in enumerate(THEMES)}
    return sorted(picked, key=lambda claim: order.get(claim.theme, len(order)))


def run(
    asked: Sequence[str] = (),
    on_progress: Progress | None = None,
    seed_base: int = 0,
    *,
    quick: bool = False,
    jobs: int = 1,
    device: Device = "auto",
) -> Ledger:
    """Measure claims and return the ledger.

    Args:
        asked: names or tags; everything when empty.
        on_progress: called as ``(name, done, of, outcome)``, without an outcome when a claim
            starts (one process) and with it when it ends.
        seed_base: the first seed; verdicts should not depend on it.
        quick: small sizes, for a test suite.
        jobs: processes; each uses one thread.
        device: where networks are measured and trained, as in `sigprop.measure`.

    Returns:
        Outcomes in the order of the themes, and the manifest.

    Raises:
        UnknownName: something asked for is neither a name nor a tag.
        BadInput: fewer than one job, or the device is not there.
    """
    if jobs < 1:
        raise BadInput(f"jobs must be at least 1, got {jobs!r}")
    claims = select_claims(asked)
    names = [claim.name for claim in claims]
    trial = Trial(seed_base, quick, str(resolve_device(device)))
    report_progress: Progress = on_progress or (lambda name, done, of, outcome: None)
    many = jobs > 1 and len(names) > 1
    found: dict[str, Outcome] = {}
    for outcome in (
        _parallel(names, trial, jobs) if many else _serial(names, trial, report_progress)
    ):
        found[outcome.name] = outcome
        report_progress(outcome.name, len(found), len(names), outcome)
    threads = 1 if many else torch.get_num_threads()
    manifest = new_manifest(
        seeds=[seed_base], quick=quick, threads=threads, device=str(trial.device)
    )
    return Ledger([found[name] for name in names], {**manifest, "status": "complete"})


def _serial(names: Sequence[str], trial: Trial, report_progress: Progress) -> Iterator[Outcome]:
    for done, name in enumerate(names):
        report_progress(name, done, len(names), None)
        yield measure_claim(name, trial)


def _parallel(names: Sequence[str], trial: Trial, jobs: int) -> Iterator[Outcome]:
    context = get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for future in as_completed([pool.submit(measure_claim, name, trial) for name in names]):
            yield future.result()


def measure_claim(name: str, trial: Trial) -> Outcome:
    """Return the outcome of one claim; an error in it is recorded, not raised: the others go on.

    Args:
        name: of the claim.
        trial: seeds and sizes.

    Returns:
        Its findings, or the error that ended it.
    """
    function = CLAIMS[name].function
    if function is None:
        return Outcome(name)
    begun = time.perf_counter()
    try:
        findings = tuple(Finding(name, comparison) for comparison in function(trial))
    except Exception as error:
        return Outcome(name, (), time.perf_counter() - begun, f"{type(error).__name__}: {error}")
    return Outcome(name, findings, time.perf_counter() - begun)


def sabotage(name: str, seed_base: int = 0, *, quick: bool = True) -> Finding:
    """Run a claim's comparison on a subject broken on purpose and return the most violated number.

    Args:
        name: of a saboteur (``"claim: what"``), or of a claim, for its first one.
        seed_base: the first seed.
        quick: small sizes.

    Returns:
        The number that uses most of its tolerance.

    Raises:
        UnknownName: no saboteur or claim has that name.
        BadInput: the claim is not run here, so that there is nothing to break.

    Example:
        >>> sabotage("rescale-algebra").verdict
        'violated'
    """
    known = saboteurs_of(name) if name in CLAIMS else [SABOTEURS[name]]
    if not known:
        raise BadInput(f"{name!r} has no saboteur: it is {NOT_RUN}")
    saboteur = known[0]
    function = CLAIMS[saboteur.claim].function
    assert function is not None  # what has saboteurs has a function
    trial = Trial(seed_base, quick)
    if isinstance(saboteur.changes, Fault):
        with saboteur.changes.applied():
            comparisons = function(trial)
    else:
        comparisons = function(trial, **saboteur.changes)
    found = [Finding(saboteur.claim, comparison, saboteur.what) for comparison in comparisons]
    overall = overall_verdict([finding.verdict for finding in found])
    alike = [finding for finding in found if finding.verdict == overall]
    return max(alike, key=lambda finding: abs(finding.comparison.tolerance_used))
