"""How long a step takes: devices' clocks, interleaved rounds, ratios with intervals."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd
import torch
from scipy import stats

Step = Callable[[], Any]
Clock = Callable[[Step], float]


def cpu_seconds(step: Step) -> float:
    """Return the processor time of a step: other work on the machine disturbs it little."""
    start = time.process_time()
    step()
    return time.process_time() - start


def wall_seconds(step: Step) -> float:
    """Return the time that passes during a step, in which several threads may work."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def cuda_seconds(step: Step) -> float:
    """Return a step's time on the current CUDA stream, between two events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def best_device() -> torch.device:
    """Return the CUDA device where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock_of(device: torch.device) -> Clock:
    """Return the clock that sees the work of a step on ``device``."""
    return cuda_seconds if device.type == "cuda" else cpu_seconds


def affordable(seconds: float, budget: float, least: int = 5, most: int = 200) -> int:
    """Return how many rounds of so many seconds fit a budget, within bounds."""
    return max(least, min(most, int(budget / seconds)))


def interleave(
    steps: Mapping[str, Step], rounds: int, clock: Clock = cpu_seconds, seed: int = 0
) -> pd.DataFrame:
    """Return the seconds of every step, one row a round and one column a name.

    Each round takes the steps in another order: what a machine does meanwhile, and what the step
    before left in its caches, falls on all of them alike.
    """
    shuffle, order, table = random.Random(seed).shuffle, list(steps), []
    for _ in range(rounds):
        shuffle(order)
        table.append({name: clock(steps[name]) for name in order})
    return pd.DataFrame(table, columns=list(steps))


def median_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval of the median, from order statistics: of any distribution.

    With fewer than six values it is the range, which covers less than 95 %.

    Example:
        >>> median_interval(range(1, 11))
        (2, 9)
    """
    ordered = sorted(values)
    below = int(stats.binom.ppf((1 - confidence) / 2, len(ordered), 0.5))
    low = max(below - 1, 0)
    return ordered[low], ordered[-1 - low]


def ratios(times: pd.DataFrame, baselines: Mapping[str, str]) -> pd.DataFrame:
    """Return a row a column of ``times``: milliseconds, and the ratio to its baseline.

    A ratio is the median of the rounds' ratios, in which the drift of a machine's speed cancels.

    Args:
        times: seconds, as `interleave` returns them.
        baselines: name -> the name that it is compared with.
    """
    rows = []
    for name, base in baselines.items():
        ratio = times[name] / times[base]
        low, high = median_interval(ratio)
        added = 1e3 * statistics.median(times[name] - times[base])
        rows.append(
            {
                "tool": name,
                "ms": 1e3 * times[name].median(),
                "ratio": ratio.median(),
                "low": low,
                "high": high,
                "added ms": added,
                "rounds": len(times),
            }
        )
    return pd.DataFrame(rows)
