"""The one object that joins capture, signals and records: a probe on a model."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from sigprop.capture import Blocks, ChannelDim, Installation, Recorder, Scope, select
from sigprop.capture.distributed.ranks import Ranks
from sigprop.capture.hooks.compiled_graphs import HOOK_GUARDS
from sigprop.capture.internals import warn_of_missing
from sigprop.capture.model.blocks import is_automatic, members
from sigprop.capture.model.naming import bare, parameters
from sigprop.errors import BadInput
from sigprop.probing.loss_scale import LossScale
from sigprop.probing.many_ranks import join
from sigprop.probing.notices import (
    warn_of_compiled,
    warn_of_optimizer,
    warn_of_parts,
    warn_of_silence,
    warn_of_unread,
)
from sigprop.probing.optimizer_hooks import torch_optimizer
from sigprop.probing.options import (
    Every,
    Metrics,
    ProbeOptions,
    Resume,
    check_model,
    split_metrics,
)
from sigprop.probing.overhead import Budget
from sigprop.probing.step_reader import StepReader
from sigprop.probing.steps import Steps
from sigprop.probing.streaming import tables_for
from sigprop.probing.tables import Tables
from sigprop.records import Records, new_manifest, tidy
from sigprop.signals import native
from sigprop.spectra.of_weights import weight_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

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
    ranks: Literal["merge", "own"] | ProcessGroup = "merge",
    grad_scale: float | None = None,
    directory: str | Path | None = None,
    flush_every: int = 50,
    resume: Resume = "never",
) -> Probe:
    """Attach a probe to a model; the model computes exactly what it computed before.

    Attaching again with the same options returns the same probe. The probe lives as long as the
    model, until `Probe.detach` or the end of a ``with`` block.

    A forward pass begins where the model is called or, where it never is (a ``training_step`` that
    calls ``self.net``), at the outermost module inside it that is called. Forward passes in
    training mode with gradients have the mode ``train`` in the records, all others ``eval``.

    While a probe is attached, this much is different for the whole process: code compiled by
    `torch.compile` depends on the hooks of its modules
    (``torch._dynamo.config.skip_nnmodule_hook_guards`` is False); with an optimizer, a hook runs
    after the step of every optimizer, to notice one that has replaced it; and during the forward
    pass of a recorded step a `TorchFunctionMode` is active in its thread, and global module hooks
    are where the model has a `torch.nn.TransformerEncoderLayer`. `Probe.detach` takes all of it
    back.

    Args:
        model: any module.
        optimizer: a step then ends at its ``step()``, where weights and gradients are read too. A
            wrapper that keeps the optimizer in its attribute ``optimizer`` (Accelerate, Lightning)
            is accepted.
            Without one a step ends at the next forward in training mode, or at `Probe.step`; of a
            compiled model, whose forward runs no hook when it begins, with its backward pass.
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
            scale, and steps that it leaves out are marked. Your own metrics see the gradient as it
            is.
        overhead: instead of ``every``: record as often as keeps the cost below this share of the
            bare training time, 0.03 for 3 %. `Probe.every` says what was chosen.
        ranks: where `torch.distributed` trains on many ranks, ``"merge"`` has the first rank record
            the exact statistics of the whole batch, and the others nothing: attach on all of them,
            after ``init_process_group``. ``"own"`` has each rank record its own part of the batch.
            A process group merges its ranks only: with tensor or pipeline parallelism, those that
            have the same part of the model.
        grad_scale: what the gradients of activations are multiplied by; None for 1, and for 1/ranks
            where ranks merge, since each rank's loss is then the mean over its own part of the
            batch, and training follows the mean of the losses. 1 for losses that are summed.
        directory: a run directory to write to while recording, for long runs: memory does not grow,
            a killed run keeps what was flushed, and `sigprop.load` reads it meanwhile. `detach`, or
            the end of a ``with`` block without an exception, marks the run complete. Where it
            cannot be written, rows wait in memory, a million of them, and training goes on. Of
            ranks that merge, the first one writes.
        flush_every: how many recorded steps are kept in memory before they are written.
        resume: what to do with a run in the directory: ``"never"`` refuses it, ``"must"`` goes on
            with it, ``"allow"`` goes on or begins. Say with ``step`` where training resumes: what
            was recorded from that step on goes when the first rows are written.

    Returns:
        The probe; a ``with`` block detaches it at its end.

    Raises:
        UnknownName: a glob matches no module, or a metric has no such name.
        BadInput: an option does not fit, or the model carries a probe with other options.
        RunError: the directory holds a run, or none to resume, cannot be written, or another
            process writes there.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with attach(model, blocks="leaves") as probe:
        ...     model(torch.ones(8, 4)).sum().backward()
        >>> probe.records.signals.query("port == 'out'")["direction"].value_counts().to_dict()
        {'forward': 3, 'backward': 3}
    """
    options = ProbeOptions(
        optimizer=torch_optimizer(optimizer),
        blocks=blocks,
        every=every,
        network=network,
        seed=seed,
        run=run,
        step=step,
        metrics=metrics,
        window=window,
        channel_dim=channel_dim,
        strict=strict,
        scaler=scaler,
        overhead=overhead,
        ranks=ranks,
        grad_scale=grad_scale,
        directory=directory,
        flush_every=flush_every,
        resume=resume,
    )
    check_model(model)
    known = _PROBES.get(model)
    if known is not None:
        known.options.require_same(options)
        return known
    probe = Probe(model, options)
    _PROBES[model] = probe
    return probe


class Probe:
    """A probe on a model; made by `attach`.

    Args:
        model: the model.
        options: what `attach` was given.

    Attributes:
        options: what `attach` was given.
    """

    def __init__(self, model: nn.Module, options: ProbeOptions) -> None:
        if bare(model) in _PROBES and bare(model) is not model:
            raise BadInput("the model inside this wrapper carries a probe; detach it first")
        warn_of_missing()
        native.warn_of_absence()
        warn_of_compiled(model)
        warn_of_unread(model)
        if options.optimizer is None:
            warn_of_parts(model)
        self.options = options
        self._model = weakref.ref(model)
        targets = select(model, options.blocks)
        self._recorder = Recorder(split_metrics(options.metrics)[0], options.strict)
        self._budget: Budget | None = None
        if options.overhead is not None:
            self._budget = Budget(options.overhead, self._recorder.stopwatch)
        scale = LossScale(options.scaler)
        self._ranks = join(model, options, targets, self._budget or options.every)
        self._reader = StepReader(model, targets, self._recorder, options, scale, self._ranks)
        self._steps = Steps(options.step, options.optimizer, scale, self)
        self._tables = tables_for(options, self._facts(), self._ranks)
        weakref.finalize(self, self._tables.abandon)
        self._attached = True
        self._recorded = self._checked_optimizer = self._warned_of_silence = False
        self._last_coverage: list[dict[str, Any]] = []
        arrived = self._gradient_arrived if options.optimizer is None else None
        self._installation = Installation(model, self._recorder, self._forward_begins, arrived)
        try:
            self._install(model, targets)
        except BaseException:
            self._tables.close(options.step, [], complete=False)
            self._remove()
            raise

    # --- what was seen --------------------------------------------------------------------

    @property
    def records(self) -> Records:
        """Everything recorded so far; of one rank, the step in progress included.

        With a directory, what was written is read from it.
        """
        self._installation.end_interrupted()
        tables = self._tables.copy()
        if self._ranks is None:
            self._recorder.guarded(self._collect, tables, True)
        records = tables.records()
        records.coverage = tidy("coverage", self._coverage())
        of_directory, steps = records.manifest, {"steps": self.step_index}
        records.manifest = {**new_manifest(**self._facts()), **of_directory, **steps}
        return records

    def _facts(self) -> dict[str, Any]:
        """Return what the manifest says of this run."""
        return {
            "networks": [self.options.network],
            "seeds": [self.options.seed],
            "steps": self.step_index,
            "ranks": 1 if self._ranks is None else self._ranks.size,
            "grad_scale": self._reader.grad_scale,
        }

    def drain(self) -> Records:
        """Return the rows of the steps that ended since the last drain, and let go of them.

        For long runs that write as they go; the coverage table comes with `records` only.
        """
        return self._tables.drain()

    def log(
        self,
        *,
        loss: float = math.nan,
        accuracy: float = math.nan,
        learning_rate: float = math.nan,
        mode: str = "train",
        step: int | None = None,
    ) -> None:
        """Keep a training loop's own numbers beside the signals, for the report's curves.

        Args:
            loss: the loss.
            accuracy: the share that was right, between 0 and 1.
            learning_rate: the optimizer's.
            mode: ``"train"``, or ``"eval"`` for those of an evaluation.
            step: the step they belong to. Without it, numbers of training belong to the last step
                of which a forward was seen, whether the optimizer's step came before or after this
                call, and those of an evaluation to the step whose weights were evaluated.
        """
        columns = {
            "step": self._step_of_log(mode) if step is None else step,
            "mode": mode,
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": learning_rate,
        }
        self._tables.append("training", columns, 1)

    def _step_of_log(self, mode: str) -> int:
        # The forward of a model that is one compiled graph runs no hook: none is seen.
        last_begun = mode == "train" and not self._recorder.graph.whole
        return self._steps.last_begun if last_begun else self.step_index

    def record_spectra(self) -> None:
        """Record the singular values of every weight with two axes or more, as they are now."""
        for columns, count in weight_rows(self._living_model()):
            self._tables.append("spectra", columns, count, step=self.step_index)

    # --- what it costs --------------------------------------------------------------------

    @property
    def overhead(self) -> float:
        """Time that probing has added, over the time of the same steps without it: 0.03 is 3 %.

        With steps of both kinds, recorded steps are compared with the others. Until then it is the
        time spent in the probe's own code, without an accelerator's share of it.
        NaN before the first step ended.
        """
        return self._recorder.stopwatch.share

    @property
    def traffic(self) -> tuple[int, int]:
        """Collectives made to merge ranks so far, and the bytes that this rank gave to them."""
        return (0, 0) if self._ranks is None else self._ranks.traffic

    @property
    def every(self) -> int | Callable[[int], bool]:
        """The cadence: what was asked for, or the distance in steps that the budget chose last."""
        every: Every = self._budget.every if self._budget else self.options.every
        return every

    # --- a step ---------------------------------------------------------------------------

    @property
    def step_index(self) -> int:
        """The step in progress, counted from `attach`'s ``step``."""
        return self._steps.index

    def step(self) -> None:
        """End the step: fetch what was read in it and make it rows. Optimizers do it themselves."""
        self._steps.end()

    def step_began(self, index: int) -> None:
        """Choose whether a step is recorded, and have its hooks on or off accordingly."""
        on = self._due(index) and not self._recorder.log.broken
        self._recorder.on = on
        if on or self._recorded:
            self._recorder.guarded(self._switch, on)
        self._recorded = on

    def _due(self, index: int) -> bool:
        if self._ranks is not None:
            return self._ranks.meeting == (index, True)
        every = self._budget or self.options.every
        return bool(every(index) if callable(every) else index % every == 0)

    def _switch(self, on: bool) -> None:
        self._installation.record(on)
        if not on:
            self._reader.clear()  # once more: now copies of weights are let go of too

    def step_ended(self, index: int, skipped: bool) -> None:
        """Make rows of what was read in a step, and forget it.

        Args:
            index: the step's number, from 0.
            skipped: whether a scaler left the optimizer's step out.
        """
        if self._recorded:  # also when it was switched off within the step
            self._recorder.guarded(self._end_recorded_step, skipped)
        if self._ranks is not None:
            self._meet(self._ranks, index)
        self._recorder.step += 1
        self._recorder.stopwatch.end(self._recorder.on)

    def _meet(self, ranks: Ranks, index: int) -> None:
        """Meet the other ranks if that is due and was not done while statistics were merged."""
        log = self._recorder.log
        if ranks.meeting.step == index and not log.broken:
            self._recorder.guarded(ranks.meet, index)
        elif ranks.meeting.step == index:
            with contextlib.suppress(Exception):  # the reason is known here, and was said
                ranks.meet(index, failed=True)
        if log.broken and ranks.meeting.step < index:  # else the others are told when they come
            ranks.part()

    def _end_recorded_step(self, skipped: bool) -> None:
        self._installation.end_interrupted()
        if self._recorder.on:
            if skipped:
                self._recorder.guarded(self._read_weights)
            self._recorder.guarded(self._collect, self._tables)
        self._reader.clear()
        self._recorder.forget_step()
        if self._recorder.on:
            self._recorder.guarded(self._tables.step_recorded, self.step_index, self._coverage)

    def _forward_begins(self, training: bool) -> None:
        self._steps.forward_begins(training)
        self._recorder.stopwatch.begin()

    def update_begins(self, optimizer: Optimizer, closure: bool) -> bool:
        """Return whether to read gradients before the optimizer uses them.

        Args:
            optimizer: the one that steps.
            closure: whether it was given one, in which gradients are still to be computed.
        """
        if not self._checked_optimizer:
            self._checked_optimizer = True
            self._check_optimizer(optimizer)
        if closure and self._recorder.on:
            self._recorder.guarded(self._reader.remember, self._living_model(), optimizer)
        return self._recorder.on

    def gradients_ready(self, optimizer: Optimizer, closure: bool) -> None:
        """Read weights and gradients as the optimizer uses them.

        Args:
            optimizer: the one that steps.
            closure: whether it was given one, which may be called again.
        """
        if self._recorder.on:
            self._warn_of_silence()
            act = self._reader.gradients_ready
            self._recorder.guarded(act, self._living_model(), optimizer, not closure)

    def update_ended(self) -> None:
        """Read how far the weights moved."""
        if self._recorder.on:
            self._recorder.guarded(self._reader.update_ended)

    def trained_parameters(self) -> set[int]:
        """Return the ids of the model's parameters."""
        model = self._model()
        return set() if model is None else {id(p) for _, p in parameters(model)}

    def _gradient_arrived(self, name: str, parameter: nn.Parameter) -> None:
        if self._recorder.graph.whole:
            self._steps.end_with_backward()
        if self._recorder.on:
            self._recorder.guarded(self._reader.gradient_arrived, name, parameter)

    # --- rows -----------------------------------------------------------------------------

    def _collect(self, tables: Tables, provisional: bool = False) -> None:
        for name, parameter in self._installation.late_gradients():
            self._reader.gradient_arrived(name, parameter)
        for table, (columns, count) in self._reader.rows(self.step_index, provisional).items():
            tables.append(table, columns, count, step=self.step_index)

    def _read_weights(self) -> None:
        if self.options.optimizer is not None:
            self._reader.update_left_out(self._living_model(), self.options.optimizer)

    def _coverage(self) -> list[dict[str, Any]]:
        model = self._model()
        if model is not None:
            rows = self._reader.coverage(model)
            self._last_coverage = [{**self.options.origin, **row} for row in rows]
        return self._last_coverage

    # --- on and off -----------------------------------------------------------------------

    def _install(self, model: nn.Module, targets: dict[str, nn.Module]) -> None:
        blocks, axis = self.options.blocks, self.options.channel_dim
        leaves, automatic = blocks == "leaves", is_automatic(blocks)
        scope = Scope(automatic, automatic or leaves, leaves, "leaf" if leaves else "block")
        HOOK_GUARDS.on(self, model)
        self._installation.install(targets, axis, scope, members(blocks))
        self._steps.watch()
        self.step_began(self.step_index)

    def detach(self) -> None:
        """Take everything off the model; what was recorded stays in `records`."""
        self._detach(complete=True)

    def _detach(self, complete: bool) -> None:
        if not self._attached:
            return
        if self._ranks is None:  # else other ranks would have to be at the very same point
            self._recorder.guarded(self._collect, self._tables)
        self._recorder.guarded(self._tables.close, self.step_index, self._coverage(), complete)
        self._remove()

    def _remove(self) -> None:
        self._attached = False
        if self._ranks is not None:
            self._ranks.part()
        self._reader.close()
        self._recorder.on = False
        self._recorder.forget_step()
        self._steps.stop()
        self._installation.remove()
        model = self._model()
        if model is not None and _PROBES.get(model) is self:
            del _PROBES[model]
        HOOK_GUARDS.off(self)

    def __enter__(self) -> Probe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._detach(complete=kind is None)

    def __repr__(self) -> str:
        state = "attached" if self._attached else "detached"
        cost = f", every {self.every}, overhead {self.overhead:.1%}" if self._budget else ""
        return f"Probe({self.options.network!r}, {state}, step {self.step_index}{cost})"

    def _living_model(self) -> nn.Module:
        model = self._model()
        if model is None:
            raise BadInput("the probed model is gone; keep a reference to it")
        return model

    # --- what is wrong with the loop -------------------------------------------------------

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        own = self.trained_parameters()
        if own:
            warn_of_optimizer(optimizer, own)

    def _warn_of_silence(self) -> None:
        recorder = self._recorder
        if self._warned_of_silence or not recorder.accumulator.empty or recorder.log.total_calls:
            return
        self._warned_of_silence = True
        warn_of_silence()
