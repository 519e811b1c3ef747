"""Argument checks of the theory package: what was asked, and what would be accepted."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

from sigprop.errors import BadInput, UnknownName, suggestion


class NotFinite(BadInput):
    """A number is none that float64 holds: it was given so, or a recursion has led there."""


def whole(name: str, value: int, least: int = 0) -> int:
    """Return ``value`` as an int that is at least ``least``.

    Args:
        name: of the argument, for the message.
        value: what was given.
        least: the smallest that is accepted.

    Returns:
        The number as an int.

    Raises:
        BadInput: it is not a whole number, or too small.

    Example:
        >>> whole("depth", 3)
        3
    """
    try:
        found = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = -1
    if found < least:
        raise BadInput(f"{name} must be a whole number of at least {least}; got {value!r}")
    return found


def number(name: str, value: float) -> float:
    """Return ``value`` as a finite float.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Returns:
        The number as a float.

    Raises:
        NotFinite: it is not a finite number.

    Example:
        >>> number("gain", 2)
        2.0
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise NotFinite(f"{name} must be a finite number; got {value!r}")
    return found


def positive(name: str, value: float) -> float:
    """Return ``value`` as a finite float above zero.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Returns:
        The number as a float.

    Raises:
        BadInput: it is not.

    Example:
        >>> positive("c", 20)
        20.0
    """
    found = number(name, value)
    if found <= 0:
        raise BadInput(f"{name} must be above 0; got {value!r}")
    return found


def non_negative(name: str, value: float) -> float:
    """Return ``value`` as a finite float that is not below zero.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Returns:
        The number as a float.

    Raises:
        BadInput: it is not.

    Example:
        >>> non_negative("variance", 0)
        0.0
    """
    found = number(name, value)
    if found < 0:
        raise BadInput(f"{name} must not be below 0; got {value!r}")
    return found


def within(name: str, value: float, low: float, high: float) -> float:
    """Return ``value`` as a float in ``[low, high]``; rounding of 1e-12 is clipped.

    Args:
        name: of the argument, for the message.
        value: what was given.
        low: the smallest that is accepted.
        high: the largest.

    Returns:
        The number as a float, inside the interval.

    Raises:
        BadInput: it lies outside.

    Example:
        >>> within("correlation", 1.0000000000000002, -1.0, 1.0)
        1.0
    """
    found = number(name, value)
    if not low - 1e-12 <= found <= high + 1e-12:
        raise BadInput(f"{name} must lie in [{low:g}, {high:g}]; got {value!r}")
    return float(min(max(found, low), high))


def sample_count(value: float) -> float:
    """Return a number of samples: at least 1, infinity allowed.

    Raises:
        BadInput: it is below 1 or not a number.

    Example:
        >>> sample_count(math.inf)
        inf
    """
    if not value >= 1:
        raise BadInput(f"samples must be at least 1 (or infinite); got {value!r}")
    return float(value)


def one_of(kind: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` when it is one of ``known``.

    Args:
        kind: of name, for the message.
        value: the name that was given.
        known: the names that exist.

    Returns:
        The name itself.

    Raises:
        UnknownName: it is not.

    Example:
        >>> one_of("centering", "batch", ["none", "batch"])
        'batch'
    """
    names = list(known)
    if value not in names:
        raise UnknownName(f"no {kind} is called {value!r}; {suggestion(str(value), names)}")
    return value
