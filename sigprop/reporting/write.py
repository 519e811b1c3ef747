"""Writes a report directory: the page, each figure as PNG and SVG, each table as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sigprop.errors import BadInput
from sigprop.records import Records, atomic_write, load
from sigprop.records.spreadsheet import csv_text
from sigprop.reporting.folder import ReportFolder

if TYPE_CHECKING:  # matplotlib, pandas and scipy are loaded by the first report, not with sigprop
    import pandas as pd

    from sigprop.reporting.figures import FigureSpec, Study
    from sigprop.reporting.page import FigureView

_PAGE = "report.html"
_KINDS = ("png", "svg")


def report(
    records: Records | str | Path,
    directory: str | Path,
    *,
    title: str | None = None,
    figures: Sequence[str] | None = None,
    predictions: pd.DataFrame | None = None,
    linked: bool = False,
) -> Path:
    """Write ``report.html``, ``figures/NAME.png|svg`` and ``tables/NAME.csv`` and return the page.

    The page needs no network and no other file, and its figures can be explored: hover, networks
    switched on and off, axes, a slider of steps. The same records give the same bytes. A report
    that is already there is overwritten; a file that no report wrote is left as it is (the folder
    lists the report's own files in ``report.files.json``).

    Args:
        records: what was seen, or the path of a run directory.
        directory: where to write; made if absent.
        title: the page's heading; the networks' names when not given.
        figures: names of the figures to draw, others of an earlier report stay; all that the
            records hold data for when not given.
        predictions: theory to draw over the measurements, with the columns ``network``, ``block``,
            ``direction``, ``quantity`` (a column of ``signals``) and ``value``; that of the
            recorded networks of the zoo when not given, and none when the frame is empty.
        linked: put the script that draws (Plotly, 1.5 MB) beside the page instead of into it, for
            folders of many reports.

    Returns:
        The path of the page.

    Raises:
        BadInput: the records are empty, or predictions lack a column.
        RunError: the directory cannot be written, or holds a file of the same name that no report
            wrote, or the run cannot be read.
        UnknownName: no figure has one of the names asked for.

    Example:
        >>> report(Records(), "reports/first")
        Traceback (most recent call last):
        sigprop.errors.BadInput: the records are empty, there is nothing to report
    """
    seen = records if isinstance(records, Records) else load(records)
    if not any(len(frame) for frame in seen.tables().values()):
        raise BadInput(
            "the records are empty, there is nothing to report; measure something first, "
            "for example records = sigprop.measure(model, inputs)"
        )
    from sigprop.reporting.explorable import page_data
    from sigprop.reporting.figures import FIGURES, Study
    from sigprop.reporting.page import render
    from sigprop.reporting.tables import TABLES
    from sigprop.reporting.vendor import PLOTLY, plotly
    from sigprop.verification.predictions import predictions as predictions_of

    wanted = [figures] if isinstance(figures, str) else figures
    chosen = [FIGURES[name] for name in (FIGURES if wanted is None else wanted)]
    study = Study(seen, predictions_of(seen) if predictions is None else predictions)
    tables = {name: spec.build(seen, study.predictions) for name, spec in TABLES.items()}
    texts = {f"tables/{name}.csv": csv_text(frame) for name, frame in tables.items()}
    folder = ReportFolder(Path(directory))
    files = [f"figures/{spec.name}.{kind}" for spec in chosen for kind in _KINDS]
    beside = {PLOTLY: plotly()} if linked else {}
    folder.claim([*files, *texts, *beside, _PAGE])
    views = [_draw(spec, study, folder) for spec in chosen]
    for name, text in {**texts, **beside}.items():
        atomic_write(folder.directory / name, partial(_write_text, text=text))
    heading = title or f"Signal propagation: {', '.join(seen.networks())}"
    data = page_data(study, [view.spec.name for view in views if view.drawn])
    html = render(heading, seen, views, tables, data, linked=linked)
    page = folder.directory / _PAGE
    atomic_write(page, partial(_write_text, text=html))
    return page


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8", newline="")


def _draw(spec: FigureSpec, study: Study, folder: ReportFolder) -> FigureView:
    """Return what the page needs of a figure, which is drawn and written to files."""
    from sigprop.reporting.canvas import picture, save
    from sigprop.reporting.figures import NothingToDraw
    from sigprop.reporting.page import FigureView, alt_text

    names = {kind: f"figures/{spec.name}.{kind}" for kind in _KINDS}
    try:
        drawn = spec(study)
    except NothingToDraw as absent:
        folder.remove(names.values())
        return FigureView(spec, absent=str(absent))
    for kind, name in names.items():
        atomic_write(folder.directory / name, partial(save, drawn, kind))
    return FigureView(
        spec,
        picture=picture(folder.directory / names["png"]),
        alt=alt_text(spec, drawn),
        notes=tuple(getattr(drawn, "notes", ())),
    )
