"""Checks of options, so that every refusal names what was asked and what would have worked."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sigprop.errors import BadInput, suggestion


def check_known(option: str, value: object, known: Iterable[str]) -> None:
    """Refuse a word that is not among the known ones.

    Args:
        option: name of the option, for the message.
        value: the word that was given.
        known: the words that exist.

    Raises:
        BadInput: as said.

    Example:
        >>> check_known("order", "up", ["down", "up"])
    """
    known = list(known)
    if value not in known:
        asked = suggestion(str(value), known, most=len(known))
        raise BadInput(f"no {option} is called {value!r}; {asked}")


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number of at least ``least``.

    Args:
        name: of the option, for the message.
        value: what was given.
        least: the smallest that is accepted.

    Raises:
        BadInput: as said.

    Example:
        >>> check_whole("depth", 3)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInput(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_number(name: str, value: float, least: float = 0.0) -> float:
    """Return a finite number of at least ``least``.

    Args:
        name: of the option, for the message.
        value: what was given.
        least: the smallest that is accepted.

    Returns:
        The number itself.

    Raises:
        BadInput: it is smaller, NaN or infinite.

    Example:
        >>> check_number("alpha", 0.2)
        0.2
    """
    if not least <= value < math.inf:
        raise BadInput(f"{name} must be at least {least:g} and finite, got {value!r}")
    return value


def check_rate(name: str, rate: float) -> float:
    """Return a rate of dropping, refused outside [0, 1).

    Args:
        name: of the option, for the message.
        rate: what was given.

    Returns:
        The rate itself.

    Raises:
        BadInput: as said.

    Example:
        >>> check_rate("drop", 0.3)
        0.3
    """
    if not 0 <= rate < 1:
        raise BadInput(f"{name} must be at least 0 and below 1, got {rate!r}")
    return rate
