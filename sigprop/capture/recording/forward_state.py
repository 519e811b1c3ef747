"""The state of the forward pass in progress; one per thread: DataParallel runs several."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor

from sigprop.capture.hooks.dataflow import Dataflow, Operands
from sigprop.capture.model.channels import Maker
from sigprop.capture.recording.tensor_statistics import TensorStatistics
from sigprop.capture.torch_internals import version_of


class ModuleFrame(Protocol):
    """A module on the stack, as its hook describes it.

    Attributes:
        name: the module's name.
        target: the innermost chosen block that holds it, or None.
        records_own_output: its own hook sees all there is: an addition module, a rectifier.
    """

    name: str
    target: str | None
    records_own_output: bool

    def addition(self, recorder: Any, skip: Tensor, branch: Tensor, found: Operands) -> None:
        """Take the operands of an addition in the module's own code.

        Args:
            recorder: where statistics go.
            skip: the operand that is, or is nearer to, the module's input.
            branch: the other operand.
            found: both operands as they were added.
        """

    def ends(self, now: ForwardState, frame: int, output: object) -> None:
        """Note how the module's output follows from its inputs, at its first call.

        Args:
            now: the forward pass in progress.
            frame: the number of the module's frame.
            output: what it returned.
        """

    def function(self, recorder: Any, kind: str, output: Tensor) -> None:
        """Take what a functional rectifier or attention in the module made.

        Args:
            recorder: where statistics go.
            kind: ``"rectifier"`` or ``"attention"``.
            output: what the function returned.
        """


class Mode(Protocol):
    """What sees the functions of a forward pass; see `sigprop.capture.hooks.functional`.

    Attributes:
        dataflow: how far each tensor lies from the inputs of the modules on the stack.
        paused_by: the module for which it does not see any, or "".
        over: whether the forward pass has ended, by an exception that no hook was called for.
    """

    dataflow: Dataflow
    paused_by: str
    over: bool

    def leave(self) -> None:
        """Stop being active."""

    def pause(self, name: str) -> None:
        """Step aside while the module ``name`` runs."""

    def resume(self, name: str) -> None:
        """Be active again if it was for the module ``name`` that it was not."""

    def bridge(self, args: object, output: object, weighs: bool) -> None:
        """Connect a module's output with its input.

        Args:
            args: what the module was called with.
            output: what it returned.
            weighs: whether the module has weights, which make the distance longer.
        """


class ForwardState(threading.local):
    """The state of one forward pass.

    Attributes:
        calls: how often each module, addition or function was met in this forward.
        maker: what made channels last.
        stack: the modules entered and not yet left, each with its frame (-1 for none).
        mode: sees functions, while it is active.
        seen: the statistics of the tensors met, see `statistics_of`.
        rectified: those that a rectifier made, by `id` of the tensor.
    """

    def __init__(self) -> None:
        self.calls: defaultdict[str, int] = defaultdict(int)
        self.maker: Maker | None = None
        self.stack: list[tuple[ModuleFrame, int]] = []
        self.mode: Mode | None = None
        self.seen: dict[int, TensorStatistics] = {}
        self.rectified: dict[int, TensorStatistics] = {}
        self._frames = 0

    def begin(self) -> None:
        """Start afresh, also after a forward pass that an exception ended."""
        self.calls.clear()
        self.stack.clear()
        self.maker = None
        self.forget_tensors()

    def forget_tensors(self) -> None:
        """Forget which tensors have been met."""
        self.seen.clear()
        self.rectified.clear()

    def is_rectified(self, x: Tensor) -> bool:
        """Return whether a rectifier module or function made this tensor."""
        known = self.rectified.get(id(x))
        if known is None or known.tensor is None or known.tensor() is not x:
            return False
        return not x.is_inference() and known.version == version_of(x)

    def enter(self, module: ModuleFrame, sources: Iterable[Iterable[Tensor]] | None) -> None:
        """Put a module on the stack; with sources its additions are resolved from there.

        Args:
            module: what was entered.
            sources: the tensors of each of its inputs; None where its additions do not matter.
        """
        frame = -1
        if sources is not None and self.mode is not None:
            self._frames += 1
            frame = self._frames
            self.mode.dataflow.open(frame, sources)
        self.stack.append((module, frame))

    def leave(self, name: str, output: object) -> None:
        """Take a module off the stack, and whatever above it never returned.

        Args:
            name: the module's name.
            output: what it returned.
        """
        stack = self.stack
        for depth in range(len(stack) - 1, -1, -1):
            if stack[depth][0].name == name:
                module, frame = stack[depth]
                if frame >= 0 and self.mode is not None:
                    module.ends(self, frame, output)
                if self.mode is not None:
                    for _, frame in stack[depth:]:
                        if frame >= 0:
                            self.mode.dataflow.close(frame)
                del stack[depth:]
                return


def key_of(x: Tensor, channel_dim: int) -> int:
    """Return a number for a tensor and one of its axes; tensors of different times may share it.

    Args:
        x: a tensor.
        channel_dim: the axis.
    """
    return id(x) << 6 | channel_dim & 63
