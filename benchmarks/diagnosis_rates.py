"""How often `diagnose` errs: alarms on healthy networks, faults that it misses.

Run: python -m benchmarks.diagnosis_rates [DRAWS]   (writes reports/diagnosis/)

Every draw initializes a network anew. An alarm is any error or warning on a network of a healthy
family; a hit is the finding that the case names, at the block that it names, give or take one.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import beta

import sigprop
from benchmarks.diagnosis_cases import BROKEN, HEALTHY
from benchmarks.page import markdown

DIRECTORY = Path("reports/diagnosis")


def interval(hits: int, of: int) -> str:
    """Return the exact 95 % interval of a share (Clopper & Pearson 1934) in per cent."""
    low = beta.ppf(0.025, hits, of - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, of - hits) if hits < of else 1.0
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def alarms(draws: int) -> pd.DataFrame:
    """Return, by healthy family, how many draws had an error or a warning, and which."""
    rows = []
    for family, make in HEALTHY.items():
        found = [sigprop.diagnose(*make(seed)).at_least("warning") for seed in range(draws)]
        ids = sorted({one for findings in found for one in findings.ids})
        rows.append((family, draws, sum(map(bool, found)), ", ".join(ids)))
    return pd.DataFrame(rows, columns=["healthy family", "draws", "alarms", "what was said"])


def hits(draws: int) -> pd.DataFrame:
    """Return, by fault, in how many draws it was found, and what else was said."""
    rows = []
    for case in BROKEN:
        found = [sigprop.diagnose(*case.make(seed)) for seed in range(draws)]
        said = ", ".join(found[0].ids)
        rows.append((case.name, case.id, case.block, draws, sum(map(case.found_in, found)), said))
    columns = ["fault", "finding", "block", "draws", "found", "all that was said (first draw)"]
    return pd.DataFrame(rows, columns=columns).astype({"block": "Int64"})


def main(draws: int = 10) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", sigprop.ProbeWarning)
    healthy, broken = alarms(draws), hits(max(draws // 5, 1))
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    healthy.to_csv(DIRECTORY / "alarms.csv", index=False)
    broken.to_csv(DIRECTORY / "hits.csv", index=False)
    lines = ["# Error rates of `sigprop diagnose`", ""]
    lines += [f"Made by `python -m benchmarks.diagnosis_rates {draws}`.", ""]
    for name, table, column in (("Alarms", healthy, "alarms"), ("Hits", broken, "found")):
        total, of = int(table[column].sum()), int(table["draws"].sum())
        rate = f"{total} of {of} ({interval(total, of)})"
        lines += [f"## {name}: {rate}", "", markdown(table), ""]
        print(f"{name}: {rate}")
    (DIRECTORY / "README.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
