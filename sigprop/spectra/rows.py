"""Singular values as rows of the `spectra` frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sigprop.records.frames import stack, tidy

if TYPE_CHECKING:  # imported when a frame is made, not with sigprop
    import pandas as pd

Columns = dict[str, Any]


def spectrum(
    name: str,
    operator: str,
    values: npt.ArrayLike,
    *,
    size: int | None = None,
    logarithms: npt.ArrayLike | None = None,
    mass: npt.ArrayLike | None = None,
    beyond: npt.ArrayLike = False,
) -> Columns:
    """Return the columns of one operator's singular values, largest first.

    Args:
        name: of the operator.
        operator: which kind of map it is, a code of the schema.
        values: singular values, largest first, shape (k,).
        size: how many the operator has; k where it is not given.
        logarithms: of the values, where they are known better than the values.
        mass: the share of the operator's values that each stands for; 1/size each by default.
        beyond: where float64 ends, a bool or one for each value.

    Example:
        >>> spectrum("w", "matrix", [2.0, 0.0])["log_singular_value"].round(4).tolist()
        [0.6931, -inf]
    """
    found = np.asarray(values, dtype=np.float64)
    if logarithms is None:
        with np.errstate(divide="ignore"):  # a singular value of 0 has the logarithm -inf
            logarithms = np.log(found)
    count = len(found) if size is None else size
    return {
        "name": name,
        "operator": operator,
        "index": np.arange(len(found)),
        "singular_value": found,
        "log_singular_value": np.asarray(logarithms, dtype=np.float64),
        "size": count,
        "mass": np.full(len(found), 1 / max(count, 1)) if mass is None else np.asarray(mass),
        "beyond_float64": np.broadcast_to(np.asarray(beyond), found.shape),
    }


def frame(spectra: Iterable[Columns]) -> pd.DataFrame:
    """Return the rows of several operators as one `spectra` frame.

    Example:
        >>> frame([spectrum("w", "matrix", [2.0, 1.0])])[["name", "index", "size"]].values.tolist()
        [['w', 0, 2], ['w', 1, 2]]
    """
    import pandas as pd

    return tidy("spectra", stack([pd.DataFrame(columns) for columns in spectra]))
