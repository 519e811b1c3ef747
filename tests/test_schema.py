"""The schema: every column is defined, once, and the glossary repeats it."""

from __future__ import annotations

from typing import get_args

import pytest

from sigprop.capture.recording.coverage import Status
from sigprop.capture.recording.tap import Kind
from sigprop.records import SCHEMA
from sigprop.records.schema import ROWS
from sigprop.records.schema.column import Column
from sigprop.reporting.glossary import QUANTITIES

COLUMNS = [(table, column) for table, columns in SCHEMA.items() for column in columns.values()]
ORDER = {
    "signals": "run network seed step mode block kind module name call port direction channel_dim "
    "count channels mean second_moment channel_variance mean_shift kurtosis zero_fraction "
    "dead_fraction nonfinite max_abs skip_branch_correlation",
    "parameters": "run network seed step name block shape ndim count weight_norm grad_norm "
    "grad_to_weight update_to_weight unit_grad_to_weight_max angular_update effective_lr skipped",
    "spectra": "run network seed step name operator index singular_value log_singular_value "
    "size mass beyond_float64",
    "coverage": "run network seed name type recorded status calls gradient reason",
    "training": "run network seed step mode loss accuracy learning_rate",
}


@pytest.mark.parametrize("table", SCHEMA)
def test_columns_and_their_order(table: str) -> None:
    assert list(SCHEMA[table]) == ORDER[table].split()
    assert [column.name for column in SCHEMA[table].values()] == list(SCHEMA[table])
    assert ROWS[table].startswith("One row per ")


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda x: getattr(x, "name", x))
def test_every_column_is_defined(table: str, column: Column) -> None:
    assert column.definition[0].isupper()
    assert column.definition.endswith(".")
    if column.dtype == "float64" and table != "training":
        assert column.formula
        assert column.unit
        always = ("zero_fraction", "weight_norm", "singular_value", "log_singular_value")
        assert bool(column.undefined) != (column.name in always)
    if column.dtype == "float64" and column.undefined:
        assert column.undefined.startswith("NaN ")
    for word in (column.formula, column.unit, column.undefined):
        assert not word.endswith(".")


def test_the_codes_are_those_that_are_recorded() -> None:
    assert SCHEMA["signals"]["kind"].codes == get_args(Kind)
    assert SCHEMA["coverage"]["status"].codes == get_args(Status)


@pytest.mark.parametrize("name", QUANTITIES)
def test_the_glossary_repeats_the_schema(name: str) -> None:
    tables = [columns for columns in SCHEMA.values() if name in columns]
    if tables:
        assert QUANTITIES[name].definition.startswith(tables[0][name].definition)
    else:
        assert name in ("relative_gradient", "branch_to_skip"), "a ratio of two columns"
