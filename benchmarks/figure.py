"""The figures, from the tables alone: what each tool costs, and how sigprop's cost grows."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sigprop.reporting.canvas import Sheet, legend, theme

KINDS = ("sigprop", "another package", "written by hand")
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def kind_of(tool: str) -> str:
    """Return to which of `KINDS` a tool belongs, by its name."""
    if tool.startswith("sigprop"):
        return "sigprop"
    return "written by hand" if tool.startswith("hook") else "another package"


def equal(tool: str) -> bool:
    """Return whether a tool records what sigprop records of one tensor, by its name."""
    return tool.endswith("equal numbers") or tool.startswith(("sigprop, blocks", "sigprop, leaves"))


def spread(axes: Axes, low: float, high: float) -> None:
    """Label a logarithmic axis of ratios at readable values."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    subs = (1.0, 2.0, 5.0) if high / low < 40 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())


def overhead(table: pd.DataFrame, tools: Sequence[str]) -> Sheet:
    """Return a panel a subject: the ratio to the bare step of every tool, one below the other.

    Args:
        table: subject, tool, ratio, low, high, numbers, status.
        tools: which to show, from the top.
    """
    subjects = list(table["subject"].unique())
    colors = dict(zip(KINDS, sns.color_palette("colorblind", len(KINDS)), strict=True))
    drawn = table[table["tool"].isin(tools)]
    edge = 1.15 * drawn["high"].max()
    with theme():
        sheet = Sheet(3.6 + 2.5 * len(subjects), 1.4 + 0.215 * len(tools))
        panels = sheet.subplots(1, len(subjects), sharey=True, squeeze=False)[0]
        for axes, subject in zip(panels, subjects, strict=True):
            rows = drawn[drawn["subject"] == subject].set_index("tool")
            for height, tool in enumerate(tools):
                if tool not in rows.index:
                    continue
                row, color = rows.loc[tool], colors[kind_of(tool)]
                if row["status"] != "measured":
                    blind = "nothing" in row["status"]
                    why = "× records nothing" if blind else "× does not run"
                    axes.text(1.03, height, why, va="center", fontsize=7, color="0.45")
                    continue
                axes.plot([row["low"], row["high"]], [height, height], color=color, lw=2, alpha=0.5)
                marker = "D" if equal(tool) else "o"
                axes.plot(row["ratio"], height, marker, color=color, ms=4.5)
                axes.annotate(
                    f"{row['ratio']:.2f}",
                    (row["high"], height),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                    color="0.3",
                )
            axes.axvline(1, color="0.3", lw=1)
            spread(axes, 0.9, 1.35 * edge)
            network, _, size = subject.partition(", ")
            axes.set_title(f"{network}\n{size}", fontsize=9)
            axes.set_xlabel("step time over bare step")
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(tools)), labels=tools)
        panels[0].set_ylim(len(tools) - 0.4, -0.6)
        for label, tool in zip(panels[0].get_yticklabels(), tools, strict=True):
            label.set_fontweight("bold" if kind_of(tool) == "sigprop" else "normal")
        sns.despine(sheet)
        marks = [
            *(Line2D([], [], lw=5, color=color, label=kind) for kind, color in colors.items()),
            Line2D([], [], marker="D", ls="", color="0.4", label="records sigprop's numbers"),
            Line2D([], [], marker="o", ls="", color="0.4", label="records others, or none"),
        ]
        bar = Line2D([], [], color="0.5", lw=2, alpha=0.5, label="95 % interval of the median")
        legend(sheet, [*marks, bar])
    return sheet


def growth(table: pd.DataFrame) -> Sheet:
    """Return a column an axis of growth: milliseconds a step above, the ratio to bare below."""
    tools = list(table["tool"].unique())
    looks = dict(zip(tools, sns.color_palette("colorblind", len(tools)), strict=True))
    growing = list(table["axis"].unique())
    words = {"depth": "blocks", "width": "width", "batch": "batch size"}
    with theme():
        sheet = Sheet(1 + 2.6 * len(growing), 5.2)
        panels = sheet.subplots(2, len(growing), sharex="col", sharey="row", squeeze=False)
        for column, axis in enumerate(growing):
            for tool, color in looks.items():
                rows = table[(table["axis"] == axis) & (table["tool"] == tool)]
                line = {"color": color, "marker": "o", "ls": "--" if tool == "bare" else "-"}
                for axes, quantity in zip(panels[:, column], ("ms", "ratio"), strict=True):
                    if (quantity, tool) != ("ratio", "bare"):
                        axes.plot(rows["value"], rows[quantity], **line)
            values = sorted(table.loc[table["axis"] == axis, "value"].unique())
            for axes in panels[:, column]:
                axes.set_xscale("log")
                axes.set_yscale("log")
                axes.set_xticks(values, [f"{value:g}" for value in values])
                axes.set_xticks([], minor=True)
                axes.yaxis.set_major_formatter(PLAIN)
                axes.yaxis.set_minor_formatter(NullFormatter())
            panels[1, column].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panels[1, column].axhline(1, color="0.3", lw=1)
            panels[1, column].set_xlabel(words.get(axis, axis))
        panels[0, 0].set_ylabel("ms a step")
        panels[1, 0].set_ylabel("step time over bare step")
        sns.despine(sheet)
        legend(
            sheet,
            [
                Line2D([], [], color=c, marker="o", ls="--" if t == "bare" else "-", label=t)
                for t, c in looks.items()
            ],
        )
    return sheet
