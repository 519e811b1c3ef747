"""What the hooks of one probe share: whether a step is recorded, and where its statistics go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from sigprop.capture.hooks.graph_recorder import GraphRecorder
from sigprop.capture.recording.accumulator import Accumulator
from sigprop.capture.recording.failures import warn_of_failure
from sigprop.capture.recording.forward_state import ForwardState
from sigprop.capture.recording.gradients import Gradients
from sigprop.capture.recording.module_log import ModuleLog
from sigprop.capture.recording.own_metrics import Metric, OwnMetrics
from sigprop.capture.recording.step_statistics import StepStatistics
from sigprop.capture.recording.stopwatch import Stopwatch
from sigprop.capture.recording.tensor_statistics import Array


def _ignore(*_: object) -> None:
    """Do nothing."""


class Recorder:
    """Joins what records one model.

    Args:
        metrics: a user's own functions ``Tensor -> scalar Tensor`` by column name.
        strict: raise internal errors instead of switching off with a warning.

    Attributes:
        on: whether the step in progress is recorded.
        step: counts the steps.
        mode: ``"train"`` or ``"eval"``, that of the last forward pass.
        now: the forward pass in progress.
        accumulator: the statistics of the step.
        gradients: the hooks on tensors' gradients.
        metrics: the user's own functions, if there are any.
        log: which modules were met.
        graph: what code that is compiled records.
        stopwatch: times the steps, and the probe's own code in them.
        part_called: called with a module and its pre-hook when it is called outside of any call of
            the model.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None = None, strict: bool = False) -> None:
        self.on, self.step, self.mode = False, 0, "train"
        self._strict = strict
        self.now = ForwardState()
        self.accumulator = Accumulator()
        self.gradients = Gradients(self)
        self.metrics = OwnMetrics(metrics, strict) if metrics else None
        self.log = ModuleLog()
        self.graph = GraphRecorder()
        self.stopwatch = Stopwatch()
        self.part_called: Callable[..., None] = _ignore

    def begin_forward(self, training: bool) -> None:
        """Start a forward pass of the whole model: calls count from 0 again."""
        if self.accumulator.full:
            self.accumulator.flush()
        self.mode = "train" if training else "eval"
        self.now.begin()

    def statistics(self, others: Sequence[Tensor] = ()) -> tuple[StepStatistics, list[Array]]:
        """Return the statistics of the step up to now, and other device numbers fetched with them.

        Args:
            others: numbers to bring to the host in the same transfer.
        """
        self.graph.collect(self.accumulator)
        return self.accumulator.statistics(others)

    def forget_step(self) -> None:
        """Forget what was seen in the step in progress."""
        self.graph.buffers.empty()
        self.log.not_recomputed.update(self.gradients.recomputation.missed())
        self.gradients.end_step()
        self.accumulator.clear()
        self.now.begin()

    # --- failures -------------------------------------------------------------------------

    def guarded(self, act: Callable[..., None], *arguments: object) -> None:
        """Run our own code so that no error of ours reaches the user's training.

        Args:
            act: what to run.
            arguments: what to give it.

        Raises:
            Exception: whatever ``act`` raised, in strict mode.
        """
        outermost = self.stopwatch.enter()
        try:
            act(*arguments)
        except Exception as error:
            self.failed(error)
        finally:
            if outermost:
                self.stopwatch.leave()

    def failed(self, error: Exception) -> None:
        """Switch off after an error of our own, with one warning.

        Raises:
            Exception: the error, in strict mode.
        """
        if self._strict:
            raise error
        self.on, self.log.broken = False, warn_of_failure(error)
