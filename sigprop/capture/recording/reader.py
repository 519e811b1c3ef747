"""Reads the tensors of one tap: what it takes is decided at the first of a shape and layout."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sigprop.capture.recording.accumulator import Accumulator
from sigprop.capture.recording.pair_products import PairProducts
from sigprop.capture.recording.tap import Tap
from sigprop.capture.recording.tensor_statistics import TensorStatistics
from sigprop.capture.torch_internals import ordinary
from sigprop.signals import native
from sigprop.signals.channel_statistics import compute, dense_layout, readable
from sigprop.signals.correlation import compute_products, supports_products

_STRIDED = torch.strided
_threads = torch.get_num_threads


class _Form:
    """What decides how a tensor on the CPU is read: type, shape and strides.

    Attributes:
        layout: the same as the compiled library takes it.
    """

    __slots__ = ("dtype", "kind", "layout", "shape", "strides")

    def __init__(self, x: Tensor, layout: ctypes.Array[ctypes.c_int64]) -> None:
        self.kind, self.dtype, self.shape, self.strides = type(x), x.dtype, x.shape, x.stride()
        self.layout = layout


class TensorReader:
    """Computes the channel statistics of one tap's tensors.

    While type, shape, device and memory layout stay, that is one call of the compiled library.

    Args:
        accumulator: where the statistics go.
        channel_dim: the axis of the channels.
    """

    __slots__ = (
        "_accumulator",
        "_channel_dim",
        "_channels",
        "_compute",
        "_form",
        "_unused",
        "_waiting",
    )

    def __init__(self, accumulator: Accumulator, channel_dim: int) -> None:
        self._accumulator, self._channel_dim = accumulator, channel_dim
        self._waiting = accumulator.waiting
        self._form: _Form | None = None
        self._compute: Callable[..., None] | None = None
        self._unused: list[TensorStatistics] = []
        self._channels = 0

    def read(self, x: Tensor) -> TensorStatistics | None:
        """Issue the work of a tensor's statistics. Nothing is waited for.

        Called at every tap: only what follows from the tensor's form is asked here.

        Args:
            x: any tensor.

        Returns:
            The statistics, which are computed later; None where it has none.
        """
        form = self._form
        if (
            form is None
            or type(x) is not form.kind
            or x.dtype is not form.dtype
            or x.shape != form.shape
            or not x.is_cpu
            or x.layout is not _STRIDED
            or x.stride() != form.strides
            or x.is_neg()
        ):
            if not (readable(x) and ordinary(x)):
                return None
            form = self._prepare(x)
            if form is None:
                statistics = TensorStatistics(compute(x, self._channel_dim))
                self._waiting.append(statistics)
                return statistics
        try:
            statistics = self._unused.pop()
        except IndexError:
            statistics = self._accumulator.arena.new(self._channels)
        assert self._compute is not None
        self._compute(form.layout, x.data_ptr(), _threads(), statistics.address)
        self._waiting.append(statistics)
        return statistics

    def _prepare(self, x: Tensor) -> _Form | None:
        """Return how the compiled library reads tensors like this one; None where it does not."""
        self._form = None
        if not native.supports(x):
            return None
        sizes = dense_layout(x, self._channel_dim % x.ndim if x.ndim else 0)
        if sizes is None:
            return None
        assert native.LIBRARY is not None
        self._compute = native.LIBRARY.sigprop_channel_statistics
        self._channels = sizes[2]
        self._unused = self._accumulator.arena.unused(self._channels)
        self._form = _Form(x, (ctypes.c_int64 * 4)(*sizes))
        return self._form


class ProductReader:
    """Computes the products of the two operands at one addition, in the same way.

    Args:
        accumulator: where the products go.
    """

    __slots__ = ("_accumulator", "_compute", "_form", "_unused")

    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = accumulator
        self._form: _Form | None = None
        self._compute: Callable[..., None] | None = None
        self._unused: list[PairProducts] = []

    def hold(self, skip: Tensor, branch: Tensor) -> Callable[[Tap], None]:
        """Issue the work of two operands that may turn out to be none of an addition.

        Args:
            skip: one operand.
            branch: the other.

        Returns:
            What adds the products to those of the step, as those of a tap.
        """
        sums = compute_products(skip, branch)
        return lambda tap: self._accumulator.add_products(PairProducts(sums, tap))

    def read(self, skip: Tensor, branch: Tensor, tap: Tap) -> None:
        """Issue the work of two readable operands' products.

        Args:
            skip: one operand.
            branch: the other, of the same shape.
            tap: the addition.
        """
        form = self._form
        if (
            form is None
            or type(skip) is not form.kind
            or type(branch) is not form.kind
            or skip.dtype is not form.dtype
            or branch.dtype is not form.dtype
            or skip.shape != form.shape
            or branch.shape != form.shape
            or not (skip.is_cpu and branch.is_cpu)
            or skip.layout is not _STRIDED
            or branch.layout is not _STRIDED
            or skip.stride() != form.strides
            or branch.stride() != form.strides
            or skip.is_neg()
            or branch.is_neg()
        ):
            form = self._prepare(skip, branch)
            if form is None:
                self._accumulator.add_products(PairProducts(compute_products(skip, branch), tap))
                return
        try:
            products = self._unused.pop()
        except IndexError:
            sums = np.ones(5)
            products = PairProducts(sums, tap, sums.ctypes.data, self._unused)
        products.tap = tap
        assert self._compute is not None
        self._compute(form.layout, skip.data_ptr(), branch.data_ptr(), _threads(), products.address)
        self._accumulator.add_products(products)

    def _prepare(self, skip: Tensor, branch: Tensor) -> _Form | None:
        self._form = None
        if native.LIBRARY is None or not supports_products(skip, branch):
            return None
        if skip.stride() != branch.stride():  # alike, but for axes of one element
            return None
        self._compute = native.LIBRARY.sigprop_products
        self._form = _Form(skip, (ctypes.c_int64 * 2)(native.TYPES[skip.dtype], skip.numel()))
        return self._form
