"""What an explorable figure is: a registered function from a study to plain data, no drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from sigprop.records.sequence import blocks_in_order
from sigprop.registry import Registry
from sigprop.reporting.axis import block_axis
from sigprop.reporting.figures import NothingToDraw, Study
from sigprop.reporting.glossary import QUANTITIES

#: What the page's script draws: dicts, lists, strings, numbers and typed arrays.
Data = dict[str, Any]
Build = Callable[[Study], Data]

#: Function by the name of the figure of `FIGURES` that it makes explorable.
EXPLORABLE: Registry[Build] = Registry("explorable figure")

#: matplotlib's markers of the networks -> plotly's.
_SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "*": "star",
    "<": "triangle-left",
    ">": "triangle-right",
}


def page_data(study: Study, names: Sequence[str]) -> Data:
    """Return what the page's script needs: the networks, and the data of each figure.

    Args:
        study: the records, and theory beside them.
        names: of the figures on the page; those that cannot be explored or hold no data are left
            out.
    """
    figures = {}
    for name in names:
        if name in EXPLORABLE:
            try:
                figures[name] = EXPLORABLE[name](study)
            except NothingToDraw:
                continue
    networks = [
        {"name": name, "color": to_hex(look.color), "symbol": _SYMBOLS[look.marker]}
        for name, look in study.style().items()
    ]
    return {"networks": networks, "figures": figures}


def indices(study: Study) -> dict[str, int]:
    """Return the position of each network in the page's list of networks.

    Args:
        study: the records.
    """
    return {name: index for index, name in enumerate(study.style())}


def axis_of_blocks(study: Study, signals: pd.DataFrame) -> Data:
    """Return what stands along an axis of blocks.

    Args:
        study: the records.
        signals: the frame of that name, or `Study.signals`, whose repeated blocks are unrolled.

    Returns:
        ``label``; ``ticks``, position -> short name where all networks have the same blocks;
        ``starts``, position -> name of the stack that begins there; ``names``, for each network
        the name of the block by position; ``breaks``, for each network where another stack begins.
    """
    order = blocks_in_order(signals)
    axis = block_axis(order)
    inside = axis.inside or axis.names
    trivial = all(name == str(position) for position, name in inside.items())
    names: list[dict[str, str]] = []
    breaks: list[list[int]] = []
    for network in study.style():
        rows = order[order["network"] == network].sort_values("block")
        names.append({str(row["block"]): str(row["label"]) for row in rows.to_dict("records")})
        begins = (rows["stack"] != rows["stack"].shift()) & rows["stack"].shift().notna()
        breaks.append([int(block) for block in rows.loc[begins, "block"]])
    return {
        "label": "block (execution order)",
        "ticks": {} if trivial else {str(at): name for at, name in inside.items()},
        "starts": {str(at): name or "(root)" for at, name in axis.starts.items()},
        "names": names,
        "breaks": breaks,
    }


def label_of(quantity: str) -> str:
    """Return the glossary's words on an axis, without matplotlib's notation of formulas.

    Args:
        quantity: a key of the glossary.

    Example:
        >>> label_of("mean_shift")
        'mean shift  mean_c (E[x_c])²'
    """
    return plain_text(QUANTITIES[quantity].label)


def plain_text(label: str) -> str:
    """Return a label without matplotlib's notation of formulas.

    Args:
        label: as an axis of a static figure has it.
    """
    return label.replace("$_c$", "_c")


def palette_of(name: str, end: float = 1.0, colors: int = 12) -> list[str]:
    """Return colors of a color map, evenly spread; the page interpolates between them.

    Args:
        name: of the color map.
        end: share of the map that is used.
        colors: how many.
    """
    return [to_hex(mpl.colormaps[name](share)) for share in np.linspace(0, end, colors)]
