"""Block by step: what training did to signal, gradients and units, one column per network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sigprop.records.queries import by_block, dead_by_block, weights_by_block
from sigprop.reporting.aggregate import over_seeds
from sigprop.reporting.axis import label_blocks
from sigprop.reporting.canvas import Look, Sheet, legend, write_empty
from sigprop.reporting.figures.base import NothingToDraw, Study, figure
from sigprop.reporting.glossary import QUANTITIES

_HATCH: dict[str, Any] = {
    "facecolor": "0.85",
    "edgecolor": "0.45",
    "hatch": "////",
    "linewidth": 0.0,
}
_DECADES = 12.0  # a color scale wider than this shows nothing but the one network that diverged


@dataclass(frozen=True)
class Layer:
    """One row of heat maps."""

    cells: pd.DataFrame
    quantity: str
    label: str
    palette: str
    logarithmic: bool


@figure(
    "training_heatmaps",
    title="Signal, gradients and units during training",
    caption=(
        "Time runs to the right (optimizer steps) and depth upward (block index); each quantity "
        "has one color scale for all networks, fitted to those that stayed finite, and an open "
        "end of its bar says that values beyond it take the end color. Hatched or gray cells hold "
        "a value that was not finite or undefined in at least one seed; blank cells were not "
        "recorded."
    ),
)
def training_heatmaps(study: Study) -> Figure:
    """Draw second moment, gradient-to-weight and dead fraction as block by step heat maps.

    Args:
        study: the records, and theory beside them.

    Returns:
        The figure.

    Raises:
        NothingToDraw: the records hold no data for it.
    """
    layers = of_training(study)
    style = study.style()
    wide = 2.3 if len(style) < 5 else 1.75
    sheet = Sheet(1.6 + wide * max(len(style), 2), 0.9 + 1.9 * len(layers))
    grid = sheet.subplots(len(layers), len(style), squeeze=False, sharex=True, sharey=True)
    hatched = [draw_row(sheet, row, layer, style) for row, layer in zip(grid, layers, strict=True)]
    # the rows share one axis: calls of a block are distinguished unless there are only weights
    label_blocks(grid[0, 0], study.axis, vertical=True)
    for row in grid[1:]:
        row[0].set_ylabel(study.axis.label)
    for axes, look in zip(grid[0], style.values(), strict=True):
        axes.set_title(look.label)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    if any(hatched):
        legend_of_hatched(sheet)
    return sheet


def legend_of_hatched(sheet: Sheet) -> None:
    """Say below the panels what a hatched cell is."""
    legend(sheet, [Patch(**_HATCH, label="non-finite or undefined in a seed")])


def of_training(study: Study) -> list[Layer]:
    """Return second moment, gradient-to-weight and dead fraction by block and step.

    Args:
        study: the records.

    Raises:
        NothingToDraw: fewer than two steps were recorded.
    """
    signals, parameters = study.signals, study.records.parameters
    wanted = [
        (
            by_block(signals, "second_moment"),
            "second_moment",
            "log₁₀ E[x²]",
            "viridis",
        ),
        (weights_by_block(parameters), "grad_to_weight", "log₁₀ ‖g‖/‖w‖", "mako"),
        (dead_by_block(signals), "dead_fraction", "dead units", "rocket_r"),
    ]
    layers = [
        Layer(
            over_seeds(rows, quantity, ["network", "block", "step"], QUANTITIES[quantity].kind),
            quantity,
            label,
            palette,
            QUANTITIES[quantity].kind == "scale",
        )
        for rows, quantity, label, palette in wanted
    ]
    several = [layer for layer in layers if len(layer.cells["step"].unique()) > 1]
    if not several:
        raise NothingToDraw(
            "Fewer than two steps were recorded, so there is no training to show as heat maps."
        )
    return several


def draw_row(sheet: Sheet, row: NDArray[np.object_], layer: Layer, style: dict[str, Look]) -> bool:
    """Return whether a cell is hatched; draw one quantity of every network and its color bar.

    Args:
        sheet: the figure; cells that cannot be drawn are noted on it.
        row: one panel per network.
        layer: what to draw.
        style: the looks of the networks, in the order of the panels.
    """
    norm, extend = color_scale(layer.cells, layer.logarithmic)
    mesh: QuadMesh | None = None
    hatched = False
    for axes, (name, look) in zip(row, style.items(), strict=True):
        cells = layer.cells[layer.cells["network"] == name]
        if cells.empty:
            write_empty(axes, "not recorded")
            axes.grid(visible=False)
            continue
        mesh, marked = _map(axes, cells, layer, norm)
        _write_end(axes, cells, layer.cells)
        if marked:
            hatched = True
            sheet.notes.append(
                f"{look.label.strip()}: {layer.quantity.replace('_', ' ')} non-finite or "
                f"undefined in {marked} of {len(cells)} cells, first at step "
                f"{int(cells.loc[undrawn(cells), 'step'].min())}."
            )
    if mesh is not None:
        bar = sheet.colorbar(
            mesh, ax=list(row), extend=extend, aspect=14, pad=0.02, fraction=0.3 / len(row)
        )
        bar.set_label(layer.label)
        bar.outline.set_visible(False)
    return hatched


def _map(axes: Axes, cells: pd.DataFrame, layer: Layer, norm: Normalize) -> tuple[QuadMesh, int]:
    blocks = np.arange(cells["block"].min(), cells["block"].max() + 1)
    steps = np.sort(cells["step"].unique())
    wide = cells.pivot_table(index="block", columns="step", values="center", dropna=False)
    values = wide.reindex(index=blocks, columns=steps).to_numpy(dtype=float, copy=True)
    if layer.logarithmic:
        with np.errstate(divide="ignore"):  # 0 becomes -inf, then the lowest color
            values = np.log10(values)
    x, y = edges(steps), edges(blocks)
    marked = cells[undrawn(cells)]
    columns = np.searchsorted(steps, marked["step"].to_numpy())
    rows = (marked["block"] - blocks[0]).to_numpy()
    values[rows, columns] = np.nan
    clipped = np.clip(values, norm.vmin, norm.vmax)
    mesh = axes.pcolormesh(x, y, clipped, norm=norm, cmap=layer.palette, rasterized=True)
    if len(marked):
        axes.add_patch(PathPatch(_outline(x, y, _columns(columns, rows)), **_HATCH))
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=4))
    return mesh, len(marked)


def _write_end(axes: Axes, cells: pd.DataFrame, everything: pd.DataFrame) -> None:
    """Write into the blank part of a network that was recorded for much fewer steps than others."""
    first, last = float(everything["step"].min()), float(everything["step"].max())
    end = float(cells["step"].max())
    if end < first + 0.5 * (last - first):
        middle = float(cells["block"].min() + cells["block"].max()) / 2
        axes.text(
            (end + last) / 2, middle, f"no rows after\nstep {end:.0f}", ha="center", va="center",
            color="0.35", fontsize=8,
        )  # fmt: skip


def _columns(columns: NDArray[np.integer], rows: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return neighboring rows of a column as one: shape (3, runs) of column, first and last."""
    order = np.lexsort((rows, columns))
    column, row = columns[order], rows[order]
    breaks = (np.diff(column) != 0) | (np.diff(row) != 1)
    first, last = np.append(True, breaks), np.append(breaks, True)
    return np.stack([column[first], row[first], row[last]])


def _outline(x: NDArray[np.float64], y: NDArray[np.float64], runs: NDArray[np.integer]) -> Path:
    """Return all runs as one path: a patch for each is slow to draw, and their seams show."""
    column, first, last = runs
    left, right, bottom, top = x[column], x[column + 1], y[first], y[last + 1]
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    return Path.make_compound_path_from_polys(np.array(corners).transpose(2, 0, 1))


def undrawn(cells: pd.DataFrame) -> pd.Series[bool]:
    """Return which cells are not finite or undefined in a seed.

    Args:
        cells: columns ``nonfinite`` and ``undefined``.
    """
    return (cells["nonfinite"] > 0) | (cells["undefined"] > 0)


def color_scale(cells: pd.DataFrame, logarithmic: bool) -> tuple[Normalize, str]:
    """Return one color scale for all networks and which of its ends are open.

    A logarithmic scale follows the networks that stayed finite, with a margin of one decade, so
    that a diverging one does not paint all others alike; it is at most twelve decades wide.
    Values beyond it take the end color and the color bar shows an arrow.

    Args:
        cells: columns ``network``, ``center``, ``nonfinite`` and ``undefined``.
        logarithmic: whether colors stand for powers of ten.
    """
    finite = cells[np.isfinite(cells["center"])]
    if not logarithmic:
        top = float(finite["center"].max()) if len(finite) else 1.0
        return Normalize(0.0, max(top, 0.1)), "neither"
    positive = finite[finite["center"] > 0]
    if positive.empty:
        return Normalize(-1.0, 1.0), "neither"
    powers = np.log10(positive["center"].to_numpy(dtype=float))
    broken = set(cells.loc[undrawn(cells), "network"])
    steady = powers[~positive["network"].isin(broken).to_numpy()]
    followed, margin = (steady, 1.0) if broken and len(steady) else (powers, 0.0)
    middle, half = float(np.median(followed)), _DECADES / 2
    low = max(float(followed.min()) - margin, float(powers.min()), middle - half)
    high = min(float(followed.max()) + margin, float(powers.max()), middle + half)
    below = bool((powers < low).any()) or len(positive) < len(finite)
    above = bool((powers > high).any())
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    if high - low < 0.1:  # a steady signal must not look like a storm
        low, high = middle - 0.05, middle + 0.05
    return Normalize(low, high), ends.get((below, above), "both")


def edges(centers: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the borders of cells around sorted ``centers``: midpoints, and mirrored ends.

    Example:
        >>> edges(np.array([0, 10, 30])).tolist()
        [-5.0, 5.0, 20.0, 40.0]
    """
    points = centers.astype(float)
    if len(points) == 1:
        return np.array([points[0] - 0.5, points[0] + 0.5])
    middle = (points[1:] + points[:-1]) / 2
    return np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])
