"""The Hessian's eigenvalues of largest magnitude, from Hessian-vector products alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device
from sigprop.linear_operators import Operator, largest_eigenvalues
from sigprop.objectives.objective import Objective

Array = npt.NDArray[np.float64]


def sharpness(
    model: nn.Module, loss: Loss, batch: object, k: int = 1, *, device: Device = "auto"
) -> Array:
    """Return the k eigenvalues of largest magnitude of the loss's Hessian, with their signs.

    The Hessian is not built: one product with it costs about two gradients (Pearlmutter 1994),
    and Lanczos needs some tens of them. In float32 the values are good to 1e-5 of the largest.

    Args:
        model: a copy of it is evaluated, in its own train or eval mode; all its parameters that
            require a gradient take part.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        k: how many.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        Eigenvalues, shape (k,), the one of largest magnitude first; in units of loss/parameter².

    Raises:
        BadInput: what `Objective` refuses, a loss that cannot be differentiated twice, or a k
            beyond the number of parameters.

    Source: Cohen et al. 2021, section 2.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> sharpness(layer, nn.functional.mse_loss, (x, torch.ones(2, 1)), k=2).round(4).tolist()
        [9.0, 1.0]
    """
    return largest_eigenvalues(Objective(model, loss, batch, device).hessian(), k).values


def preconditioned(objective: Objective, scale: Tensor | None = None) -> Operator:
    """Return S H S; with S = P^(-1/2) its eigenvalues are those of P^-1 H.

    Args:
        objective: the loss whose Hessian H is meant.
        scale: the diagonal of S, shape (n,); the identity when not given.
    """
    hessian = objective.hessian()
    if scale is None:
        return hessian
    s = scale.to(objective.start)
    return replace(hessian, product=lambda v: s * hessian.product(s * v))
