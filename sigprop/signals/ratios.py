"""How large gradients and updates are beside the weights they change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.signals.precision import wide_type

#: The smallest unit norm that AGC divides by (Brock et al. 2021, section 4.1).
UNIT_FLOOR = 1e-3


def norm(x: Tensor) -> Tensor:
    """Return the Frobenius norm as a float64-safe pair (norm of x/size, size), shape (2,).

    Dividing by the largest magnitude first keeps gradients of 1e-25 from underflowing to 0 and
    weights of 1e25 from overflowing, without a float64 copy.
    """
    x = x.detach()
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    size = x.abs().amax().clamp_min(torch.finfo(x.dtype).tiny)
    return torch.stack([torch.linalg.vector_norm(x / size), size])


def unit_norms(x: Tensor, unit_dim: int = 0) -> Tensor:
    """Return one norm per output unit, shape (units,); of a vector, scalar or gain the whole norm.

    A tensor is squeezed first, so that a gain of shape (C, 1, 1, 1) counts as a vector, as in
    DeepMind's AGC (nfnets/agc_optax.py).

    Args:
        x: a weight or its gradient.
        unit_dim: axis of the output units.
    """
    x = x.detach()
    if x.squeeze().ndim <= 1:
        return torch.linalg.vector_norm(x).reshape(1)
    return torch.linalg.vector_norm(x.movedim(unit_dim, 0).flatten(1), dim=1)


def unit_ratio_max(weight: Tensor, grad: Tensor, unit_dim: int = 0) -> Tensor:
    """Return max over units of ‖G_i‖/max(‖W_i‖, 1e-3) as (ratio of grad/size, size), shape (2,).

    Args:
        weight: a parameter.
        grad: its gradient.
        unit_dim: axis of the output units.

    Example:
        >>> w, g = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.001]])
        >>> float(unit_ratio_max(w, g).prod())
        1.0
    """
    grad = grad.detach().to(wide_type(grad.dtype))
    size = grad.abs().amax().clamp_min(torch.finfo(grad.dtype).tiny)
    units = unit_norms(weight.to(grad.dtype), unit_dim).clamp_min(UNIT_FLOOR)
    return torch.stack([(unit_norms(grad / size, unit_dim) / units).amax(), size])


def angle(before: Tensor, after: Tensor) -> Tensor:
    """Return the angle between two tensors in radians, shape (); NaN when either is 0.

    Uses 2·atan2(‖u-v‖, ‖u+v‖) of the unit vectors: arccos of a float32 cosine cannot see angles
    below 3e-4.

    Args:
        before: a parameter before the step.
        after: the same parameter after it.

    Example:
        >>> right = angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
        >>> round(float(right), 6)
        1.570796
    """
    u, v = (_unit(x.detach().to(wide_type(x.dtype))) for x in (before, after))
    norm_of = torch.linalg.vector_norm
    return 2 * torch.atan2(norm_of(u - v), norm_of(u + v))


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return part/whole, NaN where a ratio is undefined: nothing to divide by.

    Args:
        part: the numerator.
        whole: the denominator.

    Example:
        >>> ratio([1.0, 1.0], [4.0, 0.0])
        array([0.25,  nan])
    """
    whole = np.asarray(whole)
    return np.asarray(part) / np.where(whole > 0, whole, np.nan)


def _unit(x: Tensor) -> Tensor:
    x = x / x.abs().amax()  # 0/0 makes the NaN that a zero tensor's angle is
    return x / torch.linalg.vector_norm(x)
