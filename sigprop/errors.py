"""The one error family: what was asked, what was found, and the nearest right answer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SigpropError(Exception):
    """Base of every error that sigprop raises on purpose; the CLI turns it into exit code 2."""


class UnknownName(SigpropError, LookupError):
    """No entry has the name that was given."""


class BadInput(SigpropError, ValueError):
    """An argument, a tensor or a model cannot be used as asked."""


class RunError(SigpropError, OSError):
    """A run directory cannot be written or read."""


class ProbeWarning(UserWarning):
    """Something was not recorded; training goes on."""


def suggestion(asked: str, known: Iterable[str], most: int = 8) -> str:
    """Return the tail of an error message that names what would have worked.

    Args:
        asked: the name the user gave.
        known: every name that exists.
        most: how many names to list when none is close.

    Returns:
        ``"did you mean 'a' or 'b'?"`` when something is close, else a list of the known names.

    Example:
        >>> suggestion("varience", ["variance", "kurtosis"])
        "did you mean 'variance'?"
        >>> suggestion("xyz", ["variance", "kurtosis"])
        'known: kurtosis, variance'
    """
    names = sorted(known)
    close = difflib.get_close_matches(asked, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    if not names:
        return "none are known"
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return "known: " + ", ".join(names[:most]) + more
