"""What a column of a table is: its type, its definition, and what stands where it has no value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

#: How a column is kept, by pandas and Parquet.
Dtype = Literal["str", "int64", "float64", "bool"]

#: What stands in a row for a column that was never given.
BLANK: Mapping[Dtype, str | int | bool | float] = {
    "str": "",
    "int64": 0,
    "bool": False,
    "float64": float("nan"),
}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: the column's name.
        dtype: how it is kept.
        definition: what its values say, in a sentence.
        formula: the definition in symbols; empty for what is no number.
        unit: of its values; empty for what has none.
        undefined: when there is no value, and what stands there; empty if there always is one.
        codes: what it may hold; empty for free text and numbers.
    """

    name: str
    dtype: Dtype
    definition: str
    formula: str = ""
    unit: str = ""
    undefined: str = ""
    codes: tuple[str, ...] = ()


def table(*columns: Column | Iterable[Column]) -> dict[str, Column]:
    """Return columns, and groups of columns, by name, in order.

    Example:
        >>> list(table([Column("run", "str", "The run.")], Column("loss", "float64", "The loss.")))
        ['run', 'loss']
    """
    flat: list[Column] = []
    for column in columns:
        flat.extend([column] if isinstance(column, Column) else column)
    return {column.name: column for column in flat}


DRAW = (
    Column("run", "str", "The name of the run, where several are kept together."),
    Column("network", "str", "The name that the network goes by in the records."),
    Column("seed", "int64", "The seed that the network was initialized from."),
)
STEP = Column(
    "step", "int64", "The optimizer step, counted from 0; where training resumes, on from there."
)
MODE = Column(
    "mode",
    "str",
    "Whether the model was in training or in evaluation mode.",
    codes=("train", "eval"),
)
#: Columns that say of which draw and step a row is.
WHERE = (*DRAW, STEP)
