"""What each tool adds to a training step: every subject, every tool, interleaved.

A tool that cannot be attached, or does not survive a step, stays in the table with its reason.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch

import benchmarks.handwritten  # noqa: F401
import benchmarks.peers  # noqa: F401  (both file their tools)
from benchmarks.measure import affordable, best_device, clock_of, interleave, ratios
from benchmarks.subjects import SUBJECTS
from benchmarks.tools import TOOLS, Watch

#: These are compiled too; the larger ones would take many minutes.
COMPILED = tuple(SUBJECTS)[:2]


def reason(error: BaseException) -> str:
    """Return an error as one line of a table."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:200]


def survey(subject: str, names: Sequence[str], device: torch.device, budget: float) -> pd.DataFrame:
    """Return one row a tool: how long a step of ``subject`` takes with it.

    Args:
        subject: a key of `SUBJECTS`.
        names: keys of `TOOLS`, the baselines among them.
        device: where to train.
        budget: seconds to spend on the rounds; there are five at least.
    """
    watches: dict[str, Watch] = {}
    failed: dict[str, str] = {}
    first: dict[str, float] = {}
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a tool has to say, it says in the table
        for name in names:
            try:
                training = SUBJECTS[subject](device)
                watch = stack.enter_context(TOOLS[name].attach(training))
                start = time.perf_counter()
                watch.step()
                first[name] = time.perf_counter() - start
                watches[name] = watch
            except Exception as error:
                failed[name] = reason(error)
        clock = clock_of(device)
        once = sum(clock(watch.step) for watch in watches.values())
        steps = {name: watch.step for name, watch in watches.items()}
        times = interleave(steps, affordable(once, budget), clock)
        recording = {name: watch for name, watch in watches.items() if TOOLS[name].passes}
        numbers = {name: watch.numbers() for name, watch in recording.items()}
    failed |= {name: "it recorded nothing" for name, count in numbers.items() if count == 0}
    kept = {name: TOOLS[name].baseline for name in watches if name not in failed}
    table = ratios(times, {n: base for n, base in kept.items() if base in times})
    table["numbers"] = table["tool"].map(numbers)
    table["first step s"] = table["tool"].map(first)
    table = table.set_index("tool").reindex(list(names)).rename_axis("tool").reset_index()
    table["status"] = [failed.get(name, "measured") for name in names]
    table.insert(0, "subject", subject)
    return table


def apart(subject: str, names: Sequence[str], budget: float) -> pd.DataFrame:
    """Return the same table, made in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.csv")
        command = [sys.executable, "-m", "benchmarks.overhead", subject, str(budget), str(path)]
        done = subprocess.run([*command, *names], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return pd.read_csv(path)
    words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return pd.DataFrame({"subject": subject, "tool": names, "status": words[-1][:200]})


def groups(subject: str) -> Iterable[tuple[bool, list[str]]]:
    """Yield (in a process of its own, tools) for what is measured together."""
    eager = [name for name, tool in TOOLS.items() if not tool.alone and not tool.compiled]
    yield False, eager
    yield True, ["bare", *(name for name, tool in TOOLS.items() if tool.alone)]
    if subject in COMPILED:
        yield False, [name for name, tool in TOOLS.items() if tool.compiled]


def with_costs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with what one number costs, and each tool's cost over sigprop's.

    `over sigprop` is the time that a tool adds over what sigprop adds with at least its numbers;
    `per number` is the same, each divided by the numbers recorded.
    """
    table = table.copy()
    table["µs a number"] = 1e3 * table["added ms"] / table["numbers"]
    ours = table.set_index(["subject", "tool"])
    for column, new in (("added ms", "over sigprop"), ("µs a number", "per number")):
        compared = [TOOLS[tool].against for tool in table["tool"]]
        against = pd.MultiIndex.from_arrays([table["subject"], compared])
        table[new] = table[column].to_numpy() / ours[column].reindex(against).to_numpy()
    # Numbers of another kind (histograms, covariances) have no price in sigprop's.
    priced = table["tool"].map(lambda name: bool(TOOLS[name].covers))
    table["per number"] = table["per number"].where(priced)
    return table


def main(device: torch.device, quick: bool = False) -> pd.DataFrame:
    """Return the whole table; quick, of one subject and without compiling."""
    tables = []
    for subject in list(SUBJECTS)[: 1 if quick else None]:
        for alone, names in groups(subject):
            if quick and TOOLS[names[0]].compiled:
                continue
            budget = (2.0 if quick else 25.0) / (1 if "sigprop, leaves" in names else 3)
            print(f"{subject}: {len(names)} ways", flush=True)
            tables.append(
                apart(subject, names, budget) if alone else survey(subject, names, device, budget)
            )
            torch.compiler.reset()
    return with_costs(pd.concat(tables).drop_duplicates(["subject", "tool"]))


if __name__ == "__main__":
    subject, budget, path, *names = sys.argv[1:]
    torch.set_num_threads(1)
    survey(subject, names, best_device(), float(budget)).to_csv(path, index=False)
