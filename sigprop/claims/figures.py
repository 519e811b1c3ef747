"""The ledger in pictures: every claim on one sheet, and curves where claims make one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sigprop.claims.claim import NOT_RUN
from sigprop.claims.comparison import Comparison
from sigprop.claims.outcome import Outcome
from sigprop.registry import Registry
from sigprop.reporting.canvas import Sheet, legend, theme
from sigprop.verification.intervals import HOLDS, UNDECIDED, VIOLATED

#: Verdict -> color and marker; distinct without color too.
LOOKS = {HOLDS: ("#0072b2", "o"), VIOLATED: ("#d55e00", "X"), UNDECIDED: ("#b8860b", "D")}
_GREY = "0.62"
#: Beyond this share of its tolerance a number is drawn at the border.
_REACH = 1.3

#: Where the three columns of text stand, in widths of their panel.
_COLUMNS = (0.0, 0.19, 0.48)

#: Claim -> title, horizontal label, vertical label, horizontal scale: claims that make a curve.
CURVES = {
    "relu-correlation-map": (
        "A He ReLU net makes inputs alike",
        "layer",
        "cosine of two inputs",
        "linear",
    ),
    "dead-units": (
        "Dead units of a He ReLU net",
        "layer",
        "share active on none of 128 samples",
        "linear",
    ),
    "bn-gradient-explosion": (
        "BatchNorm without skips explodes",
        "batch size B",
        "growth of the squared gradient per layer",
        "log",
    ),
    "lyapunov-exponents": (
        "Products of Gaussian matrices",
        "index i",
        "Lyapunov exponent",
        "linear",
    ),
}


class NothingToDraw(Exception):
    """No outcome is of the kind that this figure shows."""


FIGURES: Registry[Callable[[Sequence[Outcome]], Figure]] = Registry("figure of the ledger")


@FIGURES.register("claims")
def claims(outcomes: Sequence[Outcome]) -> Figure:
    """Every claim: how far each number lies from its prediction, in units of its tolerance.

    Args:
        outcomes: what was measured.

    Returns:
        The figure.

    Raises:
        NothingToDraw: there is no outcome.
    """
    groups = _groups(outcomes)
    if not groups:
        raise NothingToDraw
    rows = sum(len(group) for group in groups.values()) + 1.1 * len(groups)
    with theme():
        sheet = Sheet(12.5, 1.3 + 0.2 * rows)
        axes, words = sheet.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
        words.set_axis_off()
        height = 0.0
        ticks: list[tuple[float, str]] = []
        for name, group in groups.items():
            _heading(axes, height, name)
            for outcome in group:
                height += 1
                ticks.append((height, outcome.name))
                _claim(axes, height, outcome)
                _in_numbers(words, height, outcome)
            height += 1.1
        _frame(axes, height, ticks)
        _columns(words, -0.6, ("predicted", "measured", "of"), size=7.5, weight="bold")
        legend(sheet, _entries(outcomes))
    return sheet


def _groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.claim.theme.replace("_", " "), []).append(outcome)
    return groups


def _heading(axes: Axes, height: float, name: str) -> None:
    axes.text(
        -0.008,
        height + 0.12,
        name,
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center",
        weight="bold",
        size=8.5,
    )


def _frame(axes: Axes, end: float, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvspan(-1, 1, color="0.93", zorder=0, linewidth=0)
    axes.axvline(0, color="0.55", linewidth=0.8, zorder=1)
    axes.set_xlim(-_REACH, _REACH)
    axes.set_ylim(end - 0.4, -0.6)
    axes.set_yticks([height for height, _ in ticks], [name for _, name in ticks], size=7.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("(measured − predicted) / tolerance")


def _claim(axes: Axes, height: float, outcome: Outcome) -> None:
    if outcome.verdict == NOT_RUN or outcome.decisive is None:
        words = outcome.verdict if outcome.verdict == NOT_RUN else "could not be measured"
        axes.text(0, height, words, ha="center", va="center", size=7, color="0.4", style="italic")
        return
    for finding in outcome.findings:
        _number(axes, height, finding.comparison, main=finding is outcome.decisive)


def _in_numbers(words: Axes, height: float, outcome: Outcome) -> None:
    if outcome.decisive is None:
        return
    comparison = outcome.decisive.comparison
    sign = "" if comparison.relation == "=" else comparison.relation + " "
    error = f" ± {comparison.error:.1g}" if comparison.error > 0 else ""
    texts = (
        f"{sign}{comparison.predicted:.5g}",
        f"{comparison.measured:.5g}{error}",
        _short(comparison.what),
    )
    _columns(words, height, texts, size=6.8)


def _columns(words: Axes, height: float, texts: Sequence[str], **look: Any) -> None:
    for at, text in zip(_COLUMNS, texts, strict=True):
        words.text(at, height, text, transform=words.get_yaxis_transform(), va="center", **look)


def _short(words: str, longest: int = 46) -> str:
    return words if len(words) <= longest else words[: longest - 1] + "…"


def _number(axes: Axes, height: float, comparison: Comparison, main: bool) -> None:
    color, marker = LOOKS[comparison.verdict]
    at = float(np.clip(comparison.tolerance_used, -0.97 * _REACH, 0.97 * _REACH))
    bounded = comparison.relation != "="
    scale = comparison.tolerance if not bounded and comparison.tolerance > 0 else np.nan
    if main and comparison.half_width > 0 and np.isfinite(scale):
        half = comparison.half_width / scale
        ends = np.clip(
            [comparison.tolerance_used - half, comparison.tolerance_used + half], -_REACH, _REACH
        )
        axes.plot(ends, [height, height], color=color, linewidth=1.3, zorder=3)
    axes.plot(
        [at],
        [height],
        linestyle="none",
        marker="<" if bounded and comparison.verdict == HOLDS else marker,
        markersize=5.2 if main else 2.6,
        color=color,
        alpha=1.0 if main else 0.35,
        markeredgecolor="white" if main else color,
        markeredgewidth=0.5 if main else 0,
        zorder=4 if main else 2,
        gid="decisive" if main else "other",
    )


def _entries(outcomes: Sequence[Outcome]) -> list[Line2D | Patch]:
    seen = [o.verdict for o in outcomes]
    look: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "markersize": 5.5}
    entries: list[Line2D | Patch] = [
        Line2D(
            [], [], color=color, marker=marker, label=f"{verdict} ({seen.count(verdict)})", **look
        )
        for verdict, (color, marker) in LOOKS.items()
        if verdict in seen
    ]
    holds = LOOKS[HOLDS][0]
    return [
        *entries,
        Line2D(
            [], [], color=holds, marker="<", label="inequality: share of the bound used", **look
        ),
        Line2D(
            [],
            [],
            color=holds,
            marker="o",
            alpha=0.35,
            linestyle="none",
            markersize=3,
            label="other numbers of a claim",
        ),
        Line2D([], [], color=holds, linewidth=1.3, label="95 % interval"),
        Patch(color="0.93", label="tolerance"),
    ]


@FIGURES.register("curves")
def curves(outcomes: Sequence[Outcome]) -> Figure:
    """Claims that make a curve: theory as a dashed line, measurements with standard errors.

    Args:
        outcomes: what was measured.

    Returns:
        The figure.

    Raises:
        NothingToDraw: no outcome makes a curve.
    """
    shown = [o for o in outcomes if o.name in CURVES and _points(o)]
    if not shown:
        raise NothingToDraw
    columns = min(2, len(shown))
    with theme():
        sheet = Sheet(4.6 * columns, 3.2 * -(-len(shown) // columns) + 0.4)
        panels = np.atleast_1d(sheet.subplots(-(-len(shown) // columns), columns)).flatten()
        for axes, outcome in zip(panels, shown, strict=False):
            _curve(axes, outcome)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        legend(
            sheet,
            [
                Line2D([], [], color="0.2", linestyle=(0, (4, 2)), linewidth=1.3, label="theory"),
                Line2D(
                    [],
                    [],
                    color=LOOKS[HOLDS][0],
                    marker="o",
                    linestyle="none",
                    label="measured ± 1 standard error",
                ),
                Patch(color=_GREY, alpha=0.35, linewidth=0, label="tolerance"),
            ],
        )
    return sheet


def _points(outcome: Outcome) -> list[Comparison]:
    comparisons = [f.comparison for f in outcome.findings if np.isfinite(f.comparison.at)]
    return sorted(comparisons, key=lambda comparison: comparison.at)


def _curve(axes: Axes, outcome: Outcome) -> None:
    title, across, up, scale = CURVES[outcome.name]
    comparisons = _points(outcome)
    at = np.array([c.at for c in comparisons])
    predicted = np.array([c.predicted for c in comparisons])
    tolerance = np.array([c.tolerance for c in comparisons])
    axes.set_xscale(scale)
    axes.fill_between(
        at, predicted - tolerance, predicted + tolerance, color=_GREY, alpha=0.35, linewidth=0
    )
    axes.plot(at, predicted, color="0.2", linestyle=(0, (4, 2)), linewidth=1.3, zorder=3)
    axes.errorbar(
        at,
        [c.measured for c in comparisons],
        [c.error for c in comparisons],
        color=LOOKS[HOLDS][0],
        linestyle="none",
        marker="o",
        markersize=4,
        markeredgecolor="white",
        markeredgewidth=0.5,
        elinewidth=1.2,
        zorder=4,
    )
    if scale == "log":
        axes.set_xticks(at, [f"{value:g}" for value in at])
        axes.minorticks_off()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title)
