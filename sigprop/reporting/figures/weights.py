"""How large gradients and updates are beside the weights they change."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from sigprop.records.queries import at_first_step, at_last_step, weights_by_block
from sigprop.reporting.canvas import Sheet
from sigprop.reporting.figures.base import NothingToDraw, Study, figure
from sigprop.reporting.figures.propagation import Panel, draw_panels


@figure(
    "gradient_to_weight",
    title="Gradient and update relative to the weight",
    caption=(
        "Each point is the geometric mean over the weight matrices of one block, at the first "
        "recorded step and at the last; parameters outside blocks (stem, head) and "
        "vectors (biases, gains) are left out. An even line means that one learning rate suits all "
        "depths; updates of about 1e-3 of the weight per step are a common rule of thumb "
        "(dotted line, after Karpathy)."
    ),
)
def gradient_to_weight(study: Study) -> Figure:
    """Draw gradient-to-weight and update-to-weight by block, at the first and last step.

    Args:
        study: the records, and theory beside them.

    Returns:
        The figure.

    Raises:
        NothingToDraw: the records hold no data for it.
    """
    blocks = weights_by_block(study.records.parameters)
    if blocks.empty or not blocks["grad_to_weight"].notna().any():
        raise NothingToDraw("No gradients of block weights were recorded.")
    first, last = at_first_step(blocks), at_last_step(blocks)
    moments = [(first, "first recorded step")]
    if not last.equals(first):
        moments.append((last, "last recorded step"))
    updates = bool(blocks["update_to_weight"].notna().any())
    both, axis = pd.concat([rows for rows, _ in moments]), study.weight_axis
    by_moment = [
        [
            replace(panel, title=f"{panel.title}, {when}", beside=both, axis=axis)
            for panel in ratios(rows, updates)
        ]
        for rows, when in moments
    ]
    panels = [panel for beside in zip(*by_moment, strict=True) for panel in beside]
    height = 3.9 if len(panels) <= 2 else 6.8
    width = 9.6 if len(panels) > 1 else 6.0
    return draw_panels(Sheet(width, height), study, panels, columns=min(2, len(panels)))


def ratios(rows: pd.DataFrame, updates: bool) -> list[Panel]:
    """Return the panels: the gradient over the weight, and the update over it.

    Args:
        rows: of `weights_by_block`, of one step or of several.
        updates: whether there is the second panel.
    """
    panels = [Panel(rows, "grad_to_weight", "Gradient / weight")]
    if updates:
        panels.append(Panel(rows, "update_to_weight", "Update / weight", guide=1e-3))
    return panels
