"""The facts of a run: what made it, when, with which versions, and which parts it consists of."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sigprop.errors import RunError
from sigprop.records.atomic import atomic_write
from sigprop.records.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"

_PACKAGES = ("sigprop", "torch", "numpy", "pandas", "matplotlib", "seaborn", "pyarrow")
_TYPES = {
    "status": str,
    "seeds": list,
    "networks": list,
    "parts": list,
    "versions": dict,
    "designs": dict,
}
_WORDS: Mapping[type, str] = {str: "text", list: "a list", dict: "a mapping"}


class NotARun(RunError):
    """A file of a manifest's name says nothing of a run."""


def new_manifest(command: Sequence[str] | None = None, **facts: object) -> dict[str, Any]:
    """Return the manifest of a run that begins now.

    Args:
        command: the command line; that of this process when not given.
        facts: anything else worth keeping (seeds, networks, data, device).

    Returns:
        ``schema``, ``status`` (``"running"``), ``created`` (UTC), ``command``, ``machine``,
        ``versions``, ``seeds`` and the facts.

    Example:
        >>> new_manifest(["sigprop", "networks"], seeds=[0, 1])["command"]
        'sigprop networks'
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


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Write a run directory's manifest.

    Args:
        directory: of the run.
        manifest: facts, as JSON takes them.

    Raises:
        RunError: it cannot be written.
    """
    text = json.dumps(manifest, indent=2, default=str) + "\n"
    atomic_write(directory / MANIFEST, lambda path: path.write_text(text, "utf-8"))


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read a run directory's manifest, in the schema in which it was written.

    Returns:
        What the file says.

    Raises:
        NotARun: it cannot be read, or is no manifest.
        RunError: it is of a schema that is not known yet.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        fault = _fault(manifest)
    except (OSError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
    if fault:
        raise NotARun(f"{path} is not a run's manifest ({fault})")
    if manifest["schema"] > SCHEMA_VERSION:
        raise RunError(
            f"{directory} has schema {manifest['schema']}, this sigprop reads up to "
            f"{SCHEMA_VERSION}; upgrade sigprop to read it"
        )
    return {"status": "running", **manifest}


def _fault(manifest: object) -> str:
    """Return what keeps parsed JSON from being a manifest; empty for nothing."""
    if not isinstance(manifest, dict):
        return f"it holds {_called(manifest)}, not a mapping"
    schema = manifest.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        return f"its schema is {schema!r}, not a version number" if schema else "it has no schema"
    for key, kind in _TYPES.items():
        if key in manifest and not isinstance(manifest[key], kind):
            return f"{key!r} is {_called(manifest[key])}, not {_WORDS[kind]}"
    for label, design in manifest.get("designs", {}).items():
        if not isinstance(design, dict):
            return f"the design of {label!r} is {_called(design)}, not a mapping"
    for part in manifest.get("parts", []):
        if not isinstance(part, dict) or not {"name", "rows"} <= set(part):
            return f"the part {part!r} has no name and number of rows"
    return ""


def _called(value: object) -> str:
    return _WORDS.get(type(value), type(value).__name__)
