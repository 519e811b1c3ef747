"""The sheet figures are drawn on: theme, one look per network, deterministic files. No data."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

_MARKERS = "osD^vPX*<>"
_RC: dict[str, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same picture everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 4),
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "grid.color": "0.9",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "0.6",
    "axes.linewidth": 0.8,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.07,
    "svg.hashsalt": "sigprop",  # ids inside an SVG come from its content alone
    "svg.fonttype": "path",
    "text.usetex": False,
}


class Sheet(Figure):
    """A figure that also carries, in words, what it could not draw.

    Args:
        width: in inches.
        height: in inches.

    Attributes:
        notes: one sentence each, for the caption.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        self.notes: list[str] = []


@dataclass(frozen=True)
class Look:
    """Color and marker of one network, the same in every figure."""

    label: str
    color: tuple[float, float, float]
    marker: str
    rank: int


@contextmanager
def theme() -> Iterator[None]:
    """Draw and save inside this context; global settings are as before after it."""
    settings = {**sns.plotting_context("paper"), **sns.axes_style("whitegrid"), **_RC}
    with mpl.rc_context(settings):
        yield


def looks(networks: Sequence[str]) -> dict[str, Look]:
    """Return a color-blind safe color and a distinct marker for each network."""
    few = len(networks) <= 10
    colors = sns.color_palette("colorblind" if few else "husl", max(len(networks), 1))
    return {
        name: Look(safe_text(name), tuple(colors[rank]), _MARKERS[rank % len(_MARKERS)], rank)
        for rank, name in enumerate(networks)
    }


def safe_text(name: str, longest: int = 36) -> str:
    r"""Return a user's name as a label: no formulas, not hidden from legends, not too long.

    Args:
        name: as the user has it; matplotlib hides labels that begin with an underscore.
        longest: characters beyond which it is cut.

    Example:
        >>> safe_text("a$b")
        'a\\$b'
    """
    short = name if len(name) <= longest else name[: longest - 1] + "…"
    shown = short.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def legend(sheet: Sheet, handles: Sequence[Line2D | Patch]) -> None:
    """Put one legend under all panels, where it cannot cover data; entries read row by row.

    Args:
        sheet: the figure.
        handles: the entries, in reading order; no legend when there are none.
    """
    if not handles:
        return
    lengths = [len(str(handle.get_label())) for handle in handles]
    columns = fitting_columns(lengths, int(sheet.get_figwidth() * 12.5))
    by_row = [handle for column in range(columns) for handle in handles[column::columns]]
    sheet.legend(handles=by_row, loc="outside lower center", ncols=columns)


def fitting_columns(lengths: Sequence[int], width: int, extra: int = 6) -> int:
    """Return the most columns whose widest entries fit beside each other.

    Args:
        lengths: characters of each entry, in reading order.
        width: characters that fit in one row.
        extra: what a handle and the gap after it take, in characters.

    Example:
        >>> fitting_columns([5, 5, 5], 40), fitting_columns([5, 5, 30], 40)
        (3, 1)
    """
    for columns in range(len(lengths), 1, -1):
        widths = [max(lengths[column::columns]) + extra for column in range(columns)]
        if sum(widths) <= width:
            return columns
    return 1


def write_empty(axes: Axes, words: str) -> None:
    """Write in an empty panel why it is empty.

    Args:
        axes: the panel.
        words: the reason.
    """
    axes.text(
        0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color="0.35", wrap=True
    )


def save(figure: Figure, kind: str, path: Path, dpi: int = 200) -> None:
    """Write ``figure`` as ``"png"`` or ``"svg"``; the same figure gives the same bytes.

    Args:
        figure: drawn in `theme`.
        kind: ``"png"`` or ``"svg"``.
        path: the file.
        dpi: dots per inch of a PNG, and of what is rasterized in an SVG.
    """
    nothing = (
        {"Software": None}
        if kind == "png"
        else dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    with theme(), warnings.catch_warnings():
        # a network may be named in a script the font lacks; a box in the legend is enough
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format=kind, dpi=dpi, metadata=nothing)


def picture(png: Path, share: float = 0.6) -> bytes:
    """Return a PNG as a smaller WebP image, a tenth of its bytes: for paper, and without scripts.

    Args:
        png: as `save` wrote it.
        share: of its width and height.
    """
    buffer = io.BytesIO()
    with Image.open(png) as whole:
        size = (round(share * whole.width), round(share * whole.height))
        small = whole.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.save(buffer, "webp", quality=85, method=4)
    return buffer.getvalue()
