"""The tables and their columns: the one place where each number is defined.

The README's table, the report's glossary and `docs/columns.md` are made from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from sigprop.records.schema.column import Column
from sigprop.records.schema.parameters import PARAMETERS
from sigprop.records.schema.runs import COVERAGE, TRAINING
from sigprop.records.schema.signals import SIGNALS
from sigprop.records.schema.spectra import SPECTRA

#: The version of the tables that this sigprop writes; older ones are upgraded when they are loaded.
SCHEMA_VERSION = 2

#: Table -> column -> what it is, in order.
SCHEMA: Mapping[str, Mapping[str, Column]] = {
    "signals": SIGNALS,
    "parameters": PARAMETERS,
    "spectra": SPECTRA,
    "coverage": COVERAGE,
    "training": TRAINING,
}

#: Table -> what one of its rows is.
ROWS: Mapping[str, str] = {
    "signals": "One row per step, tap (a tensor at a port of a module) and direction.",
    "parameters": "One row per step and parameter.",
    "spectra": "One row per singular value.",
    "coverage": "One row per module, and per function that was recorded.",
    "training": "One row per step of a training loop, and per evaluation.",
}
