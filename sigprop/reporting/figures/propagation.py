"""A grid of line panels over blocks, with theory over the measurements and one legend below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sigprop.reporting import curves
from sigprop.reporting.axis import BlockAxis
from sigprop.reporting.canvas import Look, Sheet, legend
from sigprop.reporting.figures.base import Study


@dataclass(frozen=True)
class Panel:
    """One panel: its rows, the quantity on its vertical axis and its heading.

    Attributes:
        rows: one row per network, draw and block.
        quantity: a column of ``rows`` that the glossary knows.
        title: the heading.
        label: the vertical axis, where the glossary's words do not fit.
        sparse: absent values are by design and get no mark.
        guide: a reference value, drawn as a thin line.
        beside: rows of all panels that shall have the same vertical axis.
        axis: the axis of blocks; that of the study's signals when not given.
    """

    rows: pd.DataFrame
    quantity: str
    title: str
    label: str = ""
    sparse: bool = False
    guide: float | None = None
    beside: pd.DataFrame | None = None
    axis: BlockAxis | None = None


def draw_panels(
    sheet: Sheet, study: Study, panels: list[Panel], direction: str = "", columns: int = 2
) -> Sheet:
    """Draw ``panels`` in rows of ``columns`` and return the sheet with its legend and notes.

    Args:
        sheet: an empty sheet.
        study: names the networks and holds the predictions.
        panels: what to draw.
        direction: ``"forward"`` or ``"backward"``, for the predictions; empty for no theory.
        columns: panels per row.

    Returns:
        The sheet that was given.
    """
    style = study.style()
    grid = sheet.subplots(-(-len(panels) // columns), columns, squeeze=False)
    notes: curves.Notes = {}
    with_theory: set[str] = set()
    seeds = 1
    for axes, wanted in zip(grid.flat, panels, strict=True):
        table = _draw(axes, wanted, wanted.axis or study.axis, style, notes)
        seeds = max(seeds, int(table["seeds"].max()) if len(table) else 0)
        with_theory |= _theory(axes, study, wanted, style, direction)
    entries = curves.handles(style, band=seeds > 1, predicted=bool(with_theory))
    legend(sheet, [*entries, *curves.explain(sheet, style, notes)])
    if with_theory:
        sheet.notes += [f"{name}: no prediction." for name in style if name not in with_theory]
    return sheet


def _draw(
    axes: Axes, wanted: Panel, axis: BlockAxis, style: dict[str, Look], notes: curves.Notes
) -> pd.DataFrame:
    table = curves.panel(
        axes,
        wanted.rows,
        wanted.quantity,
        style,
        notes,
        sparse=wanted.sparse,
        beside=wanted.beside,
        axis=axis,
    )
    axes.set_title(wanted.title)
    if wanted.label:
        axes.set_ylabel(wanted.label)
    if wanted.guide is not None:
        low, high = axes.get_ylim()
        axes.axhline(wanted.guide, color="0.35", linewidth=0.9, linestyle=":", zorder=1)
        margin = 0.7 if axes.get_yscale() == "log" else 0.93
        axes.set_ylim(min(low, margin * wanted.guide), max(high, wanted.guide / margin))
    return table


def _theory(
    axes: Axes, study: Study, wanted: Panel, style: dict[str, Look], direction: str
) -> set[str]:
    predicted = study.predicted(direction, wanted.quantity)
    known = predicted[predicted["network"].isin(list(style))]
    values = known["value"].to_numpy(dtype=float)
    curves.theory(axes, known, style, axes.get_yscale() == "log")
    return set(known.loc[np.isfinite(values), "network"])
