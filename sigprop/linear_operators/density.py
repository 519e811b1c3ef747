"""The spectral density of a symmetric map, by stochastic Lanczos quadrature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.inputs.devices import derived_seed, generator
from sigprop.linear_operators.operator import Operator

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quadrature:
    """Points and weights: Σ_i w_i f(x_i) estimates the mean of f over all eigenvalues.

    Attributes:
        nodes: where the spectrum is sampled, in ascending order, shape (points,).
        weights: the share of the eigenvalues that each stands for; they add up to 1.
    """

    nodes: Array
    weights: Array


def tridiagonal(operator: Operator, start: Tensor, steps: int) -> tuple[Array, Array]:
    """Return the tridiagonal matrix of Lanczos' recursion with full reorthogonalization.

    Every new vector is made orthogonal to all before it, twice, so that no eigenvalue appears
    again as a copy of itself (Paige 1971; Golub & Van Loan, section 10.3).

    Args:
        operator: a symmetric map of shape (n, n).
        start: the first vector, of any length but 0, shape (n,).
        steps: the most steps; fewer where the vectors span an invariant subspace.

    Returns:
        Its diagonal, shape (s,), and the diagonal beside it, shape (s - 1,).

    Raises:
        BadInput: the map gives numbers that are not finite.
    """
    steps = min(steps, operator.shape[0])
    basis = torch.empty(steps, len(start), dtype=operator.dtype, device=operator.device)
    vector = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        basis[step] = vector
        image = operator.product(vector).detach()
        if not bool(image.isfinite().all()):
            raise BadInput(
                f"{operator.name} holds numbers that are not finite, so it has no spectrum"
            )
        diagonal.append(float(vector @ image))
        scale = float(image.norm())
        known = basis[: step + 1]
        for _ in range(2):
            image = image - known.T @ (known @ image)
        rest = float(image.norm())
        if step + 1 == steps or rest <= 10 * torch.finfo(operator.dtype).eps * scale:
            break
        beside.append(rest)
        vector = image / rest
    return np.array(diagonal), np.array(beside)


def spectral_density(
    operator: Operator, steps: int = 60, probes: int = 8, seed: int = 0
) -> Quadrature:
    """Return the spectral density of a symmetric map (Golub & Welsch 1969; Ubaru et al. 2017).

    From each of several random ±1 vectors, Lanczos' recursion gives a Gauss quadrature of the
    density; the mean of these is returned. Its first 2·steps - 1 moments err by the choice of
    vectors only, of the order of 1/√(n·probes).

    Args:
        operator: a symmetric map of shape (n, n).
        steps: of Lanczos' recursion, and so the points of a vector.
        probes: random vectors.
        seed: of these vectors.

    Returns:
        Up to steps·probes points, and their weights.

    Raises:
        BadInput: fewer than one step or probe, or the map gives numbers that are not finite.

    Example:
        >>> d = torch.arange(1.0, 101.0)
        >>> found = spectral_density(Operator("d", (100, 100), lambda v: d * v), steps=20)
        >>> round(float(found.weights @ found.nodes), 2)  # the mean eigenvalue
        50.5
    """
    from scipy.linalg import eigh_tridiagonal

    if min(steps, probes) < 1:
        raise BadInput(f"a density needs at least 1 step and 1 probe, not {steps} and {probes}")
    size = operator.shape[0]
    nodes, weights = [], []
    for probe in range(probes):
        signs = torch.randint(
            0, 2, (size,), generator=generator(derived_seed(seed, "lanczos", probe))
        )
        start = (2 * signs - 1).to(operator.device, operator.dtype)
        values, vectors = eigh_tridiagonal(*tridiagonal(operator, start, steps))
        nodes.append(np.asarray(values, dtype=np.float64))
        weights.append(np.asarray(vectors[0] ** 2 / probes, dtype=np.float64))
    points = np.concatenate(nodes)
    order = np.argsort(points, kind="stable")
    return Quadrature(points[order], np.concatenate(weights)[order])
