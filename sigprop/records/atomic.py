"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from sigprop.errors import RunError

_HEX = frozenset("0123456789abcdef")


def atomic_write(path: Path, write: Callable[..., object]) -> None:
    """Write a file so that ``path`` holds either the old bytes or all the new ones.

    The bytes go to a temporary file beside it, which is synced to disk and renamed.

    Args:
        path: the file.
        write: called with the temporary path, which it must fill.

    Raises:
        RunError: the folder cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "page.txt"
        >>> atomic_write(path, lambda temporary: temporary.write_text("whole"))
        >>> path.read_text()
        'whole'
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


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files that a killed `atomic_write` left in a directory."""
    for path in directory.glob(".*"):
        _, _, suffix = path.name.rpartition(".")
        if len(suffix) == len(uuid.uuid4().hex) and set(suffix) <= _HEX and path.is_file():
            path.unlink(missing_ok=True)
