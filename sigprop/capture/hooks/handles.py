"""Hooks that are attached together, and removed together."""

from __future__ import annotations

from torch.utils.hooks import RemovableHandle


class Handles:
    """What takes a set of hooks off again."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    @property
    def on(self) -> bool:
        """Whether the hooks are on."""
        return bool(self._handles)

    def remove(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
