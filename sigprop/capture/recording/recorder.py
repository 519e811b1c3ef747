"""Takes tensors on their way, forward and backward, and issues one reading of each."""

from __future__ import annotations

import re
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sigprop.capture.hooks.graph_buffers import GraphBuffers
from sigprop.capture.hooks.tracing import Trace
from sigprop.capture.recording.accumulator import Accumulator
from sigprop.capture.recording.arena import Arena
from sigprop.capture.recording.forward_state import ForwardState
from sigprop.capture.recording.stopwatch import Stopwatch
from sigprop.capture.recording.tap import Tap
from sigprop.capture.recording.tensor_cache import TensorCache
from sigprop.capture.torch_internals import TRACEABLE, ordinary, transforming
from sigprop.errors import ProbeWarning
from sigprop.signals.channel_statistics import compute, compute_into, readable
from sigprop.signals.correlation import compute_products
from sigprop.signals.traced import interpret_counted_products

#: Where a failure of the probe itself is told.
REPORTS = "https://github.com/sigprop/sigprop/issues"

Metric = Callable[[Tensor], Tensor]


def nobody() -> None:
    """Stand in for a weak reference to what does not live."""


def _ignore(*_: object) -> None:
    """Do nothing."""


def _switched_off(x: Tensor) -> Tensor:
    return torch.full((), float("nan"), device=x.device)


def _place(tap: Tap) -> tuple[str, str]:
    """Return what all calls at an tap share: the name without call numbers, and the port."""
    return re.sub(r"#\d+", "", tap.name), tap.port


class GradientHook:
    """Hook on one tensor's gradient; holds taps, never the tensor or the recorder."""

    def __init__(self, recorder: Recorder, channel_dim: int) -> None:
        self._recorder = weakref.ref(recorder)
        self._step = recorder.step
        self._channel_dim = channel_dim
        self.taps: list[Tap] = []

    def __call__(self, grad: Tensor | None) -> None:
        """Read the gradient, if there is one and its step is still the current one."""
        recorder = self._recorder()
        if grad is None:  # of a torch.autograd.Function that returns none
            return
        if recorder is None or not recorder.on or recorder.step != self._step:
            return
        if transforming() is None and ordinary(grad):
            recorder.guarded(recorder.read_signal, grad, self._channel_dim, self.taps)


class Recorder:
    """Takes tensors at taps, keeps sums, and gives merged signals when a step ends.

    Args:
        metrics: a user's own functions ``Tensor -> scalar Tensor`` by column name.
        strict: raise internal errors instead of switching off with a warning.

    Attributes:
        stopwatch: times the steps, and the probe's own code in them.
        root: gives the model while it lives; its mode is that of a forward pass.
        part_called: called with a module and its pre-hook when it is called outside of any call of
            the model.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None = None, strict: bool = False) -> None:
        self.metrics = dict(metrics or {})
        self.strict = strict
        self.stopwatch = Stopwatch()
        self.root: Callable[[], nn.Module | None] = nobody
        self.part_called: Callable[..., None] = _ignore
        self.on = False
        self.broken = ""
        self.step = 0
        self.mode = "train"
        self.now = ForwardState()
        self.total_calls: Counter[str] = Counter()
        self.order: dict[str, int] = {}
        self.without_gradient: set[str] = set()
        self.passed_by: set[str] = set()
        self.functions: dict[str, str] = {}
        self.rectified: TensorCache[bool] = TensorCache()
        self.accumulator = Accumulator()
        self._arena = Arena()
        self.rectified_taps: set[Tap] = set()
        self._forward: TensorCache[list[Tap]] = TensorCache()
        self._backward: TensorCache[GradientHook] = TensorCache()
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._awaiting: dict[tuple[str, str], list[Tap]] = {}
        self.slots: GraphBuffers[Tap] = GraphBuffers()
        self.trace = Trace()
        self.traceable = TRACEABLE
        self.rectified_slots: set[Tap] = set()
        self.warned_of_functions = self.warned_of_metrics = False
        self.whole_graph = False

    # --- a forward pass -------------------------------------------------------------------

    def begin_forward(self, training: bool) -> None:
        """Start a forward pass of the whole model: calls count from 0 again."""
        self.mode = "train" if training else "eval"
        self.now.begin()
        self._forget_tensors()

    def block_of(self, target: str) -> int:
        """Return a target's depth: its place in the order of first calls."""
        return self.order.setdefault(target, len(self.order))

    def observe(self, x: Tensor, tap: Tap, rectified: bool, gradient: bool) -> None:
        """Read a tensor on its way forward, and its gradient when that comes back."""
        if rectified:
            self.rectified_taps.add(tap)
        known = self._forward.get(x, tap.channel_dim)
        if known is not None:
            known.append(tap)
        else:
            taps = [tap]
            self._forward.put(x, tap.channel_dim, taps)  # first: reading may flush
            self.read_signal(x, tap.channel_dim, taps)
        if gradient:
            self._watch_gradient(x, tap)

    def observe_pair(self, skip: Tensor, branch: Tensor, tap: Tap) -> None:
        """Read how the two operands of a residual addition correlate."""
        self.accumulator.pair(compute_products(skip, branch), tap)

    def _watch_gradient(self, x: Tensor, tap: Tap) -> None:
        if not x.requires_grad:
            if torch.is_grad_enabled():
                self.without_gradient.add(tap.target)
            else:
                self._await_recompute(tap)
            return
        self._tap(x, tap)

    def _await_recompute(self, tap: Tap) -> None:
        waiting = self._awaiting.setdefault(_place(tap), [])
        if tap not in waiting:
            waiting.append(tap)

    def recompute(self, x: Tensor, tap: Tap) -> None:
        """Watch the gradient of a tensor that reentrant checkpointing makes a second time.

        Its first time was without gradients. A module called more than once is recomputed in
        reverse order, the last call first.
        """
        waiting = self._awaiting.get(_place(tap))
        if waiting and x.requires_grad and torch.is_grad_enabled():
            waiting.insert(0, waiting.pop())
            self._tap(x, waiting[0])

    def _tap(self, x: Tensor, tap: Tap) -> None:
        hook = self._backward.get(x, tap.channel_dim)
        if hook is None:
            hook = GradientHook(self, tap.channel_dim)
            self._handles.append(x.register_hook(hook))
            self._backward.put(x, tap.channel_dim, hook)
        hook.taps.append(tap._replace(direction="backward"))

    # --- readings -------------------------------------------------------------------------

    def read_signal(self, x: Tensor, channel_dim: int, taps: list[Tap]) -> None:
        """Issue the device work of one reading; nothing waits for its result."""
        if not readable(x):
            return
        if self.accumulator.reading(self._read(x, channel_dim), taps):
            self.flush()
        if self.metrics:
            own = torch.stack([self._metric(name, x) for name in self.metrics])
            self.accumulator.own(own, float(x.numel()), taps)

    def _read(self, x: Tensor, channel_dim: int) -> Tensor:
        if not x.is_cpu:
            return compute(x, channel_dim)
        table = self._arena.table(x.shape[channel_dim] if x.ndim else 1)
        compute_into(table, x, channel_dim)
        return table

    def _metric(self, name: str, x: Tensor) -> Tensor:
        try:
            value = self.metrics[name](x.detach())
            return torch.as_tensor(value, device=x.device).detach().reshape(()).float()
        except Exception as error:
            if self.strict:
                raise
            self.metrics[name] = _switched_off
            warnings.warn(
                f"the metric {name!r} failed on a tensor of shape {tuple(x.shape)} and is now off "
                f"({type(error).__name__}: {error}); a metric takes a tensor, returns one number",
                ProbeWarning,
                stacklevel=2,
            )
            return _switched_off(x)

    def flush(self) -> None:
        """Fetch every waiting reading, and merge it."""
        self._fetch_slots()
        self._forward.clear()  # an tap that joins a reading after this would come too late
        self.accumulator.flush()

    def _fetch_slots(self) -> None:
        for kind, taps, sums in self.slots.fetch():
            if kind == "products":
                self.accumulator.pair(sums, taps[0], interpret_counted_products)
            else:
                self.accumulator.reading(sums.T if kind == "sums" else sums, taps)
        self.rectified_taps |= self.rectified_slots

    def end_step(self) -> None:
        """Forget the step that was read; the next readings belong to the next step."""
        self.slots.empty()
        self.accumulator.clear()
        self._arena.clear()
        self.rectified_taps.clear()
        self.now.begin()
        self._awaiting.clear()
        self.step += 1
        self.remove_handles()

    def remove_handles(self) -> None:
        """Take every gradient hook off, also from tensors that outlive the step."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget_tensors()

    def _forget_tensors(self) -> None:
        self._forward.clear()
        self._backward.clear()
        self.rectified.clear()

    # --- failures -------------------------------------------------------------------------

    def guarded(self, act: Callable[..., None], *arguments: object) -> None:
        """Run our own code so that no error of ours reaches the user's training.

        Raises:
            Exception: whatever ``act`` raised, in strict mode.
        """
        outermost = self.stopwatch.enter()
        try:
            act(*arguments)
        except Exception as error:
            if self.strict:
                raise
            self.on, self.broken = False, f"{type(error).__name__}: {error}"
            warnings.warn(
                f"the probe failed and is now off; training goes on ({self.broken}, "
                f"{_whereabouts(error)}). Attach with strict=True to see the whole traceback, and "
                f"please report it: {REPORTS}",
                ProbeWarning,
                stacklevel=2,
            )
        finally:
            if outermost:
                self.stopwatch.leave()


def _whereabouts(error: BaseException) -> str:
    """Return the line of our own code that the error passed through last."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "sigprop" in f.filename]
    last = ours[-1] if ours else traceback.extract_tb(error.__traceback__)[-1]
    return f"in {last.name}, {Path(last.filename).name}:{last.lineno}"
