"""The registry of finders: functions from a subject to the findings they are named after."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sigprop.diagnosis.finding import Finding
from sigprop.diagnosis.subject import Subject
from sigprop.registry import Registry

Finder = Callable[[Subject], Iterator[Finding]]

#: Id of a finding -> what looks for it. One function may look for several.
FINDERS: Registry[Finder] = Registry("finding")


def finder(*ids: str) -> Callable[[Finder], Finder]:
    """Register a function under the ids of the findings that it yields.

    Args:
        ids: stable names, such as ``"exploding-forward"``.

    Returns:
        The decorator.
    """

    def register(function: Finder) -> Finder:
        for name in ids:
            FINDERS.register(name)(function)
        return function

    return register
