"""Standard output and standard error, and what happens when they cannot be written."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sigprop.errors import SigpropError

out, err = Console(), Console(stderr=True)

_REASONS = {
    errno.EPIPE: "the program that reads it has ended",
    errno.ENOSPC: "no space is left on the device",
}


class OutputError(SigpropError):
    """Standard output cannot be written."""


class CheckedOutput:
    """A text stream that raises `OutputError` where the stream itself raises OSError.

    Args:
        stream: what is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text.

        Args:
            text: what is written.

        Returns:
            How many characters it has.

        Raises:
            OutputError: the stream cannot be written.
        """
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(_sentence(error)) from None

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OutputError: the stream cannot be written.
        """
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(_sentence(error)) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def checked_output() -> Iterator[None]:
    """Have everything that is printed within raise `OutputError` when it cannot be written."""
    stream = sys.stdout
    if stream is None:  # closed by the shell: nothing is printed at all
        yield
        return
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal without Greek shows question marks
    sys.stdout = CheckedOutput(stream)  # rich flushes after every print: nothing waits here
    try:
        yield
    finally:
        sys.stdout = stream


def give_up_output() -> None:
    """Send what waits for standard output nowhere: Python would try once more when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
    return f"standard output cannot be written: {reason}"


def note(sentence: str) -> None:
    """Print a sentence that changes nothing, to standard error."""
    err.print(f"[yellow]note:[/yellow] {escape(sentence)}", soft_wrap=True)


def progress(*more: TextColumn) -> Progress:
    """Return a progress bar on standard error: description, bar, count, remaining time.

    There is none where standard error is no terminal.

    Args:
        more: further columns.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    description = TextColumn("{task.description}")
    return Progress(description, *columns, *more, console=err, disable=not err.is_terminal)
