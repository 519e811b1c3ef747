"""The compiled library: which tensors it supports, or nothing where it was not compiled.

Plain C behind `ctypes`, compiled when the package is installed (hatch_build.py). It computes with
as many threads as PyTorch does, and in the same ones. Every caller has a plain-torch equivalent for
all other cases. ``SIGPROP_NATIVE=0`` in the environment leaves it unused.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from sigprop.errors import ProbeWarning
from sigprop.signals.columns import COLUMNS, POOLED_COLUMNS
from sigprop.signals.native.checksum import sources_checksum

#: Element types that are supported, by their number in C.
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

_POINTER, _INT, _SIZE, _DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double

#: Function -> the types of its arguments; none returns anything.
_FUNCTIONS = {
    "set_thread_pool": [_POINTER],
    "channel_statistics": [_POINTER, _POINTER, _INT, _POINTER],
    "products": [_POINTER, _POINTER, _POINTER, _INT, _POINTER],
    "norms": [_SIZE, _POINTER, _DOUBLE, _INT, _POINTER],
    "updates": [_SIZE, _POINTER, _INT, _POINTER],
    "pool": [_SIZE, _POINTER, _POINTER, _POINTER],
}


def open_library(folder: Path) -> ctypes.CDLL | None:
    """Return the library in a folder, or None.

    One that was compiled from other sources than those beside it, or whose tables have other
    columns than Python's, is not used; a warning says so.
    """
    path = folder / "kernels.so"
    if os.environ.get("SIGPROP_NATIVE") == "0" or not path.exists():
        return None
    library = ctypes.CDLL(str(path))  # lets other threads run while it computes
    reason = _mismatch(library, folder)
    if reason:
        warnings.warn(
            f"the compiled library {path} is not used: {reason}; install sigprop again to compile "
            "it (plain torch computes the same numbers, slower)",
            ProbeWarning,
            stacklevel=2,
        )
        return None
    for name, types in _FUNCTIONS.items():
        function = getattr(library, f"sigprop_{name}")
        function.argtypes, function.restype = types, None
    library.sigprop_set_thread_pool(_thread_pool())
    return library


def _mismatch(library: ctypes.CDLL, folder: Path) -> str:
    """Return what is wrong with an opened library, or ""."""
    checksum = sources_checksum(folder)  # a wheel need not hold the sources
    if checksum and checksum != _text(library, "sources"):
        return "it was compiled from other sources than those beside it"
    for name, columns in (("columns", COLUMNS), ("pooled_columns", POOLED_COLUMNS)):
        found = tuple(_text(library, name).split(",")[:-1])
        if found != columns:
            return f"its {name.replace('_', ' ')} are {found}, not {columns}"
    return ""


def _text(library: ctypes.CDLL, name: str) -> str:
    """Return what a function of the library without arguments says; "" where there is none."""
    function = getattr(library, f"sigprop_{name}", None)
    if function is None:
        return ""
    function.argtypes, function.restype = [], ctypes.c_char_p
    return str(function().decode())


def _thread_pool() -> ctypes._FuncPointer | None:
    """Return what starts the threads that PyTorch computes with; None if they are not OpenMP's."""
    return getattr(ctypes.CDLL(None), "GOMP_parallel", None) if os.name == "posix" else None


#: The library, or None; the one switch between both ways.
LIBRARY = open_library(Path(__file__).parent)


class _Absence:
    """Whether it was said that there is no library."""

    said = os.environ.get("SIGPROP_NATIVE") == "0"  # then the user has said it


def warn_of_absence() -> None:
    """Say once that there is no library, where nobody asked to leave it out."""
    if LIBRARY is not None or _Absence.said:
        return
    _Absence.said = True
    warnings.warn(
        "sigprop was installed without its C library, so that tensors on the CPU are read several "
        "times slower, by plain torch; install a C compiler (gcc), then sigprop again",
        ProbeWarning,
        stacklevel=4,
    )


#: A type of tensors has memory of its own if it leaves dispatch alone, as parameters do.
_OWN_MEMORY = Tensor.__torch_dispatch__


def supports(x: Tensor) -> bool:
    """Return whether the library can work on this tensor: one on the CPU, as it lies in memory.

    The wrappers of `torch.func` have no memory; a compiled graph could not see into the library.
    """
    return (
        LIBRARY is not None
        and x.is_cpu
        and x.dtype in TYPES
        and x.layout is torch.strided
        and type(x).__torch_dispatch__ is _OWN_MEMORY
        and not torch.compiler.is_compiling()
        and _address(x) != 0
        and not x.is_neg()
    )


def _address(x: Tensor) -> int:
    """Return where a tensor's memory is, 0 if it has none: the wrappers of `torch.func` raise."""
    try:
        return x.data_ptr()
    except RuntimeError:
        return 0


def supports_pair(a: Tensor, b: Tensor) -> bool:
    """Return whether the library can walk through both side by side, in the order of axis 0.

    Args:
        a: a tensor.
        b: a tensor of the same shape.
    """
    return a.shape == b.shape and a.dtype == b.dtype and supports(a) and supports(b) and alike(a, b)


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two dense tensors of one shape have their elements in the same order.

    Args:
        a: a tensor.
        b: a tensor of the same shape.
    """
    return (a.is_contiguous() and b.is_contiguous()) or (
        _channels_last(a) and _channels_last(b) and a.stride() == b.stride()
    )


def _channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
