"""Largest singular values of weights and of their updates, by depth and step."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sigprop.records.spectrum_summary import summary
from sigprop.reporting.aggregate import over_seeds
from sigprop.reporting.canvas import Sheet
from sigprop.reporting.figures.base import NothingToDraw, Study, figure
from sigprop.reporting.figures.heatmaps import Layer, draw_row, legend_of_hatched

_WEIGHTS = ("matrix", "conv")
_ROWS = (
    (_WEIGHTS, "spectral_norm", "log₁₀ σ_max of w", "viridis"),
    (("update",), "spectral_norm", "log₁₀ σ_max of Δw", "mako"),
    (("update",), "stable_rank", "log₁₀ stable rank of Δw", "rocket"),
)


@figure(
    "spectra_training",
    title="Spectra of weights and updates during training",
    caption=(
        "Time runs to the right (optimizer steps) and depth upward (weights in the order of the "
        "model's parameters): the largest singular value of each weight, that of its change in one "
        "step, and the stable rank of that change, Σσ²/σ²max. An update of stable rank near 1 "
        "moves a weight along a single direction."
    ),
)
def spectra_training(study: Study) -> Figure:
    """Draw spectral norms of weights and updates, and the updates' stable rank, as heat maps.

    Returns:
        One column of heat maps per network.

    Raises:
        NothingToDraw: fewer than two steps were recorded.
    """
    rows = spectra_over_steps(study)
    layers = of_spectra(rows)
    style = {name: look for name, look in study.style().items() if name in set(rows["network"])}
    wide = 2.8 if len(style) < 5 else 1.9
    sheet = Sheet(1.6 + wide * max(len(style), 2), 0.9 + 1.9 * len(layers))
    hatched = False
    grid = sheet.subplots(len(layers), len(style), squeeze=False, sharex=True, sharey=True)
    for row, layer in zip(grid, layers, strict=True):
        hatched |= draw_row(sheet, row, layer, style)
        row[0].set_ylabel("weight, by depth")
        row[0].yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for axes, look in zip(grid[0], style.values(), strict=True):
        axes.set_title(look.label)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    if hatched:
        legend_of_hatched(sheet)
    return sheet


def spectra_over_steps(study: Study) -> pd.DataFrame:
    """Return norms and ranks of the spectra of weights and updates, ``block`` being the weight.

    Args:
        study: the records.

    Raises:
        NothingToDraw: fewer than two steps were recorded.
    """
    rows = study.records.spectra
    rows = rows[rows["operator"].isin([*_WEIGHTS, "update"])]
    if rows["step"].nunique() < 2:
        raise NothingToDraw(
            "Spectra of weights were recorded at fewer than two steps, so there is no training to "
            "show."
        )
    table = summary(rows)
    order = table.groupby("network", sort=False)["name"].transform(lambda n: pd.factorize(n)[0])
    return table.assign(block=order.astype("int64"))


def of_spectra(table: pd.DataFrame) -> list[Layer]:
    """Return the layers that hold a value.

    Args:
        table: of `spectra_over_steps`.
    """
    found = []
    for operators, quantity, label, palette in _ROWS:
        part = table[table["operator"].isin(operators)]
        if len(part) and part[quantity].notna().any():
            cells = over_seeds(part, quantity, ["network", "block", "step"], "scale")
            found.append(Layer(cells, quantity, label, palette, logarithmic=True))
    return [layer for layer in found if layer.cells["center"].notna().any()]
