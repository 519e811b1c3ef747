"""The two operands of each residual addition."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sigprop.records.queries import at_first_step, residual_operands
from sigprop.reporting.canvas import Sheet
from sigprop.reporting.figures.base import NothingToDraw, Study, figure
from sigprop.reporting.figures.propagation import Panel, draw_panels


@figure(
    "branch_to_skip",
    title="Residual branch against skip connection",
    caption=(
        "The first panel compares the size of what each block adds with the size of what it adds "
        "to; 1 means that every block weighs as much as all before it, and values that fall like "
        "1/k mean equal shares. The second panel checks the assumption behind additive variance "
        "laws, that skip and branch are uncorrelated (dotted line at 0)."
    ),
)
def branch_to_skip(study: Study) -> Figure:
    """Draw the ratio of second moments and the correlation of skip and branch by block.

    Args:
        study: the records, and theory beside them.

    Returns:
        The figure.

    Raises:
        NothingToDraw: the records hold no data for it.
    """
    panels = operands(at_first_step(study.signals))
    if panels[0].rows.empty:
        raise NothingToDraw("No residual additions (skip and branch operands) were recorded.")
    return draw_panels(Sheet(9.6, 3.9), study, panels)


def operands(signals: pd.DataFrame) -> list[Panel]:
    """Return the panels: the ratio of branch to skip, and their correlation.

    Args:
        signals: rows of the signals frame, of one step or of several.
    """
    rows = residual_operands(signals)
    return [
        Panel(rows, "branch_to_skip", "Branch / skip"),
        Panel(rows, "skip_branch_correlation", "Skip–branch correlation", sparse=True, guide=0.0),
    ]
