"""Loss and accuracy of all networks, and where one of them diverged."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sigprop.records.queries import DRAW
from sigprop.records.training import Divergence, divergences, evaluated, train_rows
from sigprop.reporting import curves
from sigprop.reporting.aggregate import wants_log
from sigprop.reporting.canvas import Look, Sheet, legend, safe_text
from sigprop.reporting.figures.base import NothingToDraw, Study, figure
from sigprop.words import number

_MANY = 5_000  # points beyond which an SVG of paths is slower to open than a picture
_FOLLOWED = 1e3  # how far above the other networks a diverging loss is followed


@figure(
    "loss_curves",
    title="Loss and accuracy",
    caption=(
        "Training loss, raw per seed (faint) and as a running mean over a twentieth of the "
        "run (line: mean over seeds, band: smallest to largest seed); a cross marks the last "
        "finite loss of a network that diverged, on the upper border when that loss lies more "
        "than three decades above all others. Accuracy on evaluation data, or on training "
        "batches when there was no evaluation."
    ),
)
def loss_curves(study: Study) -> Figure:
    """Draw training loss and accuracy against step, and mark divergence.

    Args:
        study: the records, and theory beside them.

    Returns:
        The figure.

    Raises:
        NothingToDraw: the records hold no data for it.
    """
    loss = train_rows(study.records.training)
    scored, mode = evaluated(study.records.training)
    if loss.empty and scored.empty:
        raise NothingToDraw("No losses or accuracies of a training loop were recorded.")
    style = study.style()
    sheet = Sheet(9.6, 4.2)
    left, right = sheet.subplots(1, 2)
    notes: curves.Notes = {}
    found = divergences(loss)
    smooth = smoothed(loss)
    lines = curves.panel(left, smooth, "loss", style, notes, x="step", sparse=True)
    scores = curves.panel(right, scored, "accuracy", style, notes, x="step", sparse=True)
    _limit(left, loss, set(found))
    _raw(left, loss, style)
    # earliest first, so that the lines from the words to the crosses do not cross
    for rank, case in enumerate(sorted(found.values(), key=lambda case: case.step)):
        sheet.notes.append(_diverged(left, loss, case, style[case.network], rank))
    for axes, title in ((left, "Training loss"), (right, f"Accuracy, {mode} mode")):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(lines):
        right.set_xlim(left.get_xlim())
    band = any(len(table) and int(table["seeds"].max()) > 1 for table in (lines, scores))
    legend(sheet, curves.handles(style, band=band))
    return sheet


def smoothed(loss: pd.DataFrame) -> pd.DataFrame:
    """Return the running mean of each draw over a twentieth of its finite losses."""
    kept = loss[np.isfinite(loss["loss"])]
    parts = []
    for _, run in kept.groupby(DRAW):
        window = max(1, len(run) // 20)
        mean = run["loss"].rolling(window, min_periods=1, center=True).mean()
        parts.append(run.assign(loss=mean))
    return pd.concat(parts, ignore_index=True) if parts else kept


def _limit(axes: Axes, loss: pd.DataFrame, broken: set[str]) -> None:
    """Fit the axis to the raw losses, but not to a diverging one far above all others."""
    finite = loss[np.isfinite(loss["loss"])]
    survivors = finite.loc[~finite["network"].isin(broken), "loss"]
    shown = finite["loss"]
    if len(survivors) and len(broken):
        shown = shown[shown <= _FOLLOWED * survivors.max()]
    if shown.empty:
        return
    logarithmic = wants_log(shown)
    axes.set_yscale("log" if logarithmic else "linear")
    positive = shown[shown > 0] if logarithmic else shown
    low, high = float(positive.min()), float(positive.max())
    axes.set_ylim(curves.limits(low, high, "cost", logarithmic))


def _raw(axes: Axes, loss: pd.DataFrame, style: dict[str, Look]) -> None:
    for (name, _, _), run in loss.groupby(DRAW):
        axes.plot(
            run["step"],
            run["loss"].where(np.isfinite(run["loss"])),
            color=style[str(name)].color,
            alpha=0.25,
            linewidth=0.7,
            label="_raw",
            rasterized=len(loss) > _MANY,
            zorder=1,
        )


def _diverged(axes: Axes, loss: pd.DataFrame, case: Divergence, look: Look, rank: int) -> str:
    """Return the words that say where a loss ended, and mark the last finite one with a cross."""
    rows = loss[(loss["network"] == case.network) & (loss["step"] < case.step)]
    finite = rows[np.isfinite(rows["loss"])]
    last = finite[finite["step"] == finite["step"].max()]
    step = float(last["step"].iloc[0]) if len(last) else float(case.step)
    value = float(last["loss"].mean()) if len(last) else float("inf")
    bottom, top = axes.get_ylim()
    inside = bottom < value < top
    words = f"{look.label.strip()}: {case.sentence()}"
    axes.plot(
        [step],
        [value if inside else 1.0],
        transform=axes.transData if inside else axes.get_xaxis_transform(),
        marker="X",
        markersize=9,
        linestyle="none",
        color=look.color,
        markeredgecolor="white",
        label="_diverged",
        clip_on=False,
        zorder=7,
    )
    note = axes.annotate(
        f"{safe_text(case.network, 18).strip()}: {case.sentence()}",
        xy=(step, value if inside else 1.0),
        xycoords="data" if inside else axes.get_xaxis_transform(),
        xytext=(0.98, 0.95 - 0.085 * rank),
        textcoords="axes fraction",
        ha="right",
        va="top",
        fontsize=8.5,
        color=look.color,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        arrowprops={"arrowstyle": "-", "color": look.color, "linewidth": 0.8, "shrinkB": 4},
        zorder=6,
    )
    note.set_in_layout(False)
    largest = f" (largest finite loss {number(float(finite['loss'].max()))})" if len(finite) else ""
    return f"{words}{largest}."
