"""How the gradient travels backward at initialization."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sigprop.records.queries import at_first_step, by_block, without_rounding
from sigprop.records.sequence import relative_gradient
from sigprop.reporting.canvas import Sheet
from sigprop.reporting.figures.base import NothingToDraw, Study, figure
from sigprop.reporting.figures.propagation import Panel, draw_panels


@figure(
    "gradient_propagation",
    title="Gradients at initialization",
    caption=(
        "Statistics of the loss gradient at each block's output; the backward pass runs from right "
        "to left, so a line that rises to the left is a gradient that grows on its way to the "
        "input. The relative panel divides each line by its own last block, which removes the "
        "scale of the loss and leaves what the blocks themselves do to the gradient."
    ),
)
def gradient_propagation(study: Study) -> Figure:
    """Draw the gradient's second moment, absolute and relative, mean shift and zeros by block.

    Args:
        study: the records, and theory beside them.

    Returns:
        The figure.

    Raises:
        NothingToDraw: the records hold no data for it.
    """
    panels = gradients(at_first_step(study.signals), study.order)
    if panels[0].rows.empty:
        raise NothingToDraw("No gradients at block outputs were recorded.")
    return draw_panels(Sheet(9.6, 6.8), study, panels, "backward")


def gradients(signals: pd.DataFrame, order: pd.DataFrame, port: str = "out") -> list[Panel]:
    """Return the panels: second moment, mean shift and zeros, and of outputs the relative one.

    Args:
        signals: rows of the signals frame, of one step or of several.
        order: the frame of `blocks_in_order`.
        port: of which tensor of a block.
    """
    columns = ["second_moment", "mean_shift", "zero_fraction"]
    rows = without_rounding(by_block(signals, columns, "backward", port))
    panels = [Panel(rows, "second_moment", "Gradient second moment", "second moment  E[g²]")]
    if port == "out":
        relative = relative_gradient(rows, order)
        panels.append(Panel(relative, "relative_gradient", "Relative to the last block"))
    return [
        *panels,
        Panel(rows, "mean_shift", "Gradient mean shift", "mean shift  mean$_c$ (E[g$_c$])²"),
        Panel(rows, "zero_fraction", "Zeros in the gradient"),
    ]
