"""What a spectrum comes to: norm, ranks and condition number of every operator in a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported when a frame is made, not with sigprop
    import pandas as pd

#: Columns that say which operator a row of `spectra` is of.
WHICH = ("run", "network", "seed", "step", "name", "operator")


def summary(spectra: pd.DataFrame) -> pd.DataFrame:
    """Return spectral norm, condition number, stable and effective rank of every operator.

    Ranks are computed from logarithms relative to the largest value, so that they hold where the
    values themselves leave float64.

    Args:
        spectra: a frame of `sigprop.spectra`, or `Records.spectra`.

    Returns:
        One row per operator, in order, with the columns ``run``, ``network``, ``seed``, ``step``,
        ``name``, ``operator``; ``size``, how many singular values it has; ``count``, how many of
        them are rows; ``spectral_norm``, σ_max; ``smallest``, σ_min; ``condition_number``,
        σ_max/σ_min, infinite where σ_min is 0; ``stable_rank``, Σσ²/σ²_max (Rudelson & Vershynin
        2007); and ``effective_rank``, exp(-Σ p_i ln p_i) with p_i = σ_i/Σσ (Roy & Vetterli 2007).
        The last four are NaN where only the largest values are known, and all are NaN where a
        value is; of a sampled density the smallest value and the condition number are not known.

    Example:
        >>> import torch, sigprop
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.diag(torch.tensor([4.0, 2.0])))
        >>> found = summary(sigprop.spectra.weights(layer)).iloc[0]
        >>> found.spectral_norm, found.condition_number, found.stable_rank
        (np.float64(4.0), np.float64(2.0), np.float64(1.25))
    """
    import pandas as pd

    rows = []
    for key, values in spectra.groupby(list(WHICH), sort=False):
        rows.append({**dict(zip(WHICH, key, strict=True)), **_of_one(values)})
    numbers = ("size", "count", "spectral_norm", "smallest", "condition_number")
    names = [*WHICH, *numbers, "stable_rank", "effective_rank"]
    return pd.DataFrame(rows, columns=names)


def _of_one(values: pd.DataFrame) -> dict[str, float]:
    sigma = np.abs(values["singular_value"].to_numpy())
    logs = values["log_singular_value"].to_numpy()
    mass = values["mass"].to_numpy()
    size = int(values["size"].max()) or len(values)
    sampled = bool(values["operator"].str.endswith(":density").any())
    known = bool(np.isfinite(sigma).all() or np.isfinite(logs).any()) and not np.isnan(sigma).any()
    found: dict[str, float] = {"size": size, "count": len(values)}
    if not known:
        missing = ("spectral_norm", "smallest", "condition_number", "stable_rank", "effective_rank")
        return {**found, **dict.fromkeys(missing, np.nan)}
    every = len(values) == size and not sampled
    whole = every or sampled
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = np.exp(logs - logs.max())  # 1 for the largest; NaN where all are 0
        times = mass * size if sampled else np.ones(len(values))
        shares = relative / (times * relative).sum()
        entropy = -(times * np.where(shares > 0, shares * np.log(shares), 0)).sum()
        found |= {
            "spectral_norm": sigma.max(),
            "smallest": sigma.min() if every else np.nan,
            "condition_number": np.exp(logs.max() - logs.min()) if every else np.nan,
            "stable_rank": (times * relative**2).sum() if whole else np.nan,
            "effective_rank": np.exp(entropy) if whole else np.nan,
        }
    if np.isnan(relative).any():  # the zero map has a norm, and neither rank nor condition
        found |= dict.fromkeys(("condition_number", "stable_rank", "effective_rank"), np.nan)
    return found
