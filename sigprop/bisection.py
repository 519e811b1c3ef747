"""Where a condition begins to fail along a positive axis: doubling, halving, then bisection."""

from __future__ import annotations

import math
from collections.abc import Callable


def bracket(
    fails: Callable[[float], bool], guess: float, precision: float, reach: int = 40
) -> tuple[float, float]:
    """Return two neighboring values, of which the first passes and the second fails.

    Args:
        fails: whether the condition fails at a value; it is taken to fail at all larger ones.
        guess: the value that is tried first; it is doubled or halved until it brackets the edge.
        precision: the two values differ by at most this, relative.
        reach: how many times it is doubled or halved at most.

    Returns:
        The largest known value that passes and the smallest that fails; two zeros where all that
        were tried fail, two infinities where all pass.

    Example:
        >>> low, high = bracket(lambda x: x >= 3, guess=1.0, precision=0.01)
        >>> low < 3 <= high < 1.01 * 3
        True
    """
    downwards = fails(guess)
    for _ in range(reach):
        following = guess / 2 if downwards else 2 * guess
        if fails(following) != downwards:
            break
        guess = following
    else:
        return (0.0, 0.0) if downwards else (math.inf, math.inf)
    low, high = sorted((guess, following))
    while high / low > 1 + precision:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fails(middle) else (middle, high)
    return low, high
