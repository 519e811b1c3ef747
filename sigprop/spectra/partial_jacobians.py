"""Partial Jacobian norms at every depth, from one backward pass of random signs per draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sigprop.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from sigprop.records import Records


def jacobian_norms(records: Records, level: float = 0.95) -> pd.DataFrame:
    """Return ‖∂h_L/∂h_l‖²_F / n_L at the output h_l of every block, with intervals over seeds.

    The squared norm of what random signs v at the model's output h_L become at h_l has the
    expectation E_v‖Jᵀv‖² = ‖J‖²_F, exactly. h_L and h_l are those of the whole batch, of n_L
    elements at the output, so that the number is a mean over samples; where BatchNorm in training
    mode couples them, J has entries from each sample to every other, and they are included.

    Args:
        records: of ``sigprop.measure(..., cotangent="rademacher")``, one seed or several.
        level: confidence of the intervals.

    Returns:
        Columns ``network``, ``block``, ``module``; ``norm``, the mean over seeds; ``low`` and
        ``high``, its interval by Student's t on the logarithm (delta method), NaN with one seed;
        ``seeds``. Of a factory, seeds are draws of weights and signs, and the interval is of the
        mean over both; of a plain model they are draws of signs.

    Raises:
        BadInput: the records were not measured with a cotangent, or level is no confidence.

    Example:
        >>> import torch, sigprop
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4, bias=False))
        >>> _ = torch.nn.init.eye_(net[1].weight)
        >>> x = torch.randn(8, 4)
        >>> records = sigprop.measure(net, x, blocks="leaves", cotangent="rademacher")
        >>> jacobian_norms(records)["norm"].tolist()
        [1.0, 1.0]
    """
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise BadInput(f"level is a confidence between 0 and 1, got {level!r}")
    signs = records.manifest.get("cotangents", {})
    if not signs:
        raise BadInput(
            "these records hold gradients of a loss; measure with cotangent='rademacher' for "
            "partial Jacobian norms"
        )
    rows = records.signals
    rows = rows[(rows["direction"] == "backward") & (rows["port"] == "out") & (rows["call"] == 0)]
    rows = rows[rows["kind"].isin(["block", "leaf"]) & rows["network"].isin(list(signs))]
    norms = rows["second_moment"] * rows["count"] / rows["network"].map(signs)
    where = ["network", "block", "module"]
    found = rows.assign(norm=norms).groupby(where, sort=False)["norm"]
    table = found.agg(norm="mean", spread="std", seeds="size").reset_index()
    share = table["spread"] / table["norm"] / np.sqrt(table["seeds"])
    factor = np.exp(stdtrit(np.maximum(table["seeds"] - 1, 1), (1 + level) / 2) * share)
    table["low"], table["high"] = table["norm"] / factor, table["norm"] * factor
    table = table[[*where, "norm", "low", "high", "seeds"]]
    return table.sort_values(["network", "block"], kind="stable", ignore_index=True)
