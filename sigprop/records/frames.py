"""What was seen: tidy frames, and the run directory that keeps them. The only run-file I/O."""

from __future__ import annotations

import json
import os
import platform
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.errors import RunError

if TYPE_CHECKING:  # 0.3 s to import: paid when rows become a frame, not when a probe is attached
    import pandas as pd

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"

_WHERE = {"run": "str", "network": "str", "seed": "int64", "step": "int64"}

#: Table -> column -> pandas dtype; definitions of each number are in the README's glossary.
SCHEMA: Mapping[str, Mapping[str, str]] = {
    "signals": {
        **_WHERE,
        "mode": "str",
        "block": "int64",
        "kind": "str",
        "module": "str",
        "name": "str",
        "call": "int64",
        "port": "str",
        "direction": "str",
        "channel_dim": "int64",
        "count": "int64",
        "channels": "int64",
        "mean": "float64",
        "second_moment": "float64",
        "channel_variance": "float64",
        "mean_shift": "float64",
        "kurtosis": "float64",
        "zero_fraction": "float64",
        "dead_fraction": "float64",
        "nonfinite": "int64",
        "max_abs": "float64",
        "skip_branch_correlation": "float64",
    },
    "parameters": {
        **_WHERE,
        "name": "str",
        "block": "int64",
        "shape": "str",
        "ndim": "int64",
        "count": "int64",
        "weight_norm": "float64",
        "grad_norm": "float64",
        "grad_to_weight": "float64",
        "update_to_weight": "float64",
        "unit_grad_to_weight_max": "float64",
        "angular_update": "float64",
        "effective_lr": "float64",
        "skipped": "bool",
    },
    "spectra": {
        **_WHERE,
        "name": "str",
        "operator": "str",
        "index": "int64",
        "singular_value": "float64",
        "log_singular_value": "float64",
    },
    "coverage": {
        "run": "str",
        "network": "str",
        "seed": "int64",
        "name": "str",
        "type": "str",
        "recorded": "bool",
        "status": "str",
        "calls": "int64",
        "gradient": "str",
        "reason": "str",
    },
    "training": {
        **_WHERE,
        "mode": "str",
        "loss": "float64",
        "accuracy": "float64",
        "learning_rate": "float64",
    },
}

_BLANK: Mapping[str, str | int | bool | float] = {
    "str": "",
    "int64": 0,
    "bool": False,
    "float64": float("nan"),
}
_PACKAGES = ("sigprop", "torch", "numpy", "pandas", "matplotlib", "seaborn", "pyarrow")


def tidy(table: str, rows: pd.DataFrame | Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Return ``rows`` as a frame with the columns, order and dtypes of ``table``.

    Columns beyond the schema (a user's own metrics) are kept, after the known ones.
    A known float column that is absent is filled with NaN.

    Example:
        >>> tidy("training", [{"step": 3, "loss": 0.5, "network": "plain"}]).loc[0, "loss"]
        np.float64(0.5)
    """
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    schema = SCHEMA[table]
    frame = frame.copy(deep=False)
    for name, kind in schema.items():
        if name not in frame.columns:
            frame[name] = _BLANK[kind]
    extra = [name for name in frame.columns if name not in schema]
    return frame[[*schema, *extra]].astype(dict(schema))


def _empty() -> dict[str, pd.DataFrame]:
    return {table: tidy(table, []) for table in SCHEMA}


@dataclass
class Records:
    """The frames of one or several runs.

    Attributes:
        signals: one row per step, tap and pass (activation and gradient statistics).
        parameters: one row per step and parameter.
        spectra: one row per singular value.
        coverage: one row per module: was it recorded, and if not, why.
        training: one row per step of a training loop (loss, accuracy, learning rate).
        manifest: how the run was made: command, versions, seeds, status.
        missing: what a load could not find, one sentence each; empty for a whole run.
    """

    signals: pd.DataFrame = field(default_factory=lambda: tidy("signals", []))
    parameters: pd.DataFrame = field(default_factory=lambda: tidy("parameters", []))
    spectra: pd.DataFrame = field(default_factory=lambda: tidy("spectra", []))
    coverage: pd.DataFrame = field(default_factory=lambda: tidy("coverage", []))
    training: pd.DataFrame = field(default_factory=lambda: tidy("training", []))
    manifest: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the frames by table name."""
        return {table: getattr(self, table) for table in SCHEMA}

    def networks(self) -> list[str]:
        """Return the names of the networks seen, in the order they were recorded."""
        seen: dict[str, None] = {}
        for frame in self.tables().values():
            seen.update(dict.fromkeys(frame["network"].unique()))
        return list(seen)

    def save(self, directory: str | Path) -> Path:
        """Write a complete run directory and return its path.

        Raises:
            RunError: the directory cannot be written, or holds another run.
        """
        writer = RunWriter(directory, self.manifest)
        for table, frame in self.tables().items():
            writer.append(table, frame)
        writer.complete()
        return writer.directory

    def __repr__(self) -> str:
        sizes = ", ".join(f"{table}: {len(frame)}" for table, frame in self.tables().items())
        return f"Records({', '.join(self.networks()) or 'empty'}; rows {sizes})"


def concat(records: Sequence[Records]) -> Records:
    """Return the rows of several records as one, for comparing runs made apart."""
    frames = {table: tidy(table, _stack([r.tables()[table] for r in records])) for table in SCHEMA}
    manifest = dict(records[0].manifest) if records else {}
    manifest["seeds"] = sorted({s for r in records for s in r.manifest.get("seeds", [])})
    manifest["networks"] = list({n: None for r in records for n in r.manifest.get("networks", [])})
    manifest["designs"] = {
        label: found for r in records for label, found in r.manifest.get("designs", {}).items()
    }
    return Records(**frames, manifest=manifest, missing=[m for r in records for m in r.missing])


def _stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def provenance(command: Sequence[str] | None = None, **facts: object) -> dict[str, Any]:
    """Return a manifest: what made this run, when, with which versions.

    Args:
        command: the command line; that of this process when not given.
        facts: anything else worth keeping (seeds, networks, data, device).
    """
    command = command or [
        "python" if sys.argv[0] in ("", "-c") else Path(sys.argv[0]).name,
        *sys.argv[1:],
    ]
    return {
        "schema": SCHEMA_VERSION,
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": dict(_versions()),
        "seeds": [],
        **facts,
    }


@cache  # reading seven packages' metadata takes milliseconds, and many a run asks for it often
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return versions


class RunWriter:
    """Appends rows to a run directory so that a kill at any moment loses only unflushed rows.

    Every file is written beside its place, synced to disk and renamed. Rows wait in memory until
    `flush`; each flush makes one numbered Parquet part per table.

    Args:
        directory: where to write; made if absent.
        manifest: facts from `provenance`; taken from there when not given.
        resume: continue the run that is already there.

    Raises:
        RunError: the directory cannot be written, or holds a run and ``resume`` is false.
    """

    def __init__(
        self,
        directory: str | Path,
        manifest: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.directory = Path(directory)
        self._waiting: dict[str, list[pd.DataFrame]] = {table: [] for table in SCHEMA}
        there = self.directory / MANIFEST
        if there.exists() and not resume:
            raise RunError(
                f"{self.directory} holds a run already; choose another directory or delete it"
            )
        self.manifest = {**provenance(), **(manifest or {}), "status": "running"}
        if there.exists():
            self.manifest = _read_manifest(self.directory)
        self.parts = 1 + max(
            (_part_number(p) for p in self.directory.glob("*.parquet")), default=-1
        )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot make the run directory {self.directory}: {error.strerror}"
            ) from None
        if not there.exists():
            self._write_manifest()

    def append(self, table: str, rows: pd.DataFrame) -> None:
        """Keep rows for the next flush."""
        if len(rows):
            self._waiting[table].append(rows)

    def extend(self, records: Records) -> None:
        """Keep every row of ``records`` for the next flush."""
        for table, frame in records.tables().items():
            self.append(table, frame)

    def flush(self) -> None:
        """Write the waiting rows as one part per table."""
        if not any(self._waiting.values()):
            return
        for table, frames in self._waiting.items():
            if frames:
                part = tidy(table, _stack(frames))
                atomic_write(
                    self.directory / f"{table}-{self.parts:05d}.parquet",
                    lambda path, part=part: part.to_parquet(path, index=False),
                )
                frames.clear()
        self.parts += 1

    def rewind(self, parts: int) -> None:
        """Delete the parts numbered ``parts`` and above: rows after the checkpoint resumed from."""
        for path in self.directory.glob("*.parquet"):
            if _part_number(path) >= parts:
                path.unlink()
        self.parts = parts

    def complete(self) -> None:
        """Flush, and mark the run complete."""
        self.flush()
        self.manifest["status"] = "complete"
        self._write_manifest()

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest, indent=2, default=str) + "\n"
        atomic_write(self.directory / MANIFEST, lambda path: path.write_text(text, "utf-8"))


def atomic_write(path: Path, write: Any) -> None:
    """Write a file so that ``path`` holds either the old bytes or all the new ones.

    Args:
        path: the file.
        write: called with a temporary path beside it, which it must fill.

    Raises:
        RunError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.touch(exist_ok=False)  # as open would: with the permissions of the user's umask
    except OSError as error:
        raise RunError(f"cannot write to {path.parent}: {error.strerror}") from None
    try:
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def load(*directories: str | Path) -> Records:
    """Read one or several run directories (each may hold runs in subfolders) as one.

    A run that was killed loads; what is absent is listed in ``Records.missing``.

    Raises:
        RunError: nothing there is a run, or a run was written by a newer sigprop.
    """
    found = [run for directory in directories for run in _runs_below(Path(directory))]
    return concat([_load_one(run) for run in found])


def _runs_below(directory: Path) -> list[Path]:
    if not directory.exists():
        raise RunError(f"there is no directory {directory}")
    runs = [path.parent for path in sorted(directory.rglob(MANIFEST))]
    if not runs:
        raise RunError(f"{directory} holds no run: there is no {MANIFEST} in it or below it")
    return runs


def _load_one(directory: Path) -> Records:
    import pandas as pd

    manifest = _read_manifest(directory)
    frames = _empty()
    missing = []
    for table in SCHEMA:
        parts = []
        for path in sorted(directory.glob(f"{table}-*.parquet")):
            try:
                parts.append(pd.read_parquet(path))
            except (OSError, ValueError) as error:
                missing.append(f"{path} cannot be read ({type(error).__name__}); its rows are lost")
        frames[table] = tidy(table, _stack(parts))
    if manifest["status"] != "complete":
        steps = frames["training"]["step"]
        last = f"after step {steps.max()}" if len(steps) else "before any step was written"
        missing.append(f"{directory} was not completed: it ends {last}")
    return Records(**frames, manifest=manifest, missing=missing)


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        schema = int(manifest["schema"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is not a run's manifest ({type(error).__name__}: {error})"
        ) from None
    if schema > SCHEMA_VERSION:
        raise RunError(
            f"{directory} has schema {schema}, this sigprop reads up to {SCHEMA_VERSION}; "
            "upgrade sigprop to read it"
        )
    return {"status": "running", **manifest}


def _part_number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
