"""The one object that joins capture, signals and records: a probe on a model."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sigprop.capture import (
    Blocks,
    ChannelDim,
    Hooks,
    ParameterStatistics,
    Recorder,
    Scope,
    install,
    select,
)
from sigprop.capture.model.naming import bare
from sigprop.capture.parameters.gradient_hooks import GradientHooks
from sigprop.capture.parameters.info import ParameterInfo, gradient_scale, spectra
from sigprop.capture.recording.rows import Collector
from sigprop.capture.torch_internals import (
    HOOK_GUARDS,
    TRACEABLE,
    after_backward,
    compiled,
    warn_of_missing,
)
from sigprop.errors import BadInput, ProbeWarning
from sigprop.probing.options import Every, Metrics, check_options, split_metrics
from sigprop.probing.overhead import Budget
from sigprop.records import SCHEMA, Records, provenance, tidy
from sigprop.records.column_buffer import ColumnBuffer

Rows = dict[str, ColumnBuffer]

_PROBES: weakref.WeakKeyDictionary[nn.Module, Probe] = weakref.WeakKeyDictionary()


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    blocks: Blocks = "auto",
    every: Every = 1,
    network: str = "model",
    *,
    seed: int = 0,
    run: str = "run",
    step: int = 0,
    metrics: Metrics = (),
    window: int | None = None,
    channel_dim: ChannelDim = None,
    strict: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    overhead: float | None = None,
) -> Probe:
    """Attach a probe to a model; the model computes exactly what it computed before.

    Attaching again with the same options returns the same probe. The probe lives as long as the
    model, until `Probe.detach` or the end of a ``with`` block.

    Args:
        model: any module.
        optimizer: a step then ends at its ``step()``, where weights and gradients are read too.
            Without one a step ends at the next forward in training mode, or at `Probe.step`; of a
            compiled model, whose forward tells nobody that it begins, with its backward pass.
        blocks: what to record: ``"auto"``, ``"leaves"``, globs over module names, or a callable
            ``(name, module) -> bool``. Rectifiers inside a chosen block are recorded with it.
        every: record every n-th step, or the steps for which a callable returns true.
        network: the name this model goes by in the records.
        seed: the seed it was initialized from, for the records.
        run: the name of the run, for the records.
        step: the number of the first step, where training resumes.
        metrics: your own columns, name -> function from a tensor to one number; or the names of
            the numbers to compute, when not all.
        window: how many recorded steps back a unit must have been off to count as dead;
            None for all since attaching.
        channel_dim: the channel axis everywhere or by module name, where the inferred one is wrong.
        strict: raise the probe's own errors instead of switching it off with a warning.
        scaler: of a loss that is scaled for half precision; recorded gradients are divided by its
            scale. Your own metrics see the gradient as it is.
        overhead: instead of ``every``: record as often as keeps the cost below this share of the
            bare training time, 0.03 for 3 %. `Probe.every` says what was chosen.

    Raises:
        UnknownName: a glob matches no module, or a metric has no such name.
        BadInput: an option does not fit, or the model carries a probe with other options.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with attach(model, blocks="leaves") as probe:
        ...     model(torch.ones(8, 4)).sum().backward()
        >>> probe.records.signals.query("port == 'out'")["direction"].value_counts().to_dict()
        {'forward': 3, 'backward': 3}
    """
    options: dict[str, Any] = {
        "optimizer": optimizer,
        "blocks": blocks,
        "every": every,
        "network": network,
        "seed": seed,
        "run": run,
        "step": step,
        "metrics": metrics,
        "window": window,
        "channel_dim": channel_dim,
        "strict": strict,
        "scaler": scaler,
        "overhead": overhead,
    }
    known = _PROBES.get(model) if isinstance(model, nn.Module) else None
    if known is not None:
        known.require_same(options)
        return known
    probe = Probe(model, **options)
    _PROBES[model] = probe
    return probe


class Probe:
    """A probe on a model; made by `attach`.

    Attributes:
        step_index: the step being recorded, counted from 0 in optimizer steps.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        check_options(model, options)
        if bare(model) in _PROBES and bare(model) is not model:
            raise BadInput("the model inside this wrapper carries a probe; detach it first")
        warn_of_missing()
        if not TRACEABLE:
            _warn_of_compiled(model)
        HOOK_GUARDS.forget_graphs()
        HOOK_GUARDS.on()
        self._model = weakref.ref(model)
        self._options = options
        self._optimizer: torch.optim.Optimizer | None = options["optimizer"]
        targets = select(model, options["blocks"])
        own, quantities = split_metrics(options["metrics"])
        self._recorder = Recorder(own, options["strict"])
        self._readings = ParameterStatistics()
        self._collector = Collector(
            self._recorder, self._readings, list(targets), quantities, options["window"]
        )
        self._roster = ParameterInfo(model)
        self._rows: Rows = {table: ColumnBuffer(table) for table in SCHEMA}
        self._forwarded = self._ends_with_backward = False
        self._warned_of_silence = False
        self._last_coverage: list[dict[str, Any]] = []
        self.step_index: int = options["step"]
        self._budget: Budget | None = None
        if options["overhead"] is not None:
            self._budget = Budget(options["overhead"], self._recorder.stopwatch)
        self._arrivals: GradientHooks | None = None
        self._handles = self._install(model, targets)
        self._schedule()

    # --- what was seen --------------------------------------------------------------------

    @property
    def records(self) -> Records:
        """Everything recorded so far, the step in progress included."""
        rows = {table: kept.copy() for table, kept in self._rows.items()}
        self._recorder.guarded(self._collect, rows, True)
        records = _records(rows)
        records.coverage = tidy("coverage", self._coverage())
        networks, seeds = [self._options["network"]], [self._options["seed"]]
        records.manifest = provenance(networks=networks, seeds=seeds, steps=self.step_index)
        return records

    def drain(self) -> Records:
        """Return the rows of the steps that ended since the last drain, and let go of them.

        For long runs that write as they go; the coverage table comes with `records` only.
        """
        rows, self._rows = self._rows, {table: ColumnBuffer(table) for table in SCHEMA}
        return _records(rows)

    def log(
        self,
        *,
        loss: float = math.nan,
        accuracy: float = math.nan,
        learning_rate: float = math.nan,
        mode: str = "train",
        step: int | None = None,
    ) -> None:
        """Keep a training loop's own numbers beside the signals, for the report's curves."""
        self._rows["training"].append(
            {
                **self._where(),
                "step": self.step_index if step is None else step,
                "mode": mode,
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": learning_rate,
            },
            1,
        )

    def record_spectra(self) -> None:
        """Record the singular values of every weight with two axes or more, as they are now."""
        for columns, count in spectra(self._living_model()):
            self._rows["spectra"].append({**self._where(), **columns}, count)

    # --- what it costs --------------------------------------------------------------------

    @property
    def overhead(self) -> float:
        """Time that probing has added, over the time of the same steps without it: 0.03 is 3 %.

        With five steps or more of each kind, recorded steps are compared with the others. Until
        then it is the time spent in the probe's own code, without an accelerator's share of it.
        NaN before the first step ended.
        """
        return self._recorder.stopwatch.share

    @property
    def every(self) -> int | Callable[[int], bool]:
        """The cadence: what was asked for, or the distance in steps that the budget chose last."""
        every: Every = self._budget.every if self._budget else self._options["every"]
        return every

    # --- a step ---------------------------------------------------------------------------

    def step(self) -> None:
        """End the step: fetch its readings and make them rows. Optimizers do this by themselves."""
        if self._recorder.on:
            self._recorder.guarded(self._collect, self._rows)
        self._readings.clear()
        self._recorder.end_step()
        self._recorder.stopwatch.end(self._recorder.on)
        self.step_index += 1
        self._forwarded = False
        self._schedule()

    def _schedule(self) -> None:
        every = self._budget or self._options["every"]
        due = every(self.step_index) if callable(every) else self.step_index % every == 0
        self._recorder.on = bool(due) and not self._recorder.broken
        for hooks in self._hooks:
            if self._recorder.on:
                hooks.attach()
            elif hooks.on and not self._compiled():
                hooks.remove()

    def _compiled(self) -> bool:
        """Return whether graphs were made with the hooks, or will be.

        Then hooks stay: put on anew they would make another graph, and on a step that is not
        recorded the graph has nothing of theirs in it.
        """
        model = self._model()
        parts = model.modules() if model is not None else ()
        return self._recorder.whole_graph or any(compiled(part) for part in parts)

    def _forward_begins(self, training: bool) -> None:
        if training and self._optimizer is None and self._forwarded:
            self.step()
        self._recorder.stopwatch.begin()
        self._forwarded |= training

    def _before_update(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._recorder.on:
            self._warn_of_silence()
            self._recorder.guarded(self._read_parameters, optimizer)

    def _warn_of_silence(self) -> None:
        if (
            self._warned_of_silence
            or not self._recorder.accumulator.empty
            or self._recorder.total_calls
        ):
            return
        self._warned_of_silence = True
        warnings.warn(
            "a recorded step ends and no forward of the probed model was seen: it runs as compiled "
            f"code, or another object is trained. {_UNCOMPILE}",
            ProbeWarning,
            stacklevel=2,
        )

    def _after_update(self, *_: object) -> None:
        if self._recorder.on:
            self._recorder.guarded(self._readings.compare)
        self.step()

    def _read_parameters(self, optimizer: torch.optim.Optimizer) -> None:
        known = self._roster.updated(self._living_model(), optimizer)
        self._readings.read(known, remember=True)
        self._collector.gradient_scale = gradient_scale(optimizer)

    def _backward_ended(self) -> None:
        self._ends_with_backward = False
        if self._handles:
            self.step()

    def _read_late(self) -> None:
        """Read gradients whose arrival could not be watched, at the end of a step."""
        for name, parameter in self._arrivals.late() if self._arrivals else ():
            self._gradient_arrived(name, parameter)

    def _gradient_arrived(self, name: str, parameter: nn.Parameter) -> None:
        if self._recorder.whole_graph and not self._ends_with_backward:
            # A forward that is compiled tells nobody that it begins; a backward does.
            self._ends_with_backward = True
            after_backward(self._backward_ended)
        if self._recorder.on:
            self._recorder.guarded(self._readings.read, [self._roster.known(name, parameter)])

    # --- rows -----------------------------------------------------------------------------

    def _where(self) -> dict[str, Any]:
        return {**self._whose(), "step": self.step_index}

    def _whose(self) -> dict[str, Any]:
        return {key: self._options[key] for key in ("run", "network", "seed")}

    def _collect(self, rows: Rows, provisional: bool = False) -> None:
        where = self._where()
        self._unscale()
        self._read_late()
        for table, (columns, count) in self._collector.collect(provisional).items():
            rows[table].append({**where, **columns}, count)

    def _unscale(self) -> None:
        scaler: torch.amp.GradScaler | None = self._options["scaler"]
        if scaler is not None and scaler.is_enabled():
            self._collector.loss_scale = scaler.get_scale()
            if self._optimizer is None:
                self._collector.gradient_scale = self._collector.loss_scale

    def _coverage(self) -> list[dict[str, Any]]:
        model = self._model()
        if model is not None:
            whose = self._whose()
            self._last_coverage = [{**whose, **row} for row in self._collector.coverage(model)]
        return self._last_coverage

    # --- on and off -----------------------------------------------------------------------

    def _install(self, model: nn.Module, targets: dict[str, nn.Module]) -> list[RemovableHandle]:
        blocks, axis = self._options["blocks"], self._options["channel_dim"]
        everywhere = blocks in ("auto", "leaves") if isinstance(blocks, str) else False
        leaves = isinstance(blocks, str) and blocks == "leaves"
        scope = Scope(blocks == "auto", everywhere, leaves, "leaf" if leaves else "block")
        handles, hooks, self._session = install(
            model, targets, self._recorder, self._forward_begins, axis, scope
        )
        self._hooks: list[Hooks | GradientHooks] = [hooks]
        if self._optimizer is not None:
            handles.append(self._optimizer.register_step_pre_hook(self._before_update))
            handles.append(self._optimizer.register_step_post_hook(self._after_update))
            return handles
        self._arrivals = GradientHooks(model, self._gradient_arrived)
        self._hooks.append(self._arrivals)
        return handles

    def require_same(self, options: Mapping[str, Any]) -> None:
        """Check that a second `attach` asks for what this probe does.

        Raises:
            BadInput: an option differs.
        """
        for name, wanted in options.items():
            have = self._options[name]
            if wanted is not have and wanted != have:
                raise BadInput(
                    f"this model carries a probe with {name}={have!r}, not {wanted!r}; "
                    "detach it first"
                )

    def detach(self) -> None:
        """Take everything off the model; what was recorded stays in `records`."""
        model = self._model()
        if not self._handles:
            return
        self._recorder.guarded(self._collect, self._rows)
        self._coverage()
        self._readings.clear()
        self._recorder.on = False
        self._recorder.end_step()
        if self._arrivals is not None:
            self._arrivals.clear()
        for handle in self._handles:
            handle.remove()
        for hooks in self._hooks:
            hooks.remove()
        self._handles = []
        self._session.stop()
        if model is not None and _PROBES.get(model) is self:
            del _PROBES[model]
        if not _PROBES:
            HOOK_GUARDS.off()

    def __enter__(self) -> Probe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached" if self._handles else "detached"
        cost = f", every {self.every}, overhead {self.overhead:.1%}" if self._budget else ""
        return f"Probe({self._options['network']!r}, {state}, step {self.step_index}{cost})"

    def _living_model(self) -> nn.Module:
        model = self._model()
        if model is None:
            raise BadInput("the probed model is gone; keep a reference to it")
        return model


_UNCOMPILE = (
    "Where code is compiled and nothing is read: run the steps to record in `with "
    "torch.compiler.set_stance('force_eager'):`, or train the model uncompiled while probing"
)


def _warn_of_compiled(model: nn.Module) -> None:
    if any(compiled(module) for module in model.modules()):
        warnings.warn(f"this model is compiled. {_UNCOMPILE}", ProbeWarning, stacklevel=4)


def _records(rows: Rows) -> Records:
    records = Records()
    for table, kept in rows.items():
        setattr(records, table, kept.frame())
    return records
