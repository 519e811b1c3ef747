"""What was met of the model's modules, over all recorded steps: the coverage table's source."""

from __future__ import annotations

from collections import Counter


class ModuleLog:
    """Which modules were called, in what order, and what could not be read of them.

    Attributes:
        total_calls: how often each module or function was called in recorded steps.
        order: depth of each block, in the order of first calls.
        without_gradient: modules whose tensors need no gradient.
        not_recomputed: modules with tensors that checkpointing ran again where nothing watched.
        passed_by: ``"name: reason"`` of calls in which nothing could be read.
        functions: the module that each recorded function runs in.
        broken: the error that switched the probe off, or "".
    """

    def __init__(self) -> None:
        self.total_calls: Counter[str] = Counter()
        self.order: dict[str, int] = {}
        self.without_gradient: set[str] = set()
        self.not_recomputed: set[str] = set()
        self.passed_by: set[str] = set()
        self.functions: dict[str, str] = {}
        self.broken = ""

    def block_of(self, target: str) -> int:
        """Return the depth of a block: its index in the order of first calls."""
        return self.order.setdefault(target, len(self.order))
