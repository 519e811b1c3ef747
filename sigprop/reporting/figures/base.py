"""What a figure is: a registered function from a study to a matplotlib figure, with its caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from sigprop.errors import BadInput, SigpropError
from sigprop.records import Records
from sigprop.records.sequence import blocks_in_order, unrolled
from sigprop.registry import Registry
from sigprop.reporting.axis import BlockAxis, block_axis
from sigprop.reporting.canvas import Look, looks, theme

PREDICTED = ("network", "block", "direction", "quantity", "value")


class NothingToDraw(SigpropError):
    """The records hold no data for a figure; the message says in one sentence what is absent."""


@dataclass(frozen=True)
class Study:
    """What figures are drawn from.

    Attributes:
        records: the frames.
        predictions: theory, with the columns ``network, block, direction, quantity, value``,
            or None; an empty frame counts as None.
    """

    records: Records
    predictions: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        """Check the predictions' columns.

        Raises:
            BadInput: predictions lack a column.
        """
        if self.predictions is None or self.predictions.empty:
            object.__setattr__(self, "predictions", None)
            return
        absent = [name for name in PREDICTED if name not in self.predictions]
        if absent:
            raise BadInput(
                f"predictions lack the column {absent[0]!r}; they need {', '.join(PREDICTED)}"
            )

    @cached_property
    def signals(self) -> pd.DataFrame:
        """The rows of signals with one block index per call of a block, see `unrolled`."""
        return unrolled(self.records.signals)

    @cached_property
    def order(self) -> pd.DataFrame:
        """Which block stands at each index, and in which stack, see `blocks_in_order`."""
        return blocks_in_order(self.signals)

    @cached_property
    def axis(self) -> BlockAxis:
        """The axis of blocks that all networks share."""
        return block_axis(self.order)

    @cached_property
    def weight_axis(self) -> BlockAxis:
        """The axis of blocks for weights, of which a block called twice has but one set."""
        return block_axis(blocks_in_order(self.records.signals))

    def style(self) -> dict[str, Look]:
        """Return the look of each network."""
        return looks(self.records.networks())

    def predicted(self, direction: str, quantity: str) -> pd.DataFrame:
        """Return the predicted values of one quantity; empty when there are none.

        Args:
            direction: ``"forward"`` or ``"backward"``.
            quantity: a column of ``signals``.
        """
        if self.predictions is None:
            return pd.DataFrame(columns=list(PREDICTED))
        known = self.predictions
        return known[(known["direction"] == direction) & (known["quantity"] == quantity)]


@dataclass(frozen=True)
class FigureSpec:
    """A figure by name: how it is drawn and how it is read.

    Attributes:
        name: its name in the registry and of its files.
        title: the heading above it.
        caption: two sentences that say how to read it.
        draw: the function; it raises `NothingToDraw` (or returns None) without data.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Study], Figure | None]

    def __call__(self, study: Study) -> Figure:
        """Draw the figure in the report's theme.

        Args:
            study: the records, and theory beside them.

        Returns:
            The figure.

        Raises:
            NothingToDraw: the records hold no data for it.
        """
        with theme():
            drawn = self.draw(study)
        if drawn is None:
            raise NothingToDraw("The records hold no data for this figure.")
        return drawn


#: Figure by name, in the order of the page.
FIGURES: Registry[FigureSpec] = Registry("figure")

Draw = Callable[[Study], "Figure | None"]


def figure(name: str, *, title: str, caption: str) -> Callable[[Draw], Draw]:
    """Return a decorator that registers a drawing function under ``name``.

    Args:
        name: the name of its files, and for the ``figures`` argument of `sigprop.report`.
        title: the heading above it.
        caption: two sentences that say how to read it.
    """

    def file(draw: Draw) -> Draw:
        """Return the function, which is registered as a figure."""
        FIGURES.register(name)(FigureSpec(name, title, caption, draw))
        return draw

    return file
