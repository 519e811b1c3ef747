"""Numbers as text: factors, shares, ranges of blocks, table cells. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real


def number(value: float) -> str:
    """Return three significant digits; powers of ten where zeros would have to be counted.

    Example:
        >>> number(2.0), number(1.1e9), number(0.00042), number(31.04), number(250), number(0)
        ('2.00', '1.1e9', '4.2e-4', '31.0', '250', '0')
    """
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "undefined"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".removesuffix(".")
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(power)}"


def factor(value: float) -> str:
    """Return a factor such as ``×2.01``."""
    return f"×{number(value)}"


def share(value: float) -> str:
    """Return a share in per cent.

    Example:
        >>> share(0.961), share(0.0004), share(0.0), share(1e-15)
        ('96 %', '0.04 %', '0 %', '0.01 %')
    """
    per_cent = max(100 * value, 0.01) if value > 0 else 0.0  # "within 1e-13 %" is rounding error
    return f"{per_cent:.0f} %" if per_cent >= 1 or per_cent == 0 else f"{per_cent:.1g} %"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    Args:
        count: how many.
        noun: in the singular; its plural ends in s.

    Example:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def known(value: object) -> bool:
    """Return whether a cell of the summary holds a value.

    Example:
        >>> import pandas as pd
        >>> known(float("nan")), known(pd.NA), known(0)
        (False, False, True)
    """
    # pandas' NA is compared by its class: pandas need not be imported for a run without frames
    return value is not None and type(value).__name__ != "NAType" and value == value


def cell(value: object) -> str:
    """Return a table cell: four significant digits, ``–`` for what is missing.

    Example:
        >>> cell(0.123456), cell(float("nan")), cell(7), cell(True), cell("name")
        ('0.1235', '–', '7', 'yes', 'name')
    """
    if not known(value):
        return "–"
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return f"{float(value):.4g}"
    return str(value)


def ranges(marked: Iterable[int], everywhere: Iterable[int], unit: str = "block") -> str:
    """Return in words which of ``everywhere`` are ``marked``.

    Args:
        marked: numbers of blocks or steps.
        everywhere: all that there are; those next to each other here are neighbors.
        unit: what is numbered.

    Example:
        >>> ranges([2, 3], range(4)), ranges([0, 1], range(4)), ranges(range(4), range(4))
        ('from block 2', 'up to block 1', 'at every block')
        >>> ranges([1], range(4)), ranges([1, 3, 4, 5], range(9))
        ('at block 1', 'at blocks 1, 3–5')
    """
    known = sorted(set(everywhere))
    found = sorted(set(marked))
    if found == known and len(known) > 1:
        return f"at every {unit}"
    runs = _runs([known.index(index) for index in found])
    if len(found) == 1:
        return f"at {unit} {found[0]}"
    if len(runs) == 1 and found[-1] == known[-1]:
        return f"from {unit} {found[0]}"
    if len(runs) == 1 and found[0] == known[0]:
        return f"up to {unit} {found[-1]}"
    words = [
        f"{known[first]}" if first == last else f"{known[first]}–{known[last]}"
        for first, last in runs
    ]
    shown = ", ".join(words[:6]) + (" and more" if len(words) > 6 else "")
    return f"at {unit}s {shown}"


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and runs[-1][1] == position - 1:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return runs
