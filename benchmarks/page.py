"""The page beside the tables: on which machine, what was measured, and what does not run."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch

from benchmarks.tools import PARAMETER_NUMBERS, SIGNAL_NUMBERS, TOOLS

COMMAND = "make benchmarks"

#: The aims: a peer's number costs at least so many of sigprop's; a long run's report, seconds.
TIMES, REPORT = 3, 20


def machine(device: torch.device) -> pd.DataFrame:
    """Return what a reader must know of the machine to compare, one row a fact."""
    facts = {
        "processor": processor(),
        "cores": f"{os.cpu_count()}, of which {torch.get_num_threads()} used",
        "accelerator": accelerator(device),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    return pd.DataFrame({"fact": list(facts), "value": list(facts.values())})


def processor() -> str:
    """Return the processor's model; what the platform knows where there is no /proc/cpuinfo."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def accelerator(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "none: the same command times CUDA events where there is one; that has not been run"


def version_of(package: str) -> str:
    """Return the version of a package: empty for none, or that it is not installed."""
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return "not installed"


def tools() -> pd.DataFrame:
    """Return what each tool but sigprop records, as a table."""
    return pd.DataFrame(
        {
            "tool": name,
            "version": version_of(tool.package),
            "records": tool.records,
            "of": tool.passes,
            "of sigprop's columns": ", ".join(tool.covers) or "none",
            "compared with": tool.against,
        }
        for name, tool in TOOLS.items()
        if tool.against
    )


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """Return a table as Markdown; what is not there is a dash."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "–" if value != value else f"{value:.{digits}g}"
        return str(value).replace("|", "\\|")

    lines = [list(table.columns), ["---"] * table.shape[1]]
    lines += [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def across(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one column of the overhead table, a row a tool and a column a subject."""
    wide = table.pivot_table(column, "tool", "subject", sort=False)
    wide = wide.reindex(index=table["tool"].unique(), columns=table["subject"].unique())
    wide.columns = [network(subject) for subject in wide.columns]
    return wide.dropna(how="all").reset_index()


def network(subject: str) -> str:
    """Return a subject's name without its sizes."""
    return subject.partition(",")[0]


def short_of_aim(overhead: pd.DataFrame) -> str:
    """Return the tools of which a number costs less than the aim, on which networks and how much.

    Example:
        >>> rows = [("mup", "MLP, small", 2.96), ("mup", "CNN, small", 1.2), ("delve", "MLP", 3.1)]
        >>> short_of_aim(pd.DataFrame(rows, columns=["tool", "subject", "per number"]))
        'mup (MLP 2.96, CNN 1.20)'
    """
    short: dict[str, list[str]] = {}
    for row in overhead[overhead["per number"] < TIMES].to_dict("records"):
        where = f"{network(row['subject'])} {row['per number']:.2f}"
        short.setdefault(row["tool"], []).append(where)
    return "; ".join(f"{tool} ({', '.join(where)})" for tool, where in short.items()) or "none"


def write(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the page of ``tables`` into their folder."""
    facts, overhead = tables["machine"], tables["overhead"]
    failed = overhead[overhead["status"] != "measured"][["tool", "subject", "status"]]
    compared = overhead[overhead["over sigprop"].notna()]
    memory = tables["memory"].assign(row=lambda t: t["subject"] + ", " + t["measure"])
    memory = memory.pivot_table("ratio", "row", "tool", sort=False)
    columns = ["subject", "tool", "ms", "ratio", "low", "high", "MB", "limit", "rounds"]
    alone, threads = tables["alone"][columns], tables["threads"][["threads", *columns]]
    taps = tables["taps"].query("call == 'compute(x)'")[["tensor", "MB", "ms", "ratio"]]
    equal = overhead["tool"].str.endswith("equal numbers")
    rows, spectra = tables["rows"], tables["spectra"]
    (reported,) = rows.loc[rows["stage"] == "report", "seconds"]
    ways = ["way", "ms", "ratio", "low", "high", "error", "status"]
    (folder / "README.md").write_text(f"""# What a probe costs

Made by `{COMMAND}` ([what is behind it](../../benchmarks/README.md)).
{"; ".join(f"{row.fact}: {row.value}" for row in facts.itertuples())}.

![The time of a step with each tool over the bare step, four networks](overhead.png)

Ratios of a step's processor time to that of the bare step, interleaved in one process and in a new
order every round; medians, intervals in [overhead.csv](overhead.csv). Every tool records every
step, but "off-step". "Bare, again" is a second copy of the bare network: what it differs from 1
is noise. Compiled steps are compared with the bare compiled step. Processor time leaves out the
service process that wandb writes with.

{markdown(across(overhead, "ratio"))}

## By itself

In a process with no other tool, one and the same network is probed in each way and bare in turn:
the more exact of the two tables. A "round" is three steps of each; "low" to "high" is an interval
of the median, of 95 %.

"MB" are the bytes that the numbers of a step depend on: each activation and gradient once, each
weight and its gradient once, and each weight once more after its update. "limit" is the ratio of a
probe that would take as long as to read them once, at the bandwidth of this machine, and no longer.

{markdown(alone, 4)}

With as many threads as PyTorch takes by itself, by the time that passes:

{markdown(threads, 4)}

## On equal metrics

What each tool adds to a step, over what sigprop adds recording at least as much: below 1 the tool
is cheaper. Most record far less: one number where sigprop records eight, or no gradients.

{markdown(across(compared, "over sigprop"))}

So, the same for each number recorded, where the numbers are of the same kind:

{markdown(across(compared, "per number"))}

The aim is {TIMES} or more for every tool on every network. Below it, of the tools that take
sigprop's own numbers of a tensor ("equal numbers"): {short_of_aim(overhead[equal])}. Of the others:
{short_of_aim(overhead[~equal])}. Among sigprop's numbers are seven of each parameter, some of them
ratios of others; the table before this one counts no numbers.

Microseconds added for each number recorded:

{markdown(across(overhead, "µs a number"))}

## What each records

sigprop records, of every tensor's activation and gradient: {", ".join(SIGNAL_NUMBERS)}; of every
parameter: {", ".join(PARAMETER_NUMBERS)}. The others, each step:

{markdown(tools())}

## What does not run

{markdown(failed) if len(failed) else "Everything ran."}

## The statistics of one tensor

Of one tensor, as a multiple of the time of `x.sum()`, which reads it once.

{markdown(taps)}

## Memory

The most that three steps hold, over the same without a tool: `tensors` are torch's own
allocations, exactly; `resident` is the whole process with its libraries.

{markdown(memory.reset_index(), 4)}

## A long run

{rows["signal rows"][0]:,} rows of signals and {rows["parameter rows"][0]:,} of parameters, kept by
column as a probe keeps them, written in ten parts, loaded, saved and reported, each once. The
report of a million rows is to take {REPORT} s at most; this one took {reported:.1f} s.

{markdown(rows.drop(columns=["signal rows", "parameter rows"]), 4)}

## Spectra

All {spectra["singular values"][0]:,} singular values of {spectra["layers"][0]} layers of a
ResNet-50 ({spectra["weights"][0]:,} weights): processor time, over that of sigprop, and the largest
deviation from numpy's in float64, over the weight's largest. weightwatcher
{version_of("weightwatcher")} calls the LAPACK routine that numpy calls, so that it cannot deviate.

{markdown(spectra[ways])}

## Growth

A residual MLP of 10 blocks, width 128, batch 128, of which one grows.

![Milliseconds a step, and the ratio to the bare step, over depth, width and batch](growth.png)
""")
