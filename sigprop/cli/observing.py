"""Training that is looked at, with a progress bar for each network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.progress import TaskID

from sigprop.cli.console import progress
from sigprop.experiments.observed import Look, observe
from sigprop.experiments.training import Plan


def observed(names: Sequence[str], data: str, look: Look, plan: Plan, **how: Any) -> pd.DataFrame:
    """Return what `observe` returns, and show how far it is.

    Args:
        names: of the zoo, or ``module:factory``.
        data: name of a data set, or its folder.
        look: what is measured.
        plan: how long and how fast to train.
        how: the other arguments of `observe`.
    """
    with progress() as bar:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, step: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=plan.steps)
            bar.update(tasks[name], completed=step)

        return observe({name: name for name in names}, data, look, plan, on_look=tell, **how)
