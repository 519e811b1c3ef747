"""Singular values of every weight, colored by depth."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sigprop.records.queries import at_first_step, at_last_step
from sigprop.reporting.aggregate import over_seeds, wants_log
from sigprop.reporting.canvas import Look, Sheet, legend, write_empty
from sigprop.reporting.figures.base import NothingToDraw, Study, figure
from sigprop.reporting.glossary import QUANTITIES

_WEIGHTS = ("matrix", "conv")
_MANY = 20_000  # points beyond which an SVG of paths is slower to open than a picture


@figure(
    "spectra",
    title="Singular-value spectra",
    caption=(
        "Each line is one weight (or operator) with its singular values sorted from largest (left) "
        "to smallest (right), colored by depth; the first, middle and last weight are drawn bold. "
        "A line that falls far below its start is ill-conditioned, a flat one is close to "
        "orthogonal; the table of spectra gives condition numbers and stable ranks."
    ),
)
def spectra(study: Study) -> Figure:
    """Draw sorted singular values of all weights per network, at the first and last step.

    Args:
        study: the records, and theory beside them.

    Returns:
        The figure.

    Raises:
        NothingToDraw: the records hold no data for it.
    """
    rows = study.records.spectra
    rows = rows[rows["operator"] != "update"]  # its own figure, over steps
    if rows.empty:
        raise NothingToDraw("No singular values were recorded.")
    first, last = at_first_step(rows), at_last_step(rows)
    moments = [("first recorded step", first)]
    if not last["step"].equals(first["step"]):
        moments.append(("last recorded step", last))
    style = {name: look for name, look in study.style().items() if name in set(rows["network"])}
    wide = 2.8 if len(style) < 5 else 1.9
    sheet = Sheet(1.4 + wide * max(len(style), 2), 1.1 + 2.4 * len(moments))
    grid = sheet.subplots(len(moments), len(style), squeeze=False, sharex=True, sharey=True)
    logarithmic = wants_log(rows["singular_value"])
    for row, (when, frame) in zip(grid, moments, strict=True):
        row[0].set_ylabel(f"{when}\n{QUANTITIES['singular_value'].label}")
        for axes, (name, look) in zip(row, style.items(), strict=True):
            _spectra_of(axes, frame[frame["network"] == name], look, logarithmic, sheet)
    for axes, look in zip(grid[0], style.values(), strict=True):
        axes.set_title(look.label)
    for axes in grid[-1]:
        axes.set_xlabel("rank / number of values")
        axes.set_xticks([0, 0.5, 1], labels=["0", "½", "1"])
    if logarithmic:
        grid[0, 0].set_yscale("log")
    _depth_bar(sheet, list(grid.flat))
    _operators_legend(sheet, rows)
    return sheet


def _spectra_of(
    axes: Axes, frame: pd.DataFrame, look: Look, logarithmic: bool, sheet: Sheet
) -> None:
    """Draw the weights of one network at one moment, averaged over seeds by index."""
    axes.set_xlim(-0.02, 1.02)
    if frame.empty:
        write_empty(axes, "not recorded")
        return
    names = list(dict.fromkeys(zip(frame["name"], frame["operator"], strict=True)))
    table = over_seeds(frame, "singular_value", ["network", "name", "operator", "index"], "scale")
    bold = {0, len(names) // 2, len(names) - 1}
    palette = mpl.colormaps["viridis"]
    lost: list[str] = []
    lines = dict(list(table.groupby(["name", "operator"])))
    for rank, key in enumerate(names):
        line = lines[key]
        whole = line["center"].where((line["center"] > 0) | (not logarithmic))
        depth = rank / max(len(names) - 1, 1)
        axes.plot(
            np.arange(len(line)) / max(len(line) - 1, 1),
            np.sort(whole.to_numpy(dtype=float))[::-1] if whole.notna().all() else whole,
            color=palette(0.92 * depth) if key[1] in _WEIGHTS else "black",
            linestyle="-" if key[1] in _WEIGHTS else "--",
            linewidth=1.6 if rank in bold or key[1] not in _WEIGHTS else 0.7,
            alpha=1.0 if rank in bold else 0.5,
            marker="o" if len(line) == 1 else None,
            rasterized=len(frame) > _MANY,
            label=f"_{key[0]}",
            gid=f"{key[1]}:{rank}",
        )
        if whole.isna().any():
            lost.append(key[0])
    if lost:
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        sheet.notes.append(
            f"{look.label.strip()}: singular values that are exactly 0 or not finite are not "
            f"drawn for {shown}."
        )


def _depth_bar(sheet: Sheet, axes: list[Axes]) -> None:
    palette = mpl.colors.LinearSegmentedColormap.from_list(
        "depth", mpl.colormaps["viridis"](np.linspace(0, 0.92, 64))
    )
    bar = sheet.colorbar(
        ScalarMappable(Normalize(0, 1), palette), ax=axes, aspect=35, pad=0.01, fraction=0.03
    )
    bar.set_label("depth of the weight")
    bar.set_ticks([0, 0.5, 1], labels=["first", "middle", "last"])
    bar.outline.set_visible(False)


def _operators_legend(sheet: Sheet, rows: pd.DataFrame) -> None:
    others = [kind for kind in rows["operator"].unique() if kind not in _WEIGHTS]
    if others:
        label = f"dashed: {' and '.join(others)} (not a single weight)"
        legend(sheet, [Line2D([], [], color="black", linestyle="--", label=label)])
