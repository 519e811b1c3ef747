"""The ledger on paper: one page in Markdown, the numbers as CSV and JSON, and the figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from sigprop.claims.claim import NOT_RUN, Saboteur, saboteurs_of
from sigprop.claims.comparison import Comparison
from sigprop.claims.figures import FIGURES, NothingToDraw
from sigprop.claims.outcome import Outcome, counts, table
from sigprop.errors import RunError
from sigprop.records import atomic_write
from sigprop.records.spreadsheet import csv_text
from sigprop.reporting.canvas import save
from sigprop.theory import ERRATA

#: What a reader has to know.
_ABOUT = (
    "Deep networks explode, fade or train according to how the size of activations and gradients "
    "changes from block to block. This page lists what papers claim about that, each claim as a "
    "number that theory predicts and a measurement of it. A claim about a kind of network is "
    "measured on that network as `sigprop.networks` builds it, with `sigprop.measure`, "
    "`sigprop.verify` or another public function, so that it also tests the library; what concerns "
    "no such network is compared with an integral, a simulation or a matrix made for the purpose.",
    "",
    "A number **holds** when its whole 95 % interval lies inside the tolerance, is **violated** "
    "when the interval lies outside, and **undecided** when it crosses an edge. The tolerance and "
    "the reason for it stand beside each number. ± is one standard error over draws; numbers "
    "without it are not random. What needs a larger machine is listed at the end and does not "
    "count. For each claim stands what was broken on purpose to see that it then turns red: in the "
    "library itself, or in what is measured; the test suite does that.",
    "",
    "Symbols: n units of a layer, N or B samples of a batch, L layers or blocks, x_k the "
    "activation after block k, g_k the gradient there, E a mean over weights, gain² = n Var of a "
    "weight, alpha and beta the factors of skip and branch, c the constant in them, f a "
    "nonlinearity, eta a learning rate.",
)


def _act(saboteur: Saboteur) -> str:
    own = saboteur.what.removeprefix("library: ")
    return f"{own} (in the library)" if own != saboteur.what else own


def write(outcomes: Sequence[Outcome], manifest: Mapping[str, Any], directory: Path) -> Path:
    """Write a ledger's files and return the page.

    Args:
        outcomes: what was measured.
        manifest: facts about the run.
        directory: where to; it is made when it is missing.

    Returns:
        The path of claims.md.

    Raises:
        RunError: the directory cannot be written.
    """
    try:
        (directory / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the directory {directory}: {error.strerror}") from None
    drawn = {}
    for name, figure in FIGURES.items():
        try:
            made = figure(outcomes)
        except NothingToDraw:
            continue
        drawn[name] = figure.__doc__ or name
        for kind in ("png", "svg"):
            atomic_write(directory / "figures" / f"{name}.{kind}", partial(save, made, kind))
    page = directory / "claims.md"
    texts = {
        "claims.csv": csv_text(table(outcomes)),
        "claims.json": json.dumps(plain(outcomes, manifest), indent=1, ensure_ascii=False) + "\n",
        "claims.md": "\n".join(_page(outcomes, manifest, drawn)) + "\n",
    }
    for name, text in texts.items():
        atomic_write(directory / name, lambda path, text=text: path.write_text(text, "utf-8"))
    return page


def plain(outcomes: Sequence[Outcome], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger as JSON takes it: no NaN, no infinity.

    Args:
        outcomes: what was measured.
        manifest: facts about the run.
    """
    return {
        "manifest": dict(manifest),
        "counts": counts(outcomes),
        "claims": [
            {
                "name": o.name,
                "title": o.claim.title,
                "statement": o.claim.statement,
                "source": o.claim.source,
                "conditions": o.claim.conditions,
                "tags": list(o.claim.tags),
                "note": o.claim.note,
                "verdict": o.verdict,
                "seconds": round(o.seconds, 2),
                "failure": o.failure,
                "findings": [_json_check(f.comparison) for f in o.findings],
            }
            for o in outcomes
        ],
    }


def _json_check(comparison: Comparison) -> dict[str, Any]:
    kept = {**comparison.__dict__, "verdict": comparison.verdict}
    del kept["verdict_elsewhere"]
    return {
        key: value if not isinstance(value, float) or math.isfinite(value) else _word(value)
        for key, value in kept.items()
    }


def _word(value: float) -> str | None:
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"


def _page(
    outcomes: Sequence[Outcome], manifest: Mapping[str, Any], drawn: Mapping[str, str]
) -> Iterable[str]:
    ran = [o for o in outcomes if o.verdict != NOT_RUN]
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts(outcomes).items())
    yield "# The ledger of claims"
    yield ""
    yield (
        f"{len(outcomes)} claims: {found}. Made by `{manifest.get('command', '')}` "
        f"in {sum(o.seconds for o in ran):.0f} s; "
        f"first seed {manifest.get('seeds', [0])[0]}."
    )
    yield ""
    yield from _ABOUT
    for name, about in drawn.items():
        yield from ("", f"![{about.splitlines()[0]}](figures/{name}.svg)")
    yield from _overview(outcomes)
    yield from _misprints(ran)
    for theme in dict.fromkeys(o.claim.theme for o in ran):
        yield from ("", f"## {theme.replace('_', ' ').capitalize()}")
        for outcome in ran:
            if outcome.claim.theme == theme:
                yield from _section(outcome)
    yield from _not_run([o for o in outcomes if o.verdict == NOT_RUN])
    yield from _versions(manifest)


def _overview(outcomes: Sequence[Outcome]) -> Iterable[str]:
    yield from ("", "## All claims", "", "Of each the number that uses most of its tolerance.", "")
    yield from _rows(["claim", "what is compared", "predicted", "measured", "verdict", "s"])
    for o in outcomes:
        comparison = o.decisive.comparison if o.decisive else None
        numbers = ["", "", ""] if comparison is None else [comparison.what, *_numbers(comparison)]
        yield _row([f"{o.name}", *numbers, o.verdict, f"{o.seconds:.1f}"])


def _misprints(outcomes: Sequence[Outcome]) -> Iterable[str]:
    wrong = [o for o in outcomes if o.claim.erratum]
    if not wrong:
        return
    yield from ("", "## Misprints: the printed form beside the right one", "")
    yield from _rows(["", "printed", "right", "number", "printed gives", "right gives", "measured"])
    for o in wrong:
        erratum = ERRATA[o.claim.erratum]
        for index, finding in enumerate(o.findings):
            comparison = finding.comparison
            words = [erratum.key, erratum.wrong, erratum.right] if index == 0 else ["", "", ""]
            predicted, found = _numbers(comparison)
            yield _row([*words, comparison.what, _number(comparison.printed), predicted, found])


def _section(outcome: Outcome) -> Iterable[str]:
    claim = outcome.claim
    yield from ("", f"### {claim.title}", "")
    yield f"`{claim.name}`, **{outcome.verdict}**. {claim.statement}."
    yield from ("", f"*Source:* {claim.source}. *Conditions:* {claim.conditions}.")
    if claim.note:
        yield from ("", f"*Note:* {claim.note}.")
    broken = [_act(saboteur) for saboteur in saboteurs_of(claim.name)]
    yield from ("", f"*What turns it red:* {'; '.join(broken)}.")
    if outcome.failure:
        yield from ("", f"*It could not be measured:* {outcome.failure}")
        return
    yield ""
    header = ["what is compared", "predicted", "measured", "tolerance", "why", "verdict"]
    yield from _rows(header)
    for finding in outcome.findings:
        comparison = finding.comparison
        tolerance = "" if math.isnan(comparison.tolerance) else f"± {comparison.tolerance:.2g}"
        yield _row(
            [
                comparison.what,
                *_numbers(comparison),
                tolerance,
                comparison.reason,
                comparison.verdict,
            ]
        )


def _not_run(outcomes: Sequence[Outcome]) -> Iterable[str]:
    if not outcomes:
        return
    yield from ("", "## Not run: these need a GPU-size run", "")
    yield from _rows(["claim", "statement", "conditions", "source", "what stands in for it"])
    for o in outcomes:
        c = o.claim
        yield _row([f"{c.title} (`{c.name}`)", c.statement, c.conditions, c.source, c.note])


def _versions(manifest: Mapping[str, Any]) -> Iterable[str]:
    versions = manifest.get("versions", {})
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield from ("", f"*{manifest.get('created', '')}; {made}.*")


def _numbers(comparison: Comparison) -> list[str]:
    relation = "" if comparison.relation == "=" else f"{comparison.relation} "
    error = f" ± {comparison.error:.2g}" if comparison.error > 0 else ""
    return [f"{relation}{_number(comparison.predicted)}", f"{_number(comparison.measured)}{error}"]


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.6g}"


def _rows(names: Sequence[str]) -> Iterable[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
