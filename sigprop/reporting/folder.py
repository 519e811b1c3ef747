"""A report's folder: which of its files a report made. No other is overwritten or deleted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sigprop.errors import RunError
from sigprop.records import atomic_write

#: The file that lists what reports wrote into a folder.
MARKER = "report.files.json"


class ReportFolder:
    """The folder that a report is written to.

    Args:
        directory: the folder; it need not exist yet.

    Attributes:
        directory: the folder.
        made: names of files in it, relative to it, that an earlier report wrote.

    Raises:
        RunError: the folder holds a file called like the marker that is none.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made = _read(directory / MARKER)

    def claim(self, names: Iterable[str]) -> None:
        """Make the folders for ``names`` and note that the report is about to write them.

        Args:
            names: of files, relative to the folder.

        Raises:
            RunError: one of the files is there and no report wrote it, or the folder cannot be
                made.
        """
        wanted = sorted(names)
        foreign = [name for name in wanted if name not in self.made and self._path(name).exists()]
        if foreign:
            more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
            raise RunError(
                f"{self._path(foreign[0])}{more} is there and was not written by a report; "
                "move it away or choose another directory"
            )
        for folder in sorted({self.directory, *(self._path(name).parent for name in wanted)}):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(
                    f"cannot make the report directory {folder}: {error.strerror}"
                ) from None
        self.made |= set(wanted)
        self._write()

    def remove(self, names: Iterable[str]) -> None:
        """Delete those of ``names`` that an earlier report wrote.

        Args:
            names: of files, relative to the folder.
        """
        old = self.made & set(names)
        for name in old:
            self._path(name).unlink(missing_ok=True)
        if old:
            self.made -= old
            self._write()

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _write(self) -> None:
        text = json.dumps({"made_by": "sigprop.report", "files": sorted(self.made)}, indent=1)
        atomic_write(self.directory / MARKER, lambda path: path.write_text(f"{text}\n", "utf-8"))


def _read(marker: Path) -> set[str]:
    if not marker.exists():
        return set()
    try:
        facts = json.loads(marker.read_text("utf-8"))
        if facts["made_by"] != "sigprop.report":
            raise ValueError
        return {str(name) for name in facts["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{marker} is not the list of files that a report writes; "
            "move it away or choose another directory"
        ) from None
