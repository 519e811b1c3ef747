"""Loss and accuracy over steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sigprop.records.queries import DRAW
from sigprop.records.training import divergences, evaluated, train_rows
from sigprop.reporting.aggregate import over_seeds, wants_log
from sigprop.reporting.explorable.base import EXPLORABLE, Data, indices
from sigprop.reporting.explorable.lines import facts
from sigprop.reporting.explorable.packing import extremes, packed
from sigprop.reporting.figures import NothingToDraw, Study
from sigprop.reporting.figures.loss import smoothed
from sigprop.reporting.glossary import QUANTITIES

#: Most points of a line, and of the raw losses of one seed.
POINTS = 1000


@EXPLORABLE.register("loss_curves")
def loss_curves(study: Study) -> Data:
    """Return loss (running mean, and raw by seed) and accuracy by step.

    Args:
        study: the records.

    Raises:
        NothingToDraw: there are none.
    """
    loss = train_rows(study.records.training)
    scored, mode = evaluated(study.records.training)
    if loss.empty and scored.empty:
        raise NothingToDraw("No losses or accuracies of a training loop were recorded.")
    panels = [
        {**_panel(study, smoothed(loss), "loss", "Training loss"), **_raw(study, loss)},
        _panel(study, scored, "accuracy", f"Accuracy, {mode} mode"),
    ]
    return {
        "type": "lines",
        "axis": {"label": "step", "ticks": {}, "starts": {}, "names": [], "breaks": []},
        "steps": [],
        "views": [{"name": "", "panels": [panel for panel in panels if panel["lines"]]}],
    }


def _panel(study: Study, rows: pd.DataFrame, quantity: str, title: str) -> Data:
    kind = QUANTITIES[quantity].kind
    table = over_seeds(rows, quantity, ["network", "step"], kind)
    known = set(table["network"])
    return {
        **facts(quantity, title),
        "log": kind == "cost" and wants_log(rows[quantity]),
        "guide": None,
        "theory": [],
        "lines": [
            {"network": index, **_values(table[table["network"] == name])}
            for name, index in indices(study).items()
            if name in known
        ],
    }


def _values(line: pd.DataFrame) -> Data:
    kept = line.iloc[extremes(line["center"].to_numpy(dtype=float), POINTS)]
    found: dict[str, Any] = {"x": [int(step) for step in kept["step"]]}
    found["center"] = packed(kept["center"])
    if line["seeds"].max() > 1:
        found |= {"low": packed(kept["low"]), "high": packed(kept["high"])}
    return found


def _raw(study: Study, loss: pd.DataFrame) -> Data:
    """Return the losses of each seed, and where a network's last finite one is."""
    where = indices(study)
    faint, marks = [], []
    for key, run in loss.groupby(DRAW, sort=False):
        name, _, seed = map(str, key)
        value = run["loss"].where(np.isfinite(run["loss"])).to_numpy(dtype=float)
        at = extremes(value, POINTS)
        faint.append(
            {
                "network": where[name],
                "seed": int(seed),
                "x": [int(step) for step in run["step"].to_numpy()[at]],
                "center": packed(value[at]),
            }
        )
    for name, case in divergences(loss).items():
        rows = loss[(loss["network"] == name) & (loss["step"] < case.step)]
        last = rows[np.isfinite(rows["loss"]) & (rows["step"] == rows["step"].max())]
        if len(last):
            at_end = {"x": int(last["step"].iloc[0]), "y": float(last["loss"].mean())}
            marks.append({"network": where[name], **at_end, "text": case.sentence()})
    return {"faint": faint, "marks": marks}
