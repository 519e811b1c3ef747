"""From an exception to one sentence and an exit code: whose it is, and where it was raised."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
import typer

import sigprop
from sigprop.errors import SigpropError
from sigprop.inputs.calling import first_line

#: 0: done, or the law holds. 1 and 3 are verdicts and nothing else.
VIOLATED, BAD_ARGUMENTS, UNDECIDED, OWN_FAULT, INTERRUPTED = 1, 2, 3, 70, 130

#: Click's own family of errors, whichever copy of click this typer brings.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

#: Frames in these folders are nobody's own code: ours, torch's, Python's.
_LIBRARIES = tuple(
    f"{Path(path).resolve()}{os.sep}"
    for path in (
        Path(sigprop.__file__).parent,
        Path(torch.__file__).parent,
        Path(typer.__file__).parent,
    )
)
_STANDARD_LIBRARY = f"{Path(sysconfig.get_path('stdlib')).resolve()}{os.sep}"
_SITE_PACKAGES = f"{os.sep}site-packages{os.sep}"


@dataclass(frozen=True)
class Failure:
    """What is printed of an exception.

    Attributes:
        sentence: what was asked, what was found, the nearest right answer.
        frames: the lines of the user's own code that led there, as Python shows them; or empty.
        code: the exit code.
    """

    sentence: str
    frames: str = ""
    code: int = BAD_ARGUMENTS


def failure_of(error: Exception) -> Failure:
    """Return what is printed of an exception.

    Errors of the library's own family are one sentence; where code of the user's raised
    underneath, its lines follow. Any other exception is the user's when its frames are, else a
    fault of this library, which is shown whole.

    Args:
        error: as it arrived in `main`.
    """
    if isinstance(error, USAGE_ERROR):
        return Failure(_usage(error))
    if isinstance(error, SigpropError):
        return Failure(str(error), _own_frames(error.__cause__))
    if _out_of_memory(error):
        return Failure(f"there is not enough memory: {first_line(error)}")
    frames = _own_frames(error)
    if frames:
        return Failure(f"your code raised {_named(error)}, in {_where(error)}", frames)
    sentence = f"a fault of sigprop itself, please report it: {_named(error)}"
    whole = "".join(traceback.format_exception(error))
    return Failure(sentence, whole, OWN_FAULT)


def _usage(error: Exception) -> str:
    """Return click's message as a sentence like ours, with the way to the help."""
    message = error.format_message()  # type: ignore[attr-defined] # every click error has it
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "sigprop"
    lines = [line.strip() for line in message.strip().splitlines()]
    sentence = " ".join(line for line in lines if line).rstrip(".")
    sentence = f"{sentence[:1].lower()}{sentence[1:]}".replace(". Did you mean", "; did you mean")
    return sentence if sentence.endswith("?") else f"{sentence}; see '{command} --help'"


def _named(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {first_line(error)}" if text else type(error).__name__


def _own(filename: str) -> bool:
    """Return whether a file is neither this library's, nor torch's, nor Python's."""
    path = str(Path(filename).resolve())
    if filename.startswith("<") or path.startswith(_LIBRARIES):
        return False
    # the standard library's folder holds that of installed packages, a user's own among them
    return _SITE_PACKAGES in path or not path.startswith(_STANDARD_LIBRARY)


def _frames(error: BaseException | None) -> list[traceback.FrameSummary]:
    """Return an exception's frames from the first in the user's own code on."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    first = next((i for i, frame in enumerate(frames) if _own(frame.filename)), len(frames))
    return frames[first:]


def _own_frames(error: BaseException | None) -> str:
    return "".join(traceback.format_list(_frames(error))).rstrip()


def _where(error: BaseException) -> str:
    last = [frame for frame in _frames(error) if _own(frame.filename)][-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def _out_of_memory(error: Exception) -> bool:
    allocator = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return allocator or isinstance(error, MemoryError | torch.OutOfMemoryError)


def python_version() -> str:
    """Return ``"3.11.7"``."""
    return ".".join(map(str, sys.version_info[:3]))
