"""Networks side by side: the same data, the same plan, several seeds, a probe on each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sigprop.capture import Blocks
from sigprop.errors import BadInput
from sigprop.experiments.single_run import SingleRun, Watch, folder
from sigprop.experiments.training import Plan
from sigprop.inputs.datasets import resolve
from sigprop.inputs.devices import Device, resolve_device
from sigprop.inputs.factories import Factory, design, factory
from sigprop.probing.options import Every, Metrics
from sigprop.records import Records, concat, load, new_manifest

#: Every one of the first steps is recorded: what diverges, diverges here.
_FIRST_STEPS = 10


def compare(
    networks: Mapping[str, str | Factory] | Sequence[str | Factory],
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
    device: Device = "auto",
) -> Records:
    """Train every network from every seed on the same batches, with a probe attached.

    A loss that becomes NaN or infinite ends that one training; it is a finding, not an error.

    Args:
        networks: label -> network, or just names: of the zoo, ``"module:factory"``, or callables.
        data: ``"digits"``, ``"fashion-mnist"``, an IDX directory, (inputs, targets), a Dataset, a
            DataLoader or a `Data`.
        steps: optimizer steps, 200 if not given; a shorthand for ``plan=Plan(steps=...)``.
        seeds: how many (0, 1, ...), or which.
        plan: learning rate, batch size, schedule and so on. A batch holds all samples when there
            are fewer than its size.
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
        device: where to train: ``"auto"`` (CUDA, else MPS, else the CPU) or a device's name.
            Weights and the order of batches are drawn on the CPU and do not depend on it.

    Returns:
        The records of every network and seed.

    Raises:
        UnknownName: a network has no such name.
        BadInput: an option or the data cannot be used, a label is no folder name or given twice,
            or the device is not there.
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
    labeled = _labeled(networks)
    factories = {label: factory(network, **chosen) for label, network in labeled.items()}
    designs = {label: design(network, **chosen) for label, network in labeled.items()}
    which = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not factories or not which:
        raise BadInput("compare needs at least one network and one seed")
    if len(set(which)) < len(which):
        raise BadInput(f"a seed is given twice: {which}")
    settings = {"data": task.name, **asdict(plan), "options": dict(options or {})}
    settings = json.loads(json.dumps(settings, default=str))  # as a manifest gives it back
    where = resolve_device(device)
    probed = {
        "blocks": blocks,
        "every": every or _schedule(plan.steps),
        "metrics": metrics,
        "window": window,
    }
    runs = (
        SingleRun(label, seed, build, task, plan, settings, designs[label], where)
        for label, build in factories.items()
        for seed in which
    )
    found = [run.train(probed, directory, resume, on_progress) for run in runs]
    if directory is not None:
        return load(*(folder(directory, label) for label in factories))
    records = concat(found)
    records.manifest = new_manifest(
        networks=list(factories), seeds=which, settings=settings, designs=designs, device=str(where)
    )
    return records


def _labeled(
    networks: Mapping[str, str | Factory] | Sequence[str | Factory],
) -> dict[str, str | Factory]:
    """Return label -> network; labels are folder names, no two of them the same.

    Raises:
        BadInput: a label is empty, no folder name, or taken.
    """
    if isinstance(networks, str):
        raise BadInput(
            f"networks are a list of names or a dict, not {networks!r}; try [{networks!r}]"
        )
    pairs: list[tuple[Any, str | Factory]] = (
        list(networks.items())
        if isinstance(networks, Mapping)
        else [(n if isinstance(n, str) else getattr(n, "__name__", str(n)), n) for n in networks]
    )
    taken: dict[str, str] = {}
    for label, _ in pairs:
        if not isinstance(label, str) or not label.strip() or label.strip(". ") == "":
            raise BadInput(f"a label names a folder and the lines of a figure; {label!r} cannot")
        if "\0" in label or "\\" in label:
            raise BadInput(
                f"a label names a folder; {label!r} holds a character that none may have"
            )
        own_folder = folder("", label).name.casefold()
        if taken.get(own_folder) == label:
            raise BadInput(
                f"{label!r} is given twice; give each network a label of its own: "
                f"{{'first': {label!r}, 'second': {label!r}}}"
            )
        if own_folder in taken:
            raise BadInput(f"the labels {taken[own_folder]!r} and {label!r} would share one folder")
        taken[own_folder] = label
    return dict(pairs)


def _schedule(steps: int) -> Callable[[int], bool]:
    """Return which steps to record: the first ten, about forty more, and the last."""
    stride = max(1, steps // 40)

    def due(step: int) -> bool:
        return step < steps and (step < _FIRST_STEPS or step % stride == 0 or step == steps - 1)

    return due
