"""Signals, gradients, residual operands and weights over blocks, with a slider of steps."""

from __future__ import annotations

from collections.abc import Callable

from sigprop.records.queries import weights_by_block
from sigprop.reporting.explorable.base import EXPLORABLE, Data, axis_of_blocks
from sigprop.reporting.explorable.lines import chosen_steps, line_panel
from sigprop.reporting.figures import NothingToDraw, Study
from sigprop.reporting.figures.backward import gradients
from sigprop.reporting.figures.forward import moments_and_dead
from sigprop.reporting.figures.propagation import Panel
from sigprop.reporting.figures.residual import operands
from sigprop.reporting.figures.weights import ratios

#: Tensors of a block that the reader can choose, and their words; a block's input is left out: it
#: is another block's output.
PORTS = {
    "out": "block outputs",
    "branch": "residual branches",
    "skip": "skip connections",
}


@EXPLORABLE.register("signal_propagation")
def signal_propagation(study: Study) -> Data:
    """Return moments and dead units by block, port and step.

    Args:
        study: the records, and theory beside them.
    """
    return _of_ports(study, lambda port: moments_and_dead(study.signals, port), "forward")


@EXPLORABLE.register("gradient_propagation")
def gradient_propagation(study: Study) -> Data:
    """Return the gradient's moments and zeros by block, port and step.

    Args:
        study: the records, and theory beside them.
    """
    return _of_ports(study, lambda port: gradients(study.signals, study.order, port), "backward")


@EXPLORABLE.register("branch_to_skip")
def branch_to_skip(study: Study) -> Data:
    """Return the ratio and the correlation of both operands by block and step.

    Args:
        study: the records.
    """
    axis = axis_of_blocks(study, study.signals)
    return _lines(study, {"": operands(study.signals)}, axis, "")


@EXPLORABLE.register("gradient_to_weight")
def gradient_to_weight(study: Study) -> Data:
    """Return gradient and update over the weight by block and step.

    Args:
        study: the records.

    Raises:
        NothingToDraw: no gradients of block weights were recorded.
    """
    rows = weights_by_block(study.records.parameters)
    if rows.empty or not rows["grad_to_weight"].notna().any():
        raise NothingToDraw("No gradients of block weights were recorded.")
    panels = ratios(rows, bool(rows["update_to_weight"].notna().any()))
    return _lines(study, {"": panels}, axis_of_blocks(study, study.records.signals), "")


def _of_ports(study: Study, panels: Callable[[str], list[Panel]], direction: str) -> Data:
    views = {words: panels(port) for port, words in PORTS.items()}
    return _lines(study, views, axis_of_blocks(study, study.signals), direction)


def _lines(study: Study, views: dict[str, list[Panel]], axis: Data, direction: str) -> Data:
    """Return a figure of lines: its views, those without rows left out, and its steps.

    Raises:
        NothingToDraw: no view has rows.
    """
    filled = {name: panels for name, panels in views.items() if len(panels[0].rows)}
    if not filled:
        raise NothingToDraw("The records hold no data for this figure.")
    steps = chosen_steps([panel for panels in filled.values() for panel in panels])
    theory = {PORTS["out"]: direction}  # predictions speak of the outputs of blocks
    return {
        "type": "lines",
        "axis": axis,
        "steps": steps,
        "views": [
            {
                "name": name,
                "panels": [
                    line_panel(study, panel, steps, theory.get(name, "")) for panel in panels
                ],
            }
            for name, panels in filled.items()
        ],
    }
