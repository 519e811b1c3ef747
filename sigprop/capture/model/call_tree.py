"""What one forward pass showed of a model: which module calls which, and whose code adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass
class CalledModule:
    """One module that was called.

    Attributes:
        name: its name.
        above: the module whose code called it first; None for the outermost.
        calls: how often it was called.
        loops: whether it was called on what it had returned before.
        additions: residual additions in its own code, in one call.
    """

    name: str
    above: str | None
    calls: int = 0
    loops: bool = False
    additions: int = 0


class CallTree:
    """The modules that were called, in the order of their first calls.

    Args:
        modules: by name.
    """

    def __init__(self, modules: Mapping[str, CalledModule]) -> None:
        self.modules = modules

    def __contains__(self, name: str) -> bool:
        return name in self.modules

    def above(self, name: str) -> Iterator[str]:
        """Yield the modules in whose calls a module was called, the nearest first."""
        seen = {name}
        parent = self.modules[name].above
        while parent is not None and parent not in seen:
            yield parent
            seen.add(parent)
            parent = self.modules[parent].above

    def inside(self, name: str, others: set[str]) -> bool:
        """Return whether a module was called within a call of one of the others.

        Args:
            name: of the module.
            others: names of modules.
        """
        return any(parent in others for parent in self.above(name))
