"""The Hessian's eigenvalues of largest magnitude, from Hessian-vector products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device, normal
from sigprop.inputs.objective import Objective

Array = npt.NDArray[np.float64]

#: Up to so many parameters the matrix is built, column by column, and diagonalized as a whole.
_DENSE = 64

#: Error of an eigenvalue relative to the largest, by the type of the weights.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues of largest magnitude, the largest first, with their vectors.

    Attributes:
        values: shape (k,).
        vectors: of norm 1, in the order of the parameters; shape (n, k).
    """

    values: Array
    vectors: Array


def sharpness(
    model: nn.Module, loss: Loss, batch: object, k: int = 1, *, device: Device = "auto"
) -> Array:
    """Return the k eigenvalues of largest magnitude of the loss's Hessian, with their signs.

    The Hessian is never built: one product with it costs about two gradients (Pearlmutter 1994),
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
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> sharpness(layer, nn.functional.mse_loss, (x, torch.ones(2, 1)), k=2).round(4).tolist()
        [9.0, 1.0]
    """
    return eigenpairs(Objective(model, loss, batch, device), k).values


def eigenpairs(
    objective: Objective,
    k: int = 1,
    scale: Tensor | None = None,
    guess: Array | None = None,
) -> Eigenpairs:
    """Return eigenvalues of largest magnitude of S H S, with their vectors.

    Args:
        objective: the loss whose Hessian H is meant.
        k: how many.
        scale: the diagonal of S, shape (n,); the identity when not given. With
            S = P^(-1/2) the values are those of the preconditioned Hessian P^-1 H.
        guess: a vector to start from, such as the last one of a training.

    Returns:
        Eigenvalues and vectors.

    Raises:
        BadInput: k is not in 1..n, or the loss cannot be differentiated twice.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= objective.size:
        raise BadInput(
            f"k is a whole number from 1 to the {objective.size} trainable parameters, not {k!r}"
        )
    apply = _scaled(objective, scale)
    if objective.size <= _DENSE or k > objective.size // 2:
        return _dense(apply, objective.size, k)
    start = normal((objective.size,), seed=0).numpy() if guess is None else guess
    operator = LinearOperator((objective.size,) * 2, matvec=apply, dtype=np.float64)
    values, vectors = eigsh(
        operator,
        k=k,
        which="LM",
        v0=start.astype(np.float64),
        tol=_TOLERANCE[objective.start.dtype],
        ncv=min(objective.size, max(2 * k + 1, 20)),
    )
    return _ordered(values, vectors)


def _scaled(objective: Objective, scale: Tensor | None) -> Callable[[Array], Array]:
    product = objective.hessian_product()
    s = None if scale is None else scale.to(objective.start)

    def apply(vector: Array) -> Array:
        v = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1)).to(objective.start)
        out = product(v) if s is None else s * product(s * v)
        return out.double().cpu().numpy()

    return apply


def _dense(apply: Callable[[Array], Array], size: int, k: int) -> Eigenpairs:
    matrix = np.stack([apply(column) for column in np.eye(size)])
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    kept = np.argsort(-np.abs(values), kind="stable")[:k]
    return _ordered(values[kept], vectors[:, kept])


def _ordered(values: Array, vectors: Array) -> Eigenpairs:
    order = np.argsort(-np.abs(values), kind="stable")
    return Eigenpairs(values[order], vectors[:, order])
