"""The door to the compiled readings: what they serve, or nothing where they were not compiled.

Plain C behind `ctypes`, compiled when the package is installed (hatch_build.py). It computes with
as many threads as PyTorch does, and in the same ones. Whoever calls it has a plain-torch equivalent
for every other case. ``SIGPROP_NATIVE=0`` in the environment leaves it shut.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch
from torch import Tensor

#: Element types that are read, by their number in C.
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


def _open() -> ctypes.CDLL | None:
    path = Path(__file__).with_name("kernels.so")
    if os.environ.get("SIGPROP_NATIVE") == "0" or not path.exists():
        return None
    library = ctypes.CDLL(str(path))  # lets other threads run while it reads
    library.sigprop_set_thread_pool.argtypes = [_POINTER]
    library.sigprop_read.argtypes = [_POINTER, _INT, _SIZE, _SIZE, _SIZE, _INT, _POINTER]
    library.sigprop_norms.argtypes = [_SIZE, _POINTER, ctypes.c_double, _INT, _POINTER]
    library.sigprop_moves.argtypes = [_SIZE, _POINTER, _INT, _POINTER]
    library.sigprop_products.argtypes = [_POINTER, _POINTER, _INT, _SIZE, _INT, _POINTER]
    library.sigprop_pool.argtypes = [_SIZE, _POINTER, _POINTER, _POINTER]
    for name in ("set_thread_pool", "read", "norms", "moves", "products", "pool"):
        getattr(library, f"sigprop_{name}").restype = None
    library.sigprop_set_thread_pool(_thread_pool())
    return library


def _thread_pool() -> ctypes._FuncPointer | None:
    """Return what starts the threads that PyTorch computes with; None if they are not OpenMP's."""
    return getattr(ctypes.CDLL(None), "GOMP_parallel", None) if os.name == "posix" else None


#: The library, or None; the one switch between both ways.
LIBRARY = _open()


#: A type of tensors has memory of its own if it leaves dispatch alone, as parameters do.
_OWN_MEMORY = Tensor.__torch_dispatch__


def supports(x: Tensor) -> bool:
    """Return whether the library can read this tensor: one on the CPU, as it lies in memory.

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
    """Return whether the library can walk through both side by side, in the order of axis 0."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and supports(a)
        and supports(b)
        and (
            (a.is_contiguous() and b.is_contiguous())
            or (_channels_last(a) and _channels_last(b) and a.stride() == b.stride())
        )
    )


def _channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
