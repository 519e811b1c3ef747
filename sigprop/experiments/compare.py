"""Networks side by side: the same data, the same plan, several seeds, a probe on each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sigprop.capture import Blocks
from sigprop.errors import BadInput, RunError
from sigprop.experiments.training import Plan, Progress, Training
from sigprop.inputs.datasets import Data, resolve
from sigprop.inputs.factories import Factory, design, factory, initialize
from sigprop.probing.options import Every, Metrics
from sigprop.probing.probe import Probe, attach
from sigprop.records import Records, RunWriter, atomic_write, concat, load, new_manifest

Watch = Callable[[str, int, Progress], None]

CHECKPOINT = "checkpoint.pt"

#: Every one of the first steps is recorded: what diverges, diverges here.
_FIRST_STEPS = 10


def compare(
    networks: Mapping[str, str | Factory] | Sequence[str],
    data: object = "digits",
    steps: int | None = None,
    seeds: int | Sequence[int] = 3,
    *,
    plan: Plan | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
    every: Every | None = None,
    blocks: Blocks = "auto",
    metrics: Metrics = (),
    window: int | None = 10,
    options: Mapping[str, object] | None = None,
    on_progress: Watch | None = None,
) -> Records:
    """Train every network from every seed on the same batches, with a probe attached.

    A loss that becomes NaN or infinite ends that one training; it is a finding, not an error.

    Args:
        networks: label -> network, or just names: of the zoo, ``"module:factory"``, or callables.
        data: ``"digits"``, ``"fashion-mnist"``, an IDX directory, (inputs, targets), a Dataset, a
            DataLoader or a `Data`.
        steps: optimizer steps, 200 if not given; a shorthand for ``plan=Plan(steps=...)``.
        seeds: how many (0, 1, ...), or which.
        plan: learning rate, batch size, schedule and so on.
        directory: write a run directory per network and seed below it, as training goes; a killed
            comparison loads, and goes on with ``resume``.
        resume: go on with the comparison in ``directory``.
        every: which steps to record: every n-th or a callable; the first ten and about forty more
            if not given.
        blocks: what to record, as in `attach`.
        metrics: your own columns, as in `attach`.
        window: recorded steps over which a unit must be off to count as dead.
        options: of the zoo's networks (depth, width, ...); inputs and classes follow the data.
        on_progress: called with (label, seed, row) after every training step.

    Raises:
        UnknownName: a network has no such name.
        BadInput: an option or the data cannot be used.
        RunError: the directory cannot be written, or holds something else.

    Example:
        >>> records = compare(["plain", "rescale"], steps=2, seeds=1, options={"depth": 3})
        >>> records.networks()
        ['plain', 'rescale']
    """
    if plan is not None and steps is not None:
        raise BadInput(f"steps={steps} and plan={plan} both say how long; give one of them")
    plan = plan or Plan(steps=200 if steps is None else steps)
    task = resolve(data)
    chosen = {"inputs": task.shape, "classes": task.classes, **(options or {})}
    labeled = networks if isinstance(networks, Mapping) else {str(n): n for n in networks}
    factories = {label: factory(network, **chosen) for label, network in labeled.items()}
    designs = {label: design(network, **chosen) for label, network in labeled.items()}
    which = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not factories or not which:
        raise BadInput("compare needs at least one network and one seed")
    settings = {"data": task.name, **asdict(plan), "options": dict(options or {})}
    settings = json.loads(json.dumps(settings, default=str))  # as a manifest gives it back
    found = []
    for label, build in factories.items():
        for seed in which:
            run = _Run(label, seed, build, task, plan, settings, designs[label])
            probed = {
                "blocks": blocks,
                "every": every or _schedule(plan.steps),
                "metrics": metrics,
                "window": window,
            }
            found.append(run.train(probed, directory, resume, on_progress))
    if directory is not None:
        return load(*(_folder(directory, label) for label in factories))
    records = concat(found)
    records.manifest = new_manifest(
        networks=list(factories), seeds=which, settings=settings, designs=designs
    )
    return records


def _schedule(steps: int) -> Callable[[int], bool]:
    stride = max(1, steps // 40)

    def due(step: int) -> bool:
        return step < steps and (step < _FIRST_STEPS or step % stride == 0 or step == steps - 1)

    return due


class _Run:
    """One network from one seed, recorded in memory or in a run directory of its own."""

    def __init__(
        self,
        label: str,
        seed: int,
        build: Factory,
        task: Data,
        plan: Plan,
        settings: Mapping[str, Any],
        designed: Mapping[str, Any],
    ) -> None:
        self.label, self.seed, self.plan = label, seed, plan
        self._build, self._task = build, task
        self._settings = dict(settings)
        self._designs = {label: dict(designed)}

    def train(
        self,
        probed: Mapping[str, Any],
        directory: str | Path | None,
        resume: bool,
        on_progress: Watch | None,
    ) -> Records:
        writer = self._writer(Path(directory), resume) if directory is not None else None
        if writer is not None and writer.manifest["status"] == "complete":
            return Records()
        training = Training(initialize(self._build, self.seed), self._task, self.plan, self.seed)
        # Dropout draws from the global generator: give each run its own, and give it back.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            if writer is not None:
                _restore(training, writer)
            with attach(
                training.model,
                training.optimizer,
                network=self.label,
                seed=self.seed,
                step=training.step,
                **probed,
            ) as probe:
                return self._watched(training, probe, writer, on_progress)

    def _watched(
        self,
        training: Training,
        probe: Probe,
        writer: RunWriter | None,
        on_progress: Watch | None,
    ) -> Records:
        if training.step == 0:
            probe.record_spectra()
        between = max(1, self.plan.steps // 10)
        for row in training.run():
            probe.log(**vars(row))
            if on_progress is not None:
                on_progress(self.label, self.seed, row)
            if writer is not None and training.step % between == 0:
                _save(training, probe, writer)
        probe.record_spectra()
        records = probe.records
        if writer is not None:
            writer.extend(probe.drain())
            writer.append("coverage", records.coverage)
            writer.complete()
            (writer.directory / CHECKPOINT).unlink(missing_ok=True)
        return records

    def _writer(self, root: Path, resume: bool) -> RunWriter:
        directory = _folder(root, self.label) / f"seed-{self.seed}"
        manifest = new_manifest(
            networks=[self.label],
            seeds=[self.seed],
            settings=self._settings,
            designs=self._designs,
        )
        writer = RunWriter(directory, manifest, resume=resume)
        if writer.manifest.get("settings") != manifest["settings"]:
            raise RunError(
                f"{directory} was run with {writer.manifest.get('settings')}, not with "
                f"{self._settings}; choose another directory"
            )
        return writer


def _folder(root: str | Path, label: str) -> Path:
    return Path(root) / label.replace("/", "_")


def _save(training: Training, probe: Probe, writer: RunWriter) -> None:
    """Flush the rows, then the checkpoint that says how many parts belong to it."""
    writer.extend(probe.drain())
    writer.flush()
    state = {"training": training.state_dict(), "parts": writer.parts}
    atomic_write(writer.directory / CHECKPOINT, lambda path: torch.save(state, path))


def _restore(training: Training, writer: RunWriter) -> None:
    """Go back to the last checkpoint; rows written after it are recorded again."""
    path = writer.directory / CHECKPOINT
    if not path.exists():
        writer.rewind(0)
        return
    try:
        state = torch.load(path, weights_only=True)
        training.load_state_dict(state["training"])
    except Exception as error:
        raise RunError(
            f"{path} cannot be resumed from ({type(error).__name__}: {error})"
        ) from error
    writer.rewind(state["parts"])
