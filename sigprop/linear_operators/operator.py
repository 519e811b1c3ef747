"""A linear map that is known by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sigprop.errors import BadInput

if TYPE_CHECKING:  # 0.2 s to import: paid by the first eigenvalue, not with sigprop
    import numpy as np
    from scipy.sparse.linalg import LinearOperator

Product = Callable[[Tensor], Tensor]

#: The most elements of a matrix that is written out: 128 MiB of float64, decomposed in seconds.
DENSE_LIMIT = 2**24

#: The most elements of a matrix that are computed at a time.
_CHUNK = 2**21


@dataclass(frozen=True)
class Operator:
    """A real linear map by its products with vectors.

    Attributes:
        name: what it is, for errors: ``"the Jacobian of layer1"``.
        shape: (m, n), outputs by inputs.
        product: A v, for v of shape (n,); returns (m,).
        transposed: Aᵀ u, for u of shape (m,); returns (n,). None where A is symmetric.
        dtype: of the vectors.
        device: of the vectors.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
        >>> operator = Operator("a", (2, 3), a.mv, a.T.mv)
        >>> operator.gram().dense()  # A Aᵀ, the smaller one
        tensor([[5., 2.],
                [2., 2.]])
    """

    name: str
    shape: tuple[int, int]
    product: Product
    transposed: Product | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def symmetric(self) -> bool:
        """Whether the map is its own transpose."""
        return self.transposed is None

    def transpose(self, u: Tensor) -> Tensor:
        """Return Aᵀ u."""
        return (self.transposed or self.product)(u)

    def gram(self) -> Operator:
        """Return A Aᵀ or Aᵀ A, the smaller one: its eigenvalues are the squared singular values."""
        rows, columns = self.shape
        if rows <= columns:
            square = lambda u: self.product(self.transpose(u))  # noqa: E731
        else:
            square = lambda v: self.transpose(self.product(v))  # noqa: E731
        size = min(rows, columns)
        return Operator(self.name, (size, size), square, None, self.dtype, self.device)

    def dense(self, limit: int = DENSE_LIMIT) -> Tensor:
        """Return the matrix, one product for each row or column, whichever are fewer.

        Args:
            limit: the most elements that it may have.

        Returns:
            Shape (m, n).

        Raises:
            BadInput: it would have more.
        """
        rows, columns = self.shape
        if rows * columns > limit:
            raise BadInput(
                f"{self.name} has {rows} x {columns} = {rows * columns:,} elements, more than the "
                f"{limit:,} that are written out; ask for its k largest values: k=10"
            )
        by_rows = rows <= columns
        act = self.transpose if by_rows else self.product
        count, length = min(self.shape), max(self.shape)
        units = torch.eye(count, dtype=self.dtype, device=self.device)
        chunk = max(1, _CHUNK // max(length, 1))
        parts = [_act_on_all(act, part) for part in units.split(chunk)]
        found = torch.cat(parts) if count else units.new_zeros(0, length)
        return found if by_rows else found.T

    def scipy(self) -> LinearOperator:
        """Return the map for SciPy, on float64 vectors of NumPy."""
        from scipy.sparse.linalg import LinearOperator

        return LinearOperator(
            self.shape,
            matvec=lambda v: self._act(self.product, v),
            rmatvec=lambda u: self._act(self.transpose, u),
            dtype="float64",
        )

    def _act(self, product: Product, vector: np.ndarray) -> Any:
        given = torch.from_numpy(vector.ravel()).to(self.device, self.dtype)
        return product(given).detach().to("cpu", torch.float64).numpy()


def _act_on_all(product: Product, vectors: Tensor) -> Tensor:
    """Return the product with every row of ``vectors``, at once where torch can."""
    try:
        found: Tensor = torch.vmap(product)(vectors)
    except (RuntimeError, NotImplementedError):  # an operation without a rule for batches
        found = torch.stack([product(vector) for vector in vectors])
    return found.detach()
