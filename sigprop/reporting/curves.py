"""One panel of lines: mean over seeds, band, and a mark for every value that cannot be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sigprop.reporting.aggregate import over_seeds, wants_log
from sigprop.reporting.axis import BlockAxis, label_blocks, mark_stacks
from sigprop.reporting.canvas import Look, Sheet, write_empty
from sigprop.reporting.glossary import QUANTITIES, Kind
from sigprop.words import ranges

#: What cannot be drawn in a panel -> its marker and its words.
MARKS = {
    "nonfinite": ("x", "non-finite"),
    "zero": ("v", "exactly 0"),
    "rounding": ("v", "0 to rounding"),
    "undefined": ("|", "undefined (NaN)"),
}
#: Quantities that rounding keeps from being 0; `select.without_rounding` makes them 0 again.
ROUNDED = ("mean_shift",)
Notes = dict[tuple[str, str], list[str]]


def panel(
    axes: Axes,
    rows: pd.DataFrame,
    quantity: str,
    style: Mapping[str, Look],
    notes: Notes,
    x: str = "block",
    sparse: bool = False,
    beside: pd.DataFrame | None = None,
    axis: BlockAxis | None = None,
) -> pd.DataFrame:
    """Draw one quantity of all networks against ``x`` and return what was drawn.

    A line is broken where one stack of blocks ends and another begins.

    Args:
        axes: where.
        rows: one row per network, draw and ``x``.
        quantity: a column of ``rows`` and a key of the glossary.
        style: look by network.
        notes: filled with what could not be drawn: (network, words) -> quantities.
        x: the column along the axis.
        sparse: absent values are by design (dead units at rectified taps only): no mark for them.
        beside: rows of all panels that shall have the same vertical axis; only ``rows`` if None.
        axis: names and stacks of the blocks, when ``x`` is ``"block"``.

    Returns:
        The frame of `over_seeds`: one row per network and ``x``.
    """
    meaning = QUANTITIES[quantity]
    table = over_seeds(rows, quantity, ["network", x], meaning.kind)
    if sparse:
        table = table[(table["seeds"] > 0) | (table["nonfinite"] > 0)].assign(undefined=0)
    logarithmic = _scale(axes, rows if beside is None else beside, quantity)
    for name, look in style.items():
        line = table[table["network"] == name]
        if len(line):
            stack = axis.stacks.get(name, {}) if axis else {}
            _draw_line(axes, _with_gaps(line, x, stack), x, look, logarithmic)
            _mark(axes, line, x, look, logarithmic, (quantity, notes))
    axes.set_ylabel(meaning.label)
    if axis is not None:
        label_blocks(axes, axis)
        mark_stacks(axes, axis)
    if not (table["seeds"] > 0).any():
        write_empty(axes, "no finite value" if len(table) else "not recorded")
    return table


def _scale(axes: Axes, rows: pd.DataFrame, quantity: str) -> bool:
    """Return whether the vertical axis is logarithmic, and set its scale and ends."""
    kind = QUANTITIES[quantity].kind
    values = rows[quantity].to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    logarithmic = kind in ("scale", "cost") and wants_log(finite)
    if logarithmic:
        axes.set_yscale("log")
        finite = finite[finite > 0]
    if len(finite):
        axes.set_ylim(limits(float(finite.min()), float(finite.max()), kind, logarithmic))
    return logarithmic


def limits(low: float, high: float, kind: Kind, logarithmic: bool) -> tuple[float, float]:
    """Return the ends of a vertical axis with a margin around the data.

    A share starts at 0, a signed quantity is centered on 0, and a flat line does not look like a
    cliff: a linear axis shows at least 10 % of the value on either side.

    Args:
        low: the smallest value.
        high: the largest.
        kind: of the quantity.
        logarithmic: whether the axis is; then both are above 0.

    Example:
        >>> limits(1.0, 1.0, "scale", False)
        (0.9, 1.1)
        >>> limits(0.0, 0.01, "share", False)
        (-0.002, 0.1)
    """
    if logarithmic:
        margin = 0.07 * (np.log10(high) - np.log10(low))
        bottom, top = 10.0 ** np.clip([np.log10(low) - margin, np.log10(high) + margin], -300, 300)
        return float(bottom), float(top)
    if kind == "share":
        return -0.02 * max(high, 0.1), max(min(1.15 * high, 1.04), high, 0.1)
    if kind == "signed":
        reach = max(1.15 * max(abs(low), abs(high)), 0.1)
        return -reach, reach
    margin = max(0.1 * abs(high), 0.12 * (high - low)) or 1.0
    return low - margin, high + margin


def _with_gaps(line: pd.DataFrame, x: str, stack: Mapping[int, int]) -> pd.DataFrame:
    """Return the points of a line with an undefined one wherever another stack begins."""
    number = line[x].map(stack).ffill()
    begins = (number != number.shift()) & number.shift().notna()
    if not begins.any():
        return line
    gaps = pd.DataFrame({x: line.loc[begins, x] - 0.5})
    return pd.concat([line, gaps]).sort_values(x, kind="stable")


def _draw_line(axes: Axes, line: pd.DataFrame, x: str, look: Look, logarithmic: bool) -> None:
    shown = line["center"].where((line["center"] > 0) | (not logarithmic))
    every = max(1, len(line) // 10)
    axes.plot(
        line[x],
        shown,
        color=look.color,
        marker=look.marker,
        markevery=(look.rank % every, every),
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=look.label,
        zorder=3,
    )
    if line["seeds"].max() > 1:
        axes.fill_between(
            line[x].to_numpy(dtype=float),
            line["low"].to_numpy(dtype=float),
            line["high"].to_numpy(dtype=float),
            color=look.color,
            alpha=0.18,
            linewidth=0,
            zorder=2,
        )


def _mark(
    axes: Axes,
    line: pd.DataFrame,
    x: str,
    look: Look,
    logarithmic: bool,
    where: tuple[str, Notes],
) -> None:
    """Mark values that cannot be drawn: crosses at the top, zeros at the foot of a log axis."""
    quantity, notes = where
    kinds = {
        "nonfinite": line["nonfinite"] > 0,
        "zero": (line["center"] == 0) & logarithmic,
        "undefined": line["undefined"] > 0,
    }
    used = [str(artist.get_gid()).partition(":")[0] for artist in axes.lines]
    # crosses hang from the top border, the rest stands on the lower one, one row per network
    low = 0.012 + 0.025 * (used.count("zero") + used.count("undefined"))
    heights = {"nonfinite": 0.97 - 0.03 * used.count("nonfinite"), "zero": low, "undefined": low}
    for kind, chosen in kinds.items():
        at = line.loc[chosen, x]
        if len(at) == 0:
            continue
        rounded = kind == "zero" and quantity in ROUNDED
        shape, words = MARKS["rounding" if rounded else kind]
        axes.plot(
            at,
            np.full(len(at), heights[kind]),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker=shape,
            markersize=5,
            color=look.color,
            markeredgewidth=1.4 if kind != "zero" else 0,
            label="_mark",
            zorder=4,
            clip_on=False,
            gid=f"{kind}:{look.rank}",
        )
        sentence = f"{words} {ranges(at, line[x], 'step' if x == 'step' else 'block')}"
        notes.setdefault((look.label, sentence), []).append(quantity.replace("_", " "))


def theory(
    axes: Axes, predicted: pd.DataFrame, style: Mapping[str, Look], logarithmic: bool
) -> None:
    """Draw the predicted values of each network as a dashed line over its measurements.

    Args:
        axes: the panel.
        predicted: columns ``network``, ``block`` and ``value``; what is not finite is not drawn.
        style: look by network.
        logarithmic: whether the vertical axis is; then only values above 0 are drawn.
    """
    for name, look in style.items():
        line = predicted[predicted["network"] == name].sort_values("block")
        if len(line):
            value = line["value"].where(np.isfinite(line["value"]))
            shown = value.where((value > 0) | (not logarithmic))
            axes.plot(
                line["block"],
                shown,
                color=darker(look.color),
                linestyle=(0, (4, 2)),
                linewidth=1.3,
                label="_theory",
                gid=f"theory:{look.rank}",
                zorder=5,
            )


def darker(color: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return a darker shade, so that theory stays visible on its own measurement."""
    red, green, blue = to_rgb(color)
    return (0.45 * red, 0.45 * green, 0.45 * blue)


def handles(
    style: Mapping[str, Look], band: bool = False, predicted: bool = False
) -> list[Line2D | Patch]:
    """Return the legend's entries: networks, then what band and dashes mean.

    Args:
        style: look by network.
        band: whether a band is drawn.
        predicted: whether theory is drawn.
    """
    entries: list[Line2D | Patch] = [
        Line2D([], [], color=look.color, marker=look.marker, label=look.label)
        for look in style.values()
    ]
    if band:
        entries.append(
            Patch(color="0.5", alpha=0.35, linewidth=0, label="band: min–max over seeds")
        )
    if predicted:
        entries.append(
            Line2D([], [], color="0.2", linestyle=(0, (4, 2)), linewidth=1.3, label="theory")
        )
    return entries


def explain(sheet: Sheet, style: Mapping[str, Look], notes: Notes) -> list[Line2D | Patch]:
    """Return legend entries for the marks, and put the same words in the sheet's notes.

    Args:
        sheet: the figure.
        style: look by network.
        notes: as filled by `panel`.
    """
    by_label = {look.label: look for look in style.values()}
    entries: list[Line2D | Patch] = []
    for (label, sentence), quantities in notes.items():
        look = by_label[label]
        shape = next(mark for mark, words in MARKS.values() if sentence.startswith(words))
        sheet.notes.append(f"{label.strip()}: {_listed(quantities)} {sentence}.")
        entries.append(
            Line2D(
                [],
                [],
                color=look.color,
                marker=shape,
                linestyle="none",
                markeredgewidth=0 if shape == "v" else 1.4,
                label=f"{label.strip()}: {sentence}",
            )
        )
    unique = {str(entry.get_label()): entry for entry in entries}
    return list(unique.values())


def _listed(words: Sequence[str]) -> str:
    unique = list(dict.fromkeys(words))
    return " and ".join([", ".join(unique[:-1]), unique[-1]] if len(unique) > 1 else unique)
