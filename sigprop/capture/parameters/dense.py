"""Parameters that lie densely in CPU memory: read together, in one call of the compiled library."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sigprop.capture.parameters.known import Known
from sigprop.signals import native
from sigprop.signals.ratios import UNIT_FLOOR

Array = npt.NDArray[np.float64]

_STRIDED = torch.strided


class _Dense:
    """One parameter, and what of it was decided when the table was made.

    Attributes:
        row: its row among all parameters.
        before: the weights before the optimizer's step.
    """

    __slots__ = ("address", "before", "dtype", "parameter", "row", "strides", "updated")

    def __init__(self, row: int, known: Known) -> None:
        self.parameter, self.row, self.updated = known.parameter, row, known.updated
        self.dtype, self.strides = known.parameter.dtype, known.parameter.stride()
        self.address = known.parameter.data_ptr()
        self.before: Tensor | None = None


class DenseParameters:
    """Reads weights, gradients and updates of many parameters at once.

    What does not change from step to step (types, shapes, where weights lie) is written once into
    the table that the library is given; addresses of gradients are written in every step.

    Args:
        parameters: parameters that `supported` returns, each with its row among all.

    Attributes:
        rows: the rows of the parameters.
    """

    def __init__(self, parameters: Iterable[tuple[int, Known]]) -> None:
        self._entries = [_Dense(row, known) for row, known in parameters]
        self.rows = [entry.row for entry in self._entries]
        self._table = np.zeros((len(self._entries), 6), dtype=np.int64)
        for line, entry in zip(self._table, self._entries, strict=True):
            shape = entry.parameter.shape
            several = sum(size > 1 for size in shape) > 1
            units = shape[0] if several else 1
            kind = native.TYPES[entry.dtype]
            line[:] = entry.address, 0, kind, units, entry.parameter.numel() // units, 0
        self._moved: list[_Dense] = []

    def read(self, remember: bool) -> tuple[Array, list[int]]:
        """Return norms as `sigprop.signals.norms.compute_norms` does, and the rows left out.

        Left out are parameters whose memory or whose gradient is not as it was: sparse, of another
        layout, or moved. Without a gradient its columns are NaN.

        Args:
            remember: copy those that the optimizer is about to update, for `compare`.
        """
        gradients: list[int] = []
        copies: list[int] = []
        missing: list[bool] = []
        odd: list[int] = []
        self._moved = []
        for entry in self._entries:  # at every parameter in every step: nothing is called here
            parameter, copy = entry.parameter, 0
            grad, address = parameter.grad, entry.address
            if parameter.data_ptr() != address or parameter.dtype is not entry.dtype:
                address, grad = 0, None
            elif grad is not None:
                address = 0
                if (
                    type(grad) is Tensor
                    and grad.layout is _STRIDED
                    and grad.dtype is entry.dtype
                    and grad.stride() == entry.strides
                    and not grad.is_neg()
                ):
                    address = grad.data_ptr()
                    if remember and entry.updated:
                        if entry.before is None:
                            entry.before = torch.empty_like(parameter, requires_grad=False)
                        copy = entry.before.data_ptr()
                        self._moved.append(entry)
            if address == 0:
                odd.append(entry.row)
            gradients.append(address)
            copies.append(copy)
            missing.append(grad is None)
        table = self._table
        table[:, 1], table[:, 5] = gradients, copies
        norms = np.full((len(table), 3), np.nan)
        read = np.flatnonzero(table[:, 1]) if odd else slice(None)
        norms[read] = self._norms(table[read])
        norms[missing, 1:] = np.nan
        return norms, odd

    def _norms(self, table: npt.NDArray[np.int64]) -> Array:
        out = np.empty((len(table), 3))
        if not len(table):
            return out
        assert native.LIBRARY is not None
        where = len(table), table.ctypes.data, UNIT_FLOOR, torch.get_num_threads()
        native.LIBRARY.sigprop_norms(*where, out.ctypes.data)
        return out

    def compare(self) -> tuple[Array, list[int]]:
        """Return updates as `sigprop.signals.norms.compute_updates` does, and their rows."""
        moved, self._moved = self._moved, []
        kept = [
            entry
            for entry in moved
            if entry.parameter.grad is not None and entry.parameter.data_ptr() == entry.address
        ]
        rows = [entry.row for entry in kept]
        out = np.empty((len(rows), 3))
        if kept:
            lines = {entry.row: line for line, entry in enumerate(self._entries)}
            table = self._table[[lines[row] for row in rows]]
            table[:, 1], table[:, 0] = table[:, 0], table[:, 5]
            assert native.LIBRARY is not None
            where = len(rows), table.ctypes.data, torch.get_num_threads(), out.ctypes.data
            native.LIBRARY.sigprop_updates(*where)
        return out, rows

    def forget_copies(self) -> None:
        """Let go of the copies' memory."""
        for entry in self._entries:
            entry.before = None


def supported(parameter: nn.Parameter, unit_dim: int) -> bool:
    """Return whether a parameter can be read together with others.

    Args:
        parameter: any.
        unit_dim: the axis of its output units.
    """
    return unit_dim == 0 and native.supports(parameter) and native.alike(parameter, parameter)
