"""The door to the compiled readings: what they serve, or nothing where they were not compiled.

Plain C behind `ctypes`, compiled when the package is installed (hatch_build.py). Whoever calls it
has a plain-torch equivalent for every other case. ``SIGPROP_NATIVE=0`` in the environment leaves
it shut.
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
    library.sigprop_read.argtypes = [_POINTER, _INT, _SIZE, _SIZE, _SIZE, _POINTER]
    library.sigprop_read.restype = None
    return library


#: The library, or None; the one switch between both ways.
LIBRARY = _open()


def serves(x: Tensor) -> bool:
    """Return whether the library can read this tensor: one on the CPU, as it lies in memory.

    Subclasses and the wrappers of `torch.func` have no memory of their own; a compiled graph could
    not see into the library.
    """
    return (
        LIBRARY is not None
        and type(x) is Tensor
        and x.is_cpu
        and x.dtype in TYPES
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and x.data_ptr() != 0
    )
