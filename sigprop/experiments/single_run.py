"""One network trained from one seed with a probe on it, in memory or in a run directory."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sigprop.errors import BadInput, RunError
from sigprop.experiments.training import Plan, Progress, Training
from sigprop.inputs.datasets import Data
from sigprop.inputs.devices import seeded
from sigprop.inputs.factories import Factory, initialize
from sigprop.probing.probe import Probe, attach
from sigprop.records import Records, RunWriter, atomic_write, new_manifest

Watch = Callable[[str, int, Progress], None]

CHECKPOINT = "checkpoint.pt"

#: Layers that divide by a batch's own variance, of which one sample has none.
_BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm


def folder(root: str | Path, label: str) -> Path:
    """Return the folder of a network's runs; a slash in a label becomes an underscore.

    Args:
        root: the folder of all runs; None where nothing is written.
        label: name of the run.
    """
    return Path(root) / label.replace("/", "_")


class SingleRun:
    """One network from one seed, recorded in memory or in a run directory of its own.

    Args:
        label: the network's name in the records, and its folder's.
        seed: of initialization, of the order of batches, and of what the network draws.
        build: makes the network.
        task: the data.
        plan: how long and how fast to train.
        settings: what the manifest keeps, and a resumed run must share.
        designed: the network's options, for theory.
        device: where to train.
    """

    def __init__(
        self,
        label: str,
        seed: int,
        build: Factory,
        task: Data,
        plan: Plan,
        settings: Mapping[str, Any],
        designed: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.label, self.seed, self.plan = label, seed, plan
        self._build, self._task, self._device = build, task, device
        self._settings = dict(settings)
        self._designs = {label: dict(designed)}

    def train(
        self,
        probed: Mapping[str, Any],
        directory: str | Path | None,
        resume: bool,
        on_progress: Watch | None,
    ) -> Records:
        """Train to the end of the plan, or until the loss is not finite.

        Args:
            probed: options of `attach`.
            directory: write below it; in memory when None.
            resume: go on with what is there.
            on_progress: called after every row.

        Returns:
            The records; empty for a run that was complete already.

        Raises:
            BadInput: the network cannot be trained on a batch of one.
            RunError: the directory cannot be written, or holds something else.
        """
        self._check_batch()
        writer = self._writer(Path(directory), resume) if directory is not None else None
        if writer is not None and writer.manifest["status"] == "complete":
            (writer.directory / CHECKPOINT).unlink(missing_ok=True)  # of a kill just before its end
            return Records()
        model = initialize(self._build, self.seed)
        training = Training(model, self._task, self.plan, self.seed, self._device)
        # Dropout draws from the global generators: give each run its own, and give it back.
        with seeded(self.seed, self._device):
            if writer is not None:
                _restore(training, writer)
            with attach(
                training.model,
                training.optimizer,
                network=self.label,
                seed=self.seed,
                step=training.step,
                ranks="own",
                **probed,
            ) as probe:
                return self._watched(training, probe, writer, on_progress)

    def _check_batch(self) -> None:
        if self.plan.batch_size > 1:
            return
        modules = initialize(self._build, self.seed).modules()
        if any(isinstance(module, _BATCH_NORMS) for module in modules):
            raise BadInput(
                f"{self.label!r} normalizes over the batch, and a batch of one sample has no "
                "variance; choose batch_size=2 or more"
            )

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
        directory = folder(root, self.label) / f"seed-{self.seed}"
        manifest = new_manifest(
            networks=[self.label],
            seeds=[self.seed],
            settings=self._settings,
            designs=self._designs,
            device=str(self._device),
        )
        writer = RunWriter(directory, manifest, resume=resume)
        if writer.manifest.get("settings") != manifest["settings"]:
            raise RunError(
                f"{directory} was run with {writer.manifest.get('settings')}, not with "
                f"{self._settings}; choose another directory"
            )
        return writer


def _save(training: Training, probe: Probe, writer: RunWriter) -> None:
    """Flush the rows, then the checkpoint that says how many parts belong to it."""
    writer.extend(probe.drain())
    writer.flush()
    state = {"training": training.state_dict(), "parts": writer.parts}
    whole = io.BytesIO()  # in memory: torch's own file writer reports a full disk as its own fault
    torch.save(state, whole)
    atomic_write(writer.directory / CHECKPOINT, lambda path: path.write_bytes(whole.getbuffer()))


def _restore(training: Training, writer: RunWriter) -> None:
    """Go back to the last checkpoint; rows written after it are recorded again.

    Raises:
        RunError: the checkpoint cannot be read or is of another plan.
    """
    path = writer.directory / CHECKPOINT
    if not path.exists():
        writer.rewind(0)
        return
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        training.load_state_dict(state["training"])
    except Exception as error:
        raise RunError(
            f"{path} cannot be resumed from ({type(error).__name__}: {error})"
        ) from error
    writer.rewind(state["parts"])
