"""Writes a report directory: the page, each figure as PNG and SVG, each table as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sigprop.errors import BadInput, RunError
from sigprop.records import Records, atomic_write, load
from sigprop.records.spreadsheet import csv_text

if TYPE_CHECKING:  # matplotlib, pandas and scipy are loaded by the first report, not with sigprop
    import pandas as pd

    from sigprop.reporting.figures import FigureSpec, Study
    from sigprop.reporting.page import Plate


def report(
    records: Records | str | Path,
    directory: str | Path,
    *,
    title: str | None = None,
    figures: Sequence[str] | None = None,
    predictions: pd.DataFrame | None = None,
) -> Path:
    """Write ``report.html``, ``figures/NAME.png|svg`` and ``tables/NAME.csv`` and return the page.

    The page needs no network and no other file. The same records give the same bytes. A report
    that is already there is overwritten.

    Args:
        records: what was seen, or the path of a run directory.
        directory: where to write; made if absent.
        title: the page's heading; the networks' names when not given.
        figures: names of the figures to draw; all that the records hold data for when not given.
        predictions: theory to draw over the measurements, with the columns ``network``, ``block``,
            ``direction``, ``quantity`` (a column of ``signals``) and ``value``; that of the
            recorded networks of the zoo when not given, and none when the frame is empty.

    Raises:
        BadInput: the records are empty, or predictions lack a column.
        RunError: the directory cannot be written, or the run cannot be read.
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
    from sigprop.reporting.figures import FIGURES, Study
    from sigprop.reporting.page import render
    from sigprop.verification.predictions import predictions as predictions_of

    wanted = [figures] if isinstance(figures, str) else figures
    chosen = [FIGURES[name] for name in (FIGURES if wanted is None else wanted)]
    if predictions is None:
        predictions = predictions_of(seen)
    study = Study(seen, predictions)
    home = _folders(Path(directory))
    plates = [_plate(spec, study, home / "figures") for spec in chosen]
    _forget(home / "figures", set(FIGURES) - {plate.spec.name for plate in plates if plate.drawn})
    tables = _tables(seen, predictions, home / "tables")
    heading = title or f"Signal propagation: {', '.join(seen.networks())}"
    html = render(heading, seen, plates, tables)
    page = home / "report.html"
    atomic_write(page, lambda path: path.write_text(html, "utf-8"))
    return page


def _folders(home: Path) -> Path:
    for folder in (home, home / "figures", home / "tables"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the report directory {folder}: {error.strerror}") from None
    return home


def _plate(spec: FigureSpec, study: Study, folder: Path) -> Plate:
    """Draw one figure, write its files and return what the page needs of it."""
    from sigprop.reporting.canvas import save
    from sigprop.reporting.figures import NothingToDraw
    from sigprop.reporting.page import Plate, alt_text

    try:
        drawn = spec(study)
    except NothingToDraw as absent:
        return Plate(spec, absent=str(absent))
    for kind in ("png", "svg"):
        atomic_write(folder / f"{spec.name}.{kind}", partial(save, drawn, kind))
    return Plate(
        spec,
        svg=(folder / f"{spec.name}.svg").read_bytes(),
        alt=alt_text(spec, drawn),
        notes=tuple(getattr(drawn, "notes", ())),
    )


def _forget(folder: Path, names: set[str]) -> None:
    """Delete figures of an earlier report that this one does not show."""
    for name in names:
        for kind in ("png", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)


def _tables(
    records: Records, predictions: pd.DataFrame | None, folder: Path
) -> dict[str, pd.DataFrame]:
    from sigprop.reporting.tables import TABLES

    frames = {name: spec.build(records, predictions) for name, spec in TABLES.items()}
    for name, frame in frames.items():
        atomic_write(
            folder / f"{name}.csv",
            lambda path, frame=frame: path.write_text(csv_text(frame), "utf-8"),
        )
    return frames
