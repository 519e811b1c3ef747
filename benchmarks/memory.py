"""The most memory that a step holds, with a tool and without, each in a process of its own.

Two measures. Tensors: the highest running total of torch's own allocations, from the profiler's
record of every one of them; exact, and the same each time, but blind to memory taken elsewhere.
Resident: the process's high-water mark over three steps, reset before them; it sees everything,
Python's objects and native buffers too, in pages. (`ru_maxrss` would not do: it starts at the
high-water mark of the parent process.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.handwritten import on_leaves
from benchmarks.subjects import SUBJECTS, Training
from benchmarks.tools import TOOLS, Watch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def keeps(training: Training) -> Iterator[Watch]:
    """Keep the output of every leaf until the next step."""
    kept: list[Tensor] = []

    def step() -> None:
        kept.clear()
        training.step()

    handles = on_leaves(training, lambda x: kept.append(x.clone()), backward=False)
    yield Watch(step, lambda: sum(x.numel() for x in kept))
    for handle in handles:
        handle.remove()


#: Beside the tools a control: what a measurement of memory has to notice.
ATTACH = {name: tool.attach for name, tool in TOOLS.items()} | {"keeps every output": keeps}
SHOWN = ("bare", "sigprop, blocks", "sigprop, leaves", "keeps every output")

#: Without ResNet-50: its blocks are those of the ResNet-20, and would take minutes more.
SHOWN_SUBJECTS = [subject for subject in SUBJECTS if "ResNet-50" not in subject]


def highest_total(events: Iterable[Mapping[str, Any]]) -> int:
    """Return the most bytes allocated at once, from the events of a profiler's trace.

    Example:
        >>> sizes = {3: +8, 1: +4, 2: -4}
        >>> highest_total({"name": "[memory]", "ts": t, "args": {"Device Type": 0, "Bytes": b}}
        ...               for t, b in sizes.items())
        8
    """
    changes = sorted(
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0
    )
    total = highest = 0
    for _, size in changes:
        total += size
        highest = max(highest, total)
    return highest


def tensors(subject: str, name: str) -> int:
    """Return the bytes of all tensors at the worst moment of three steps, weights included."""
    training = SUBJECTS[subject]
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record,
        ATTACH[name](training(torch.device("cpu"))) as watch,
    ):
        for _ in range(3):
            watch.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        record.export_chrome_trace(str(path))
        return highest_total(json.loads(path.read_text())["traceEvents"])


def forget_peak() -> None:
    """Make the process's high-water mark start anew, where there is `RESET`."""
    RESET.write_text("5")  # proc(5): the peak resident size


def peak() -> int:
    """Return the most bytes that the process has held since then."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def resident(subject: str, name: str) -> int:
    """Return the bytes of the process at the worst moment of three steps, after two others."""
    with ATTACH[name](SUBJECTS[subject](torch.device("cpu"))) as watch:
        for step in range(5):
            if step == 2:
                forget_peak()
            watch.step()
    return peak()


def apart(subject: str, name: str) -> dict[str, float]:
    """Return both measures of one tool in megabytes, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", subject, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {measure: size / 1e6 for measure, size in json.loads(done.stdout).items()}


def main(quick: bool = False) -> pd.DataFrame:
    """Return a row a subject, tool and measure."""
    rows = []
    for subject in SHOWN_SUBJECTS[: 1 if quick else None]:
        print(f"{subject}: memory", flush=True)
        sizes = {name: apart(subject, name) for name in (SHOWN[::2] if quick else SHOWN)}
        rows += [
            {
                "subject": subject,
                "tool": name,
                "measure": measure,
                "MB": size,
                "ratio": size / sizes["bare"][measure],
            }
            for name, measures in sizes.items()
            for measure, size in measures.items()
        ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Resident first: the profiler's own record of allocations is memory too.
    found = {"resident": resident(*sys.argv[1:])} if RESET.exists() else {}
    print(json.dumps({**found, "tensors": tensors(*sys.argv[1:])}))
