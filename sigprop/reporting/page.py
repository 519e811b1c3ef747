"""The HTML page: figures, stories and tables put into one self-contained document. Pure text."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sigprop.diagnosis.diagnose import diagnose
from sigprop.diagnosis.finding import Findings
from sigprop.diagnosis.growth import CRITERION
from sigprop.records import Records
from sigprop.records.spreadsheet import csv_text
from sigprop.reporting import vendor
from sigprop.reporting.figures import FigureSpec
from sigprop.reporting.glossary import QUANTITIES
from sigprop.reporting.scripts import compressed, json_text, plotly_compressed
from sigprop.reporting.story import story_of
from sigprop.reporting.summary import SUMMARY
from sigprop.reporting.tables import TABLES
from sigprop.reporting.verdicts import VERDICTS
from sigprop.words import cell, counted

#: Rows of a table on the page, and bytes up to which the page holds the whole of it as CSV.
SHOWN, LARGEST = 30, 200_000


@dataclass(frozen=True)
class FigureView:
    """One figure as the page shows it.

    Attributes:
        spec: the figure's name, title and caption.
        picture: an image of it (WebP); empty when there is none.
        alt: its content in words, for readers who cannot see it.
        notes: what it could not draw.
        absent: why there is no picture.
    """

    spec: FigureSpec
    picture: bytes = b""
    alt: str = ""
    notes: tuple[str, ...] = ()
    absent: str = ""

    @property
    def drawn(self) -> bool:
        """Whether there is a picture."""
        return bool(self.picture)

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return "data:image/webp;base64," + base64.b64encode(self.picture).decode("ascii")


@dataclass(frozen=True)
class TableView:
    """A table as the page shows it: its first rows as text.

    Attributes:
        name: its name, and that of its CSV file.
        title: the heading above it.
        caption: what a row is.
        columns: their names.
        rows: the cells of the first rows.
        texts: which columns hold text.
        total: how many rows there are.
        csv: the whole table; empty when it is large.
        turned: whether the page shows its columns as rows.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[bool, ...]
    total: int
    csv: str
    turned: bool = False


def render(
    title: str,
    records: Records,
    views: list[FigureView],
    tables: dict[str, pd.DataFrame],
    data: Mapping[str, Any],
    linked: bool = False,
) -> str:
    """Return the page.

    Args:
        title: its heading.
        records: for what is missing.
        views: the figures, in order.
        tables: the frames by name, as written to CSV.
        data: what the page's script draws, of `sigprop.reporting.explorable.page_data`.
        linked: whether Plotly is a file beside the page.

    Returns:
        A document of HTML that refers to nothing outside of it but that file.
    """
    environment = Environment(
        loader=PackageLoader("sigprop.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    grids = {name: _view(name, frame) for name, frame in tables.items()}
    grids["summary"] = _turned(tables["summary"])
    rows = tables["summary"].to_dict("records")
    findings = diagnose(records) if len(records.signals) or len(records.parameters) else Findings()
    stories = [story_of({str(name): value for name, value in row.items()}) for row in rows]
    return environment.get_template("report.html.j2").render(
        title=title,
        stories=stories,
        findings={story.network: findings.of(story.network) for story in stories},
        verdicts=[(word, *VERDICTS[word]) for word in VERDICTS],
        criterion=CRITERION,
        figures=views,
        tables=[grid for name, grid in grids.items() if name not in ("coverage", "provenance")],
        coverage=grids["coverage"],
        provenance=grids["provenance"],
        gaps=gaps(tables["coverage"]),
        missing=records.missing,
        glossary=list(QUANTITIES.values()),
        created=str(records.manifest.get("created", "")),
        data=compressed(json_text({**data, "tables": _held(grids)})),
        explored=set(data["figures"]),
        style=_asset("report.css"),
        script=_asset("report.js"),
        linked=vendor.PLOTLY if linked else "",
        plotly="" if linked else plotly_compressed(),
        plotly_version=vendor.plotly_version(),
        plotly_license=vendor.plotly_license(),
    )


def _held(grids: Mapping[str, TableView]) -> dict[str, dict[str, object]]:
    """Return the tables that the page holds whole."""
    return {
        name: {"csv": grid.csv, "turned": grid.turned} for name, grid in grids.items() if grid.csv
    }


def _asset(name: str) -> Markup:
    """Return a file beside the template as it is: it is ours, and has nothing to escape."""
    return Markup((files("sigprop.reporting") / "templates" / name).read_text("utf-8"))


def alt_text(spec: FigureSpec, figure: Figure) -> str:
    """Return a figure in words: heading, panels, networks and what is marked.

    Args:
        spec: names it.
        figure: as drawn.
    """
    panels = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]
    named = ", ".join(dict.fromkeys(panel.strip() for panel in panels if panel.strip()))
    notes = " ".join(getattr(figure, "notes", ()))
    return f"{spec.title}. Panels: {named}. {notes}".strip()


def gaps(coverage: pd.DataFrame) -> list[str]:
    """Return how many modules were recorded by network, and why others or gradients were not.

    Args:
        coverage: the table of that name.

    Example:
        >>> gaps(pd.DataFrame({"network": ["a", "a"], "name": ["x", "y"], "recorded": [True, False],
        ...                    "status": ["recorded", "never_called"], "gradient": ["", ""],
        ...                    "reason": ["", "never called"]}))
        ['a: 1 of 2 modules recorded; not recorded: 1 module (never called: y).']
    """
    sentences = []
    for network, rows in coverage.groupby("network", sort=False):
        lost = rows[~rows["recorded"]]
        parts = [
            f"{network}: {len(rows) - len(lost)} of {counted(len(rows), 'module')} recorded",
            *_listed("not recorded", lost, "reason"),
            *_listed("no gradient", rows[rows["status"] == "no_gradient"], "gradient"),
        ]
        sentences.append("; ".join(parts) + ".")
    return sentences


def _listed(what: str, rows: pd.DataFrame, why: str) -> list[str]:
    """Return the names of ``rows`` by the words in column ``why``; empty when there are none."""
    groups = [
        f"{counted(len(group), 'module')} ({str(words) or 'no reason given'}: "
        f"{', '.join(group['name'].head(3))}{', …' if len(group) > 3 else ''})"
        for words, group in rows.groupby(why, sort=False)
    ]
    return [f"{what}: {', '.join(groups)}"] if groups else []


def _view(name: str, frame: pd.DataFrame) -> TableView:
    spec = TABLES[name]
    rows = tuple(
        tuple(cell(value) for value in row)
        for row in frame.head(SHOWN).itertuples(index=False, name=None)
    )
    columns = tuple(frame.columns)
    return TableView(
        name, spec.title, spec.caption, columns, rows, _texts(frame), len(frame), _inline(frame)
    )


def _inline(frame: pd.DataFrame) -> str:
    """Return a table as CSV, so that a page that is sent alone still has it; not a large one."""
    text = csv_text(frame)
    return text if len(text.encode("utf-8")) <= LARGEST else ""


def _texts(frame: pd.DataFrame) -> tuple[bool, ...]:
    """Return which columns hold text, which is set to the left; numbers go to the right."""
    kinds = pd.api.types
    return tuple(not kinds.is_any_real_numeric_dtype(kind) for kind in frame.dtypes)


def _turned(frame: pd.DataFrame) -> TableView:
    """Return the summary with one column per network, and what each line means beside it."""
    spec = TABLES["summary"]
    networks = tuple(str(name) for name in frame["network"])
    rows = tuple(
        (name, *(cell(value) for value in frame[name].tolist()), meaning)
        for name, meaning in SUMMARY.items()
        if name != "network"
    )
    texts = (True, *(False for _ in networks), True)
    columns = ("quantity", *networks, "meaning")
    return TableView(
        "summary", spec.title, spec.caption, columns, rows, texts, len(rows), _inline(frame), True
    )
