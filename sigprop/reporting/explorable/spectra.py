"""Sorted singular values of every weight, one network at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sigprop.records.queries import at_first_step, at_last_step
from sigprop.reporting.aggregate import over_seeds, wants_log
from sigprop.reporting.explorable.base import EXPLORABLE, Data, indices, label_of, palette_of
from sigprop.reporting.explorable.packing import packed, spread
from sigprop.reporting.figures import NothingToDraw, Study

#: Most weights of a network, and most singular values of a weight; more are left out, evenly.
WEIGHTS, VALUES = 60, 64


@EXPLORABLE.register("spectra")
def spectra(study: Study) -> Data:
    """Return the singular values of weights at the first and the last recorded step.

    Args:
        study: the records.

    Raises:
        NothingToDraw: there are none.
    """
    rows = study.records.spectra
    rows = rows[rows["operator"] != "update"]
    if rows.empty:
        raise NothingToDraw("No singular values were recorded.")
    first, last = at_first_step(rows), at_last_step(rows)
    moments = {"first recorded step": first}
    if not last["step"].equals(first["step"]):
        moments["last recorded step"] = last
    return {
        "type": "spectra",
        "label": label_of("singular_value"),
        "log": wants_log(rows["singular_value"]),
        "moments": list(moments),
        "palette": palette_of("viridis", 0.92),
        "networks": [
            _network(index, [frame[frame["network"] == name] for frame in moments.values()])
            for name, index in indices(study).items()
            if name in set(rows["network"])
        ],
    }


def _network(index: int, frames: list[pd.DataFrame]) -> Data:
    keys = ["name", "operator"]
    order = pd.concat(frames)[keys].drop_duplicates()
    names = list(order.itertuples(index=False, name=None))
    tables = [dict(list(_means(frame).groupby(keys))) for frame in frames]
    return {
        "network": index,
        "weights": len(names),
        "lines": [
            {
                "name": names[rank][0],
                "operator": names[rank][1],
                "depth": rank / max(len(names) - 1, 1),
                "values": [_values(table.get(names[rank])) for table in tables],
            }
            for rank in spread(range(len(names)), WEIGHTS)
        ],
    }


def _means(frame: pd.DataFrame) -> pd.DataFrame:
    return over_seeds(frame, "singular_value", ["name", "operator", "index"], "scale")


def _values(line: pd.DataFrame | None) -> Data | None:
    """Return a spectrum from the largest value to the smallest; None where it was not recorded."""
    if line is None:
        return None
    values = np.sort(line["center"].to_numpy(dtype=float))[::-1]
    ranks = spread(range(len(values)), VALUES)
    thinned = {"ranks": ranks} if len(ranks) < len(values) else {}
    return {"of": len(values), "sigma": packed(values[ranks]), **thinned}
