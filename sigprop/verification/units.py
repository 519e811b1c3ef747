"""A flat ``Sequential(Linear, ReLU, ...)`` judged unit by unit: an affine layer, then what follows.

A rectifier halves the second moment and the layer before it has to double it: neither preserves
anything by itself, and what a law speaks of is the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from sigprop.records import Records
from sigprop.records.queries import own_rows
from sigprop.verification.chosen import parent


def layers_as_units(records: Records) -> Records:
    """Return records in which an affine layer and the layers up to the next one are one block.

    That is done where blocks are single layers side by side in one container, and some of them
    have no weights. A unit goes by the names of its first and its last layer, has the input of the
    one and the output of the other. Layers in front of the first affine one are left out, and so is
    an affine layer with nothing behind it where others have something: the head.

    Args:
        records: of one network; a draw is a seed.
    """
    own = own_rows(records.signals)
    layers = list(dict.fromkeys(own.sort_values("block", kind="stable")["module"].astype(str)))
    units = _units(layers, records)
    if not units or max(map(len, units)) == 1:
        return records
    if len(units) > 1 and len(units[-1]) == 1:
        units.pop()
    names = {unit[0]: f"{unit[0]} to {unit[-1]}" if len(unit) > 1 else unit[0] for unit in units}
    first = own[own["module"].isin([unit[0] for unit in units]) & (own["port"] == "in")]
    last = own[own["module"].isin([unit[-1] for unit in units]) & (own["port"] == "out")]
    of_last = {unit[-1]: unit[0] for unit in units}
    rows = pd.concat([first, last.assign(module=last["module"].astype(str).map(of_last))])
    modules = rows["module"].astype(str)
    numbers = {unit[0]: number for number, unit in enumerate(units)}
    signals = rows.assign(module=modules.map(names), block=modules.map(numbers))
    return replace(
        records,
        signals=signals,
        parameters=_parameters(records.parameters, units),
        coverage=_coverage(records.coverage, names),
    )


def _units(layers: Sequence[str], records: Records) -> list[list[str]]:
    """Return the layers of each unit, in order; none where a block has modules of its own."""
    if {parent(str(name)) for name in records.coverage["name"]} & set(layers):
        return []
    weights = records.parameters[records.parameters["ndim"] > 1]["name"]
    affine = {parent(str(name)) for name in weights} & set(layers)
    units: list[list[str]] = []
    for layer in layers:
        if layer in affine:
            units.append([layer])
        elif units and parent(layer) == parent(units[-1][0]):
            units[-1].append(layer)
    return units


def _parameters(parameters: pd.DataFrame, units: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return the parameters with the numbers of the units that they are in, -1 for none."""
    numbers = {layer: number for number, unit in enumerate(units) for layer in unit}
    layers = parameters["name"].astype(str).str.rpartition(".")[0]
    return parameters.assign(block=layers.map(numbers).fillna(-1).astype("int64"))


def _coverage(coverage: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return the coverage with units in the place of the layers that they begin with."""
    name = coverage["name"].astype(str)
    return coverage.assign(name=name.map(names).fillna(name))
