"""What goes on in the forward pass of this moment; one per thread: DataParallel runs several."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from sigprop.capture.hooks.dataflow import Dataflow
from sigprop.capture.model.channels import Maker


class ModuleFrame(Protocol):
    """A module on the stack, as its hook knows it.

    Attributes:
        name: the module's name.
        records_own_output: its own hook sees all there is: an addition module, a rectifier.
    """

    name: str
    records_own_output: bool


class Mode(Protocol):
    """What sees the functions of a forward pass; see `sigprop.capture.hooks.functional`."""

    provenance: Dataflow
    over: bool

    def leave(self) -> None:
        """Stop being active."""

    def pause(self, name: str) -> None:
        """Step aside while the module ``name`` runs."""

    def resume(self, name: str) -> None:
        """Be active again."""

    def bridge(self, args: object, output: object, weighs: bool) -> None:
        """Connect a module's output with its input."""


class ForwardState(threading.local):
    """The state of one forward pass.

    Attributes:
        calls: how often each module, addition or function was met in this forward.
        maker: what made channels last.
        places: the modules entered and not yet left, each with its frame (-1 for none).
        mode: sees functions, while it is active.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.maker: Maker | None = None
        self.places: list[tuple[ModuleFrame, int]] = []
        self.mode: Mode | None = None
        self._frames = 0

    def begin(self) -> None:
        """Start afresh, also after a forward pass that an exception ended."""
        self.calls.clear()
        self.places.clear()
        self.maker = None

    def enter(self, place: ModuleFrame, sources: Iterable[Tensor] | None) -> None:
        """Put a module on the stack; with sources its additions are understood from there."""
        frame = -1
        if sources is not None and self.mode is not None:
            self._frames += 1
            frame = self._frames
            self.mode.provenance.open(frame, sources)
        self.places.append((place, frame))

    def leave(self, name: str) -> None:
        """Take a module off the stack, and whatever above it never returned."""
        for depth in range(len(self.places) - 1, -1, -1):
            if self.places[depth][0].name == name:
                for _, frame in self.places[depth:]:
                    if frame >= 0 and self.mode is not None:
                        self.mode.provenance.close(frame)
                del self.places[depth:]
                return
