"""The columns of the tables that Python and C share; native/columns.h has the same lists."""

from __future__ import annotations

#: One channel's row of channel statistics.
COLUMNS = (
    "elements",
    "finite",
    "zeros",
    "lowest",
    "highest",
    "scale",
    "center",
    "s1",
    "s2",
    "s3",
    "s4",
)

#: One tensor's row of sums over its channels; the fields of `sigprop.signals.pooled.Pooled`.
POOLED_COLUMNS = (
    "elements",
    "samples",
    "zeros",
    "max_abs",
    "mean",
    "within",
    "between",
    "m2",
    "m4",
)
