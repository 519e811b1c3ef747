"""Training that is looked at, with a progress bar for each network, and its frame as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import TaskID

from sigprop.cli.console import progress
from sigprop.experiments.observed import Look, observe
from sigprop.experiments.training import Plan


def observed(
    names: Sequence[str], data: str, look: Look, plan: Plan, path: Path, **how: Any
) -> pd.DataFrame:
    """Return what `observe` returns, show how far it is, and write it as CSV.

    Args:
        names: of the zoo, or ``module:factory``.
        data: name of a data set, or its folder.
        look: what is measured.
        plan: how long and how fast to train.
        path: of the CSV file; the folder around it holds what resuming needs.
        how: the other arguments of `observe`.

    Returns:
        One row per network, step and measurement.
    """
    with progress() as bar:
        tasks: dict[str, TaskID] = {}

        def show(name: str, step: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=plan.steps)
            bar.update(tasks[name], completed=step)

        found = observe(
            {name: name for name in names},
            data,
            look,
            plan,
            on_look=show,
            directory=path.parent,
            **how,
        )
    found.to_csv(path, index=False)
    return found
