"""Numbers as the page holds them: typed arrays in base64, and fewer of them where there are many.

Plotly takes such arrays as they are. They are half as long as the same numbers written out.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: A typed array: ``{"dtype": "f4", "bdata": base64}``; little-endian.
Packed = dict[str, str]

T = TypeVar("T")


def packed(values: ArrayLike) -> Packed:
    """Return numbers as a typed array.

    They keep seven digits (float32), or all of them (float64) where one is too large or too small
    for that.

    Args:
        values: numbers of any shape, flattened row by row.

    Example:
        >>> packed([1.0, 2.0])
        {'dtype': 'f4', 'bdata': 'AACAPwAAAEA='}
        >>> packed([1e300])["dtype"]
        'f8'
    """
    array = np.asarray(values, dtype="<f8").ravel()
    sizes = np.abs(array[np.isfinite(array) & (array != 0)])
    limits = np.finfo(np.float32)
    fits = not len(sizes) or (sizes.min() >= limits.tiny and sizes.max() <= limits.max)
    return _encoded(array.astype("<f4") if fits else array, "f4" if fits else "f8")


def packed_bytes(values: ArrayLike) -> Packed:
    """Return small whole numbers as a typed array of bytes.

    Args:
        values: numbers from 0 to 255 of any shape, flattened row by row.
    """
    return _encoded(np.asarray(values, dtype="u1").ravel(), "u1")


def _encoded(array: NDArray[np.generic], dtype: str) -> Packed:
    return {"dtype": dtype, "bdata": base64.b64encode(array.tobytes()).decode("ascii")}


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return at most so many of the items, evenly spread, the first and the last among them.

    Args:
        items: in order.
        most: how many; at least two.

    Example:
        >>> spread(range(9), 3), spread("ab", 5)
        ([0, 4, 8], ['a', 'b'])
    """
    if len(items) <= most:
        return list(items)
    at = np.linspace(0, len(items) - 1, most).round().astype(int)
    return [items[index] for index in at]


def extremes(values: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """Return where the smallest and largest of neighboring values are, so that no spike is lost.

    Args:
        values: in order.
        most: how many positions to return, about.

    Example:
        >>> extremes(np.array([0.0, 0, 9, 0, 0, 0, 0, 1]), 4).tolist()
        [0, 2, 4, 7]
    """
    if len(values) <= most:
        return np.arange(len(values))
    parts = np.array_split(np.arange(len(values)), max(most // 2, 1))
    known = np.where(np.isnan(values), -np.inf, values)
    found = {int(part[pick(known[part])]) for part in parts for pick in (np.argmin, np.argmax)}
    return np.array(sorted(found), dtype=np.intp)
