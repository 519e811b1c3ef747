"""What each drawn number means: one entry per quantity, read by axes, captions and the glossary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sigprop.records.schema import SCHEMA

#: How a quantity is averaged over seeds and what axis it may have.
#: ``scale``: non-negative, geometric mean, logarithmic when it spans decades;
#: ``share``: a fraction, arithmetic mean, linear; ``signed``: arithmetic mean, linear;
#: ``cost``: arithmetic mean, logarithmic when it spans decades.
Kind = Literal["scale", "share", "signed", "cost"]


@dataclass(frozen=True)
class Quantity:
    """One number of the frames, in words.

    Attributes:
        name: the column it comes from, or the name of the ratio made of two columns.
        label: the words on an axis, with the definition in symbols.
        definition: one sentence for the glossary.
        kind: how it is averaged and scaled, see `Kind`.
        formula: the definition in symbols; empty where ``label`` has it.
        unit: of its values; empty where there is none.
        undefined: when there is no value; empty if there always is one.
    """

    name: str
    label: str
    definition: str
    kind: Kind
    formula: str = ""
    unit: str = ""
    undefined: str = ""


def _column(table: str, name: str, label: str, kind: Kind, more: str = "") -> Quantity:
    """Return a column of the records, defined as the schema has it, and what the report adds."""
    column = SCHEMA[table][name]
    words = f"{column.definition} {more}".strip()
    return Quantity(name, label, words, kind, column.formula, column.unit, column.undefined)


_ALL = (
    _column("signals", "second_moment", "second moment  E[x²]", "scale"),
    _column("signals", "channel_variance", "channel variance  mean$_c$ Var(x$_c$)", "scale"),
    _column("signals", "mean_shift", "mean shift  mean$_c$ (E[x$_c$])²", "scale"),
    _column(
        "signals",
        "dead_fraction",
        "dead units  [share of channels]",
        "share",
        "It exists after rectifiers only; a block's value is the mean over those in it, weighted "
        "by channels.",
    ),
    _column("signals", "zero_fraction", "zeros  [share of elements]", "share"),
    Quantity(
        "relative_gradient",
        "E[g²] / E[g²] at the last block",
        "Second moment of the gradient at a block's output divided by the one at the last block's "
        "output (of several stacks of blocks, each by its own last block): 1 on the right, and "
        "what backpropagation made of it on the left.",
        "scale",
        "E[g²] / E[g²] at the last block",
        "1",
        "NaN where the last block's gradient is 0, not finite or not recorded",
    ),
    Quantity(
        "branch_to_skip",
        "E[branch²] / E[skip²]",
        "Second moment of the residual branch divided by that of the skip connection, at the "
        "addition that joins them.",
        "scale",
        "E[branch²] / E[skip²]",
        "1",
        "NaN where the skip connection is 0",
    ),
    _column("signals", "skip_branch_correlation", "correlation of skip and branch", "signed"),
    _column(
        "parameters",
        "grad_to_weight",
        "gradient to weight  ‖g‖ / ‖w‖",
        "scale",
        "A block's value is the geometric mean over its weight matrices.",
    ),
    _column("parameters", "update_to_weight", "update to weight  ‖Δw‖ / ‖w‖", "scale"),
    _column(
        "spectra",
        "singular_value",
        "singular value  σ",
        "scale",
        "The condition number is the largest over the smallest, the stable rank Σσ² / σ²max.",
    ),
    _column("training", "loss", "training loss", "cost"),
    _column("training", "accuracy", "accuracy  [share correct]", "share"),
)

#: Quantity by name.
QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in _ALL}
