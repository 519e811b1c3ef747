"""Lines over blocks and steps as data: mean over seeds, range, and what cannot be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sigprop.reporting.aggregate import over_seeds, wants_log
from sigprop.reporting.explorable.base import Data, indices, label_of, plain_text
from sigprop.reporting.explorable.packing import packed, packed_bytes, spread
from sigprop.reporting.figures import Study
from sigprop.reporting.figures.propagation import Panel
from sigprop.reporting.glossary import QUANTITIES

#: Most steps of a figure with a slider, and most values of one quantity: beyond them steps are
#: left out, evenly.
STEPS, VALUES = 40, 10_000
#: What is wrong with a value, as the page's script knows it: nothing, not finite, undefined.
FINE, NONFINITE, UNDEFINED = 0, 1, 2


def chosen_steps(panels: Sequence[Panel]) -> list[int]:
    """Return the steps of a figure's slider: all that were recorded, or as many as are bearable.

    Args:
        panels: their rows have ``network``, ``step`` and ``block``.
    """
    rows = pd.concat([panel.rows[["network", "step", "block"]] for panel in panels])
    places = len(rows[["network", "block"]].drop_duplicates())
    most = max(2, min(STEPS, VALUES // max(places, 1)))
    return spread(sorted({int(step) for step in rows["step"]}), most)


def line_panel(study: Study, panel: Panel, steps: Sequence[int], direction: str = "") -> Data:
    """Return one panel: a line for each network, at each step.

    Args:
        study: names the networks, and holds the predictions.
        panel: rows of all steps, and the quantity.
        steps: those of the slider.
        direction: ``"forward"`` or ``"backward"``, for the predictions; empty for none.

    Returns:
        Facts of the panel; ``lines``, each with ``network``, the blocks ``x``, and ``center``,
        ``low``, ``high`` (absent with one seed) and ``state`` (absent where all is well), one row
        per step; ``theory``, which speaks of the first step.
    """
    kind = QUANTITIES[panel.quantity].kind
    rows = panel.rows[panel.rows["step"].isin(steps)]
    table = over_seeds(rows, panel.quantity, ["network", "step", "block"], kind)
    if panel.sparse:
        table["undefined"] = 0
    known = set(table["network"])
    first = rows.loc[rows["step"] == min(steps, default=0), panel.quantity]
    return {
        **facts(panel.quantity, panel.title, panel.label),
        "log": kind in ("scale", "cost") and wants_log(first),
        "guide": panel.guide,
        "lines": [
            {"network": index, **_values(table[table["network"] == name], steps)}
            for name, index in indices(study).items()
            if name in known
        ],
        "theory": _theory(study, panel.quantity, direction) if direction else [],
    }


def facts(quantity: str, title: str, label: str = "") -> Data:
    """Return how a panel is called and what its numbers are.

    Args:
        quantity: a key of the glossary.
        title: the heading.
        label: the vertical axis; the glossary's when empty.
    """
    return {
        "title": title,
        "quantity": quantity,
        "label": plain_text(label) if label else label_of(quantity),
        "kind": QUANTITIES[quantity].kind,
    }


def _values(line: pd.DataFrame, steps: Sequence[int]) -> Data:
    blocks = sorted({int(block) for block in line["block"]})
    grid = pd.MultiIndex.from_product([list(steps), blocks], names=["step", "block"])
    cells = line.set_index(["step", "block"]).reindex(grid)
    found: dict[str, Any] = {"x": blocks, "center": packed(cells["center"])}
    if line["seeds"].max() > 1:
        found |= {"low": packed(cells["low"]), "high": packed(cells["high"])}
    state = np.select([cells["nonfinite"] > 0, cells["undefined"] > 0], [NONFINITE, UNDEFINED])
    if state.any():
        found["state"] = packed_bytes(state)
    return found


def _theory(study: Study, quantity: str, direction: str) -> list[Data]:
    known = study.predicted(direction, quantity)
    lines = []
    for name, index in indices(study).items():
        line = known[known["network"] == name].sort_values("block")
        if len(line):
            value = line["value"].astype("float64")
            blocks = [int(block) for block in line["block"]]
            lines.append({"network": index, "x": blocks, "value": packed(value)})
    return lines
