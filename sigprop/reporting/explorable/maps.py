"""Heat maps of blocks, or weights, by step."""

from __future__ import annotations

import pandas as pd

from sigprop.reporting.explorable.base import (
    EXPLORABLE,
    Data,
    axis_of_blocks,
    indices,
    label_of,
    palette_of,
)
from sigprop.reporting.explorable.packing import packed, packed_bytes
from sigprop.reporting.figures import Study
from sigprop.reporting.figures.heatmaps import Layer, color_scale, of_training, undrawn
from sigprop.reporting.figures.spectra_training import of_spectra, spectra_over_steps
from sigprop.reporting.glossary import QUANTITIES

#: matplotlib's word for a color bar with arrows -> the ends beyond which there are values.
_OPEN = {"neither": [], "min": ["below"], "max": ["above"], "both": ["below", "above"]}


@EXPLORABLE.register("training_heatmaps")
def training_heatmaps(study: Study) -> Data:
    """Return second moment, gradient-to-weight and dead fraction by block and step.

    Args:
        study: the records.
    """
    layers = of_training(study)
    return {
        "type": "maps",
        "axis": axis_of_blocks(study, study.signals),
        "layers": [
            _layer(study, layer, QUANTITIES[layer.quantity].name.replace("_", " "))
            for layer in layers
        ],
    }


@EXPLORABLE.register("spectra_training")
def spectra_training(study: Study) -> Data:
    """Return spectral norms and stable ranks of weights and updates by weight and step.

    Args:
        study: the records.
    """
    table = spectra_over_steps(study)
    names = []
    for network in study.style():
        rows = table[table["network"] == network].drop_duplicates("block")
        names.append({str(row["block"]): str(row["name"]) for row in rows.to_dict("records")})
    axis = {"label": "weight, by depth", "ticks": {}, "starts": {}, "names": names, "breaks": []}
    layers = [
        _layer(study, layer, layer.label.removeprefix("log₁₀ ")) for layer in of_spectra(table)
    ]
    return {"type": "maps", "axis": axis, "layers": layers}


def _layer(study: Study, layer: Layer, title: str) -> Data:
    """Return one quantity of every network, and the color scale that they share."""
    norm, extend = color_scale(layer.cells, layer.logarithmic)
    known = set(layer.cells["network"])
    label = label_of(layer.quantity) if layer.quantity in QUANTITIES else title
    return {
        "title": title,
        "quantity": layer.quantity,
        "label": label,
        "log": layer.logarithmic,
        "low": norm.vmin,
        "high": norm.vmax,
        "open": _OPEN[extend],
        "palette": palette_of(layer.palette),
        "maps": [
            {"network": index, **_cells(layer.cells[layer.cells["network"] == name])}
            for name, index in indices(study).items()
            if name in known
        ],
    }


def _cells(cells: pd.DataFrame) -> Data:
    """Return the values, one row per block and one column per step, and which are not finite."""
    blocks = range(int(cells["block"].min()), int(cells["block"].max()) + 1)
    steps = sorted({int(step) for step in cells["step"]})
    grid = pd.MultiIndex.from_product([blocks, steps], names=["block", "step"])
    marked = undrawn(cells)
    wide = cells.assign(center=cells["center"].mask(marked), marked=marked)
    wide = wide.set_index(["block", "step"]).reindex(grid)
    found: Data = {"steps": steps, "blocks": list(blocks), "values": packed(wide["center"])}
    if marked.any():
        found["marked"] = packed_bytes(wide["marked"].eq(True).to_numpy())
    return found
