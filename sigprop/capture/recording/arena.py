"""Memory for the readings of a step, kept for the next."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprop.signals.columns import COLUMNS

#: Rows of a block: 360 kB.
_BLOCK = 4096


class Arena:
    """Tables on the CPU, cut from a few large blocks.

    Allocated one by one they would lie between the activations of a forward pass and live longer:
    the allocator could not use that memory again as it does without a probe, and would have to get
    fresh pages in every step, which takes as long as the readings themselves.

    Example:
        >>> arena = Arena()
        >>> first, second = arena.table(3), arena.table(2)
        >>> arena.clear()
        >>> tuple(first.shape), arena.table(3).data_ptr() == first.data_ptr()
        ((3, 11), True)
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._block = self._row = 0

    def table(self, channels: int) -> Tensor:
        """Return an uninitialized table, shape (channels, len(COLUMNS)), in float64."""
        while True:
            if self._block == len(self._blocks):
                rows = max(_BLOCK, channels)
                with torch.inference_mode(False):  # one made in evaluation serves training too
                    made = torch.empty(rows, len(COLUMNS), dtype=torch.float64, device="cpu")
                self._blocks.append(made)
            block = self._blocks[self._block]
            row, rows = self._row, block.shape[0]
            if row + channels <= rows:
                self._row += channels
                return block.narrow(0, row, channels)
            self._block, self._row = self._block + 1, 0

    def clear(self) -> None:
        """Take all tables back: their memory is given out again."""
        self._block = self._row = 0
