"""How the signal travels forward at initialization."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sigprop.records.queries import at_first_step, by_block, dead_by_block, without_rounding
from sigprop.reporting.canvas import Sheet
from sigprop.reporting.figures.base import NothingToDraw, Study, figure
from sigprop.reporting.figures.propagation import Panel, draw_panels

MOMENTS = ["second_moment", "channel_variance", "mean_shift"]


@figure(
    "signal_propagation",
    title="Activations at initialization",
    caption=(
        "Each line follows one network's block outputs from the first block (left) to the last "
        "(right) on a training-mode forward pass before any update; a straight rising line on a "
        "logarithmic axis is exponential growth, a flat one is a preserved signal. The second "
        "moment is the sum of the two panels beside and below it, channel variance + mean shift: "
        "where mean shift takes most of it, channels differ by their mean and not by their input "
        "(below 1e-12 of the second moment it is rounding, and marked as 0)."
    ),
)
def signal_propagation(study: Study) -> Figure:
    """Draw second moment, channel variance, mean shift and dead units against block index.

    Args:
        study: the records, and theory beside them.

    Returns:
        The figure.

    Raises:
        NothingToDraw: the records hold no data for it.
    """
    panels = moments_and_dead(at_first_step(study.signals))
    if panels[0].rows.empty:
        raise NothingToDraw("No block outputs of a forward pass were recorded.")
    return draw_panels(Sheet(9.6, 6.8), study, panels, "forward")


def moments_and_dead(signals: pd.DataFrame, port: str = "out") -> list[Panel]:
    """Return the panels: the three moments, and of outputs the dead units.

    Args:
        signals: rows of the signals frame, of one step or of several.
        port: of which tensor of a block.
    """
    moments = without_rounding(by_block(signals, MOMENTS, port=port))
    panels = [
        Panel(moments, "second_moment", "Second moment"),
        Panel(moments, "channel_variance", "Channel variance"),
        Panel(moments, "mean_shift", "Mean shift"),
    ]
    if port == "out":
        panels.append(Panel(dead_by_block(signals), "dead_fraction", "Dead units", sparse=True))
    return panels
