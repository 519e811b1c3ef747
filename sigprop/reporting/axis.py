"""Names of blocks along an axis: what stands at each position, and where one stack ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from sigprop.records.sequence import common_parent
from sigprop.reporting.canvas import safe_text

#: Most names on a horizontal axis (short ones stand upright, longer ones are turned), and on a
#: vertical one.
MOST_SHORT, MOST_LONG, MOST_ROWS = 12, 16, 8
SHORT = 3


@dataclass(frozen=True)
class BlockAxis:
    """What stands at each position of an axis of blocks.

    Attributes:
        names: position -> name of the block, without what all names have in common; empty when
            the networks have different blocks at one position.
        parent: the module path that all names have in common.
        stacks: network -> position -> number of the stack there.
        starts: position -> name of the stack that begins there; empty when there is one stack.
        inside: position -> name of the block inside its stack.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    parent: str = ""
    stacks: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    starts: Mapping[int, str] = field(default_factory=dict)
    inside: Mapping[int, str] = field(default_factory=dict)

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and the last position; None when there is none."""
        positions = [position for stack in self.stacks.values() for position in stack]
        return (min(positions), max(positions)) if positions else None

    @property
    def label(self) -> str:
        """The words on the axis."""
        if not self.names:
            return "block index"
        return f"block  {safe_text(self.parent, 30)}.*" if self.parent else "block"


def block_axis(order: pd.DataFrame) -> BlockAxis:
    """Return what stands along an axis of the blocks of all networks.

    Args:
        order: the frame of `blocks_in_order`.
    """
    stacks = {
        str(network): dict(zip(rows["block"], rows["stack"], strict=True))
        for network, rows in order.groupby("network", sort=False)
    }
    named = order.drop_duplicates(["block", "label"])
    if order.empty or named["block"].duplicated().any():
        return BlockAxis(stacks=stacks)
    parent = common_parent(list(named["module"]))
    rows = named.sort_values("block").to_dict("records")
    names = {row["block"]: row["label"].removeprefix(parent).lstrip(".") for row in rows}
    begins = [row for here, row in enumerate(rows) if row["stack"] != rows[here - 1]["stack"]]
    if len(begins) < 2:
        return BlockAxis(names, parent, stacks)
    starts = {row["block"]: row["stack_name"] for row in begins}
    inside = {row["block"]: row["label_in_stack"] for row in rows}
    return BlockAxis(names, parent, stacks, starts, inside)


def label_blocks(axes: Axes, axis: BlockAxis, vertical: bool = False) -> None:
    """Write the blocks' names along an axis of a panel, thinned until they can be read.

    Args:
        axes: the panel.
        axis: what to write; block numbers when it has no names.
        vertical: along the vertical axis, instead of the horizontal one.
    """
    scale = axes.yaxis if vertical else axes.xaxis
    inside = bool(axis.inside) and not vertical
    words = "block of each stack" if inside else axis.label
    scale.set_label_text(words if vertical else f"{words}  (execution order)")
    if axis.span and not vertical:
        margin = max(0.05 * (axis.span[1] - axis.span[0]), 0.5)
        axes.set_xlim(axis.span[0] - margin, axis.span[1] + margin)
    names = axis.inside if inside else axis.names
    if all(name == str(position) for position, name in names.items()):
        nbins: Literal["auto"] | int = 6 if vertical else "auto"
        scale.set_major_locator(MaxNLocator(nbins=nbins, integer=True, min_n_ticks=1))
        return
    short = max(map(len, names.values())) <= SHORT
    most = MOST_ROWS if vertical else MOST_SHORT if short else MOST_LONG
    positions = sorted(names)
    shown = positions[:: -(-len(positions) // most)]
    scale.set_major_locator(FixedLocator(shown))
    scale.set_major_formatter(FixedFormatter([safe_text(names[at], 22) for at in shown]))
    if not vertical and not short:
        axes.tick_params(axis="x", labelrotation=45)
        for text in axes.get_xticklabels():
            text.set(horizontalalignment="right", rotation_mode="anchor")


def mark_stacks(axes: Axes, axis: BlockAxis) -> None:
    """Draw a thin line where a stack of blocks begins, and write its name beside it.

    Args:
        axes: a panel with blocks along its horizontal axis.
        axis: holds the stacks; nothing is drawn when there is one only.
    """
    for rank, (block, name) in enumerate(sorted(axis.starts.items())):
        left = block - 0.5 if rank else axes.get_xlim()[0]
        if rank:
            axes.axvline(left, color="0.55", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            safe_text(name or "(root)", 24),
            xy=(left, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, -3),
            textcoords="offset points",
            va="top",
            fontsize=7.5,
            color="0.35",
            gid=f"stack:{rank}",
        ).set_in_layout(False)
