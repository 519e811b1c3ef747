"""A training of several networks that is looked at every few steps, and goes on after a stop."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from sigprop.errors import BadInput, RunError
from sigprop.experiments.training import Plan, Training
from sigprop.inputs.batching import Batch
from sigprop.inputs.datasets import Data, resolve
from sigprop.inputs.devices import Device, resolve_device
from sigprop.inputs.factories import Factory, factory, initialize
from sigprop.records.atomic import atomic_write

#: ``(model, batch, optimizer) -> rows``; what it looks at stays as it is.
Look = Callable[[nn.Module, Batch, torch.optim.Optimizer], pd.DataFrame]

#: ``(network, steps done)``, called at every look.
Tell = Callable[[str, int], None]


def observe(
    networks: Mapping[str, Factory | str],
    data: object,
    look: Look,
    plan: Plan,
    *,
    every: int = 1,
    samples: int | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    device: Device = "auto",
    directory: Path | None = None,
    resume: bool = False,
    on_look: Tell | None = None,
) -> pd.DataFrame:
    """Train networks with SGD, one after the other, and look at each every n-th step.

    Args:
        networks: name -> factory, ``"module:factory"`` or a name of the zoo.
        data: what `sigprop.inputs.datasets.resolve` takes.
        look: ``(model, batch, optimizer) -> frame``; it must not change what it is given, and the
            instruments of sigprop do not.
        plan: how long and how fast to train.
        every: look before step 0, n, 2n, ... and after the last step.
        samples: look at the first so many training samples, the same each time; the batch of the
            coming step when not given.
        seed: of initialization and of the order of batches.
        options: of networks of the zoo.
        device: where to train.
        directory: a folder that keeps each network's state after every look.
        resume: go on from what that folder holds; otherwise it is begun anew.
        on_look: is told the network and how many steps are done.

    Returns:
        The frames of all looks, with columns ``network`` and ``step`` in front. A training whose
        loss became NaN or infinite ends there.

    Raises:
        UnknownName: no network has that name.
        BadInput: ``every`` is below 1, or data that cannot be used.
        RunError: a saved state is broken, or the folder cannot be written.

    Example:
        >>> frame = observe(
        ...     {"net": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))},
        ...     "digits",
        ...     lambda model, batch, optimizer: pd.DataFrame({"samples": [len(batch[0])]}),
        ...     Plan(steps=2),
        ... )
        >>> frame["step"].tolist(), frame["samples"].tolist()
        ([0, 1, 2], [64, 64, 64])
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise BadInput(f"every is a whole number of at least 1, not {every!r}")
    task = resolve(data)
    shape = {"inputs": task.shape, "classes": task.classes}
    found = []
    for name, network in networks.items():
        zoo = {**shape, **(options or {})} if isinstance(network, str) else {}
        build = factory(network, **zoo)
        where = resolve_device(device)
        training = Training(initialize(build, seed, where), task, plan, seed, where)
        saved = None if directory is None else _State(directory, name, resume)
        for rows in _looks(training, task, look, every, samples, saved):
            found.append(rows.assign(network=name))
            if on_look is not None:
                on_look(name, int(rows["step"].iloc[0]))
    frame = pd.concat(found, ignore_index=True)
    front = ["network", "step"]
    return frame[[*front, *(column for column in frame if column not in front)]]


def _looks(
    training: Training,
    data: Data,
    look: Look,
    every: int,
    samples: int | None,
    saved: _State | None,
) -> Iterator[pd.DataFrame]:
    """Yield the frame of every look, those of an interrupted training first."""
    past = [] if saved is None else saved.load(training)
    yield from past
    done = int(past[-1]["step"].iloc[0]) if past else -1
    batches: Iterator[Any] = training.run() if training.step < training.plan.steps else iter(())

    def seen() -> pd.DataFrame:
        frame = look(training.model, _batch(training, data, samples), training.optimizer)
        past.append(frame.assign(step=training.step))
        if saved is not None:
            saved.save(training, past)
        return past[-1]

    if done < 0:
        yield seen()
    for row in batches:
        last = training.step == training.plan.steps
        if row.mode == "train" and not training.diverged and (last or training.step % every == 0):
            yield seen()


def _batch(training: Training, data: Data, samples: int | None) -> Batch:
    if samples is None:
        coming = data.batches(training.seed, training.plan.batch_size, start=training.step)
        return next(coming)
    # in the order of the data set: the first batch of so many, and not a drawn one
    if isinstance(data.train, tuple):
        return data.train[0][:samples], data.train[1][:samples]
    return next(data.batches(seed=0, batch_size=samples))


class _State:
    """One network's rows and the state of its training, in one file that is whole or not there."""

    def __init__(self, directory: Path, name: str, resume: bool) -> None:
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        self.path = Path(directory) / f"{safe}.state"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.path.unlink(missing_ok=True)

    def load(self, training: Training) -> list[pd.DataFrame]:
        """Put the training where it was, and return the rows up to there.

        Returns:
            The frame of every look; none where nothing was saved.

        Raises:
            RunError: what was saved is broken, or of another network.
        """
        if not self.path.exists():
            return []
        try:
            state = torch.load(self.path, weights_only=True)
            training.load_state_dict(state["training"])
            return [pd.DataFrame(rows) for rows in state["looks"]]
        except (OSError, RuntimeError, KeyError, EOFError, ValueError) as error:
            raise RunError(
                f"{self.path} cannot be resumed: {error}; was it another network or plan? Leave "
                "out resume to begin anew"
            ) from error

    def save(self, training: Training, looks: list[pd.DataFrame]) -> None:
        """Write the state and all rows."""
        held = io.BytesIO()
        rows = [frame.to_dict("list") for frame in looks]
        torch.save({"training": training.state_dict(), "looks": rows}, held)
        atomic_write(self.path, lambda path: path.write_bytes(held.getvalue()))
