"""Which PyTorch runs, and that it is one that sigprop works with: checked before anything else."""

from __future__ import annotations

import torch

#: The oldest PyTorch, as (major, minor).
OLDEST = (2, 5)


def parse(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version.

    Example:
        >>> parse("2.13.0+cpu"), parse("2.6.0.dev20241112")
        ((2, 13), (2, 6))
    """
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def require(version: str) -> tuple[int, int]:
    """Return (major, minor) of a PyTorch that is new enough.

    Raises:
        ImportError: it is older than `OLDEST`.
    """
    found = parse(version)
    if found < OLDEST:
        raise ImportError(
            f"sigprop needs torch {OLDEST[0]}.{OLDEST[1]} or newer and found torch {version}; "
            "upgrade it with `pip install --upgrade torch`"
        )
    return found


#: The PyTorch that runs.
VERSION = require(torch.__version__)

#: How to run a step without compiled code, after "run the steps to record".
RUN_EAGERLY = (
    "in `with torch.compiler.set_stance('force_eager'):`"
    if VERSION >= (2, 6)
    else "with the model itself, and not with what torch.compile made of it"
)
