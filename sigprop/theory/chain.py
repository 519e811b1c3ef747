"""A chain of convolutions and max-pools without skips or norms: VGG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sigprop.theory.branch import Branch
from sigprop.theory.kernel import Kernel
from sigprop.theory.maps import ActMaxPool, Convolution, Window
from sigprop.theory.operations import Act, Center, Operation
from sigprop.theory.residual import Block, Prediction, recursion
from sigprop.theory.skeleton import Shape


@dataclass(frozen=True)
class Chain:
    """What a chain x_k = W_k pool f(x_{k-1}) chooses.

    Args:
        activation: f, by name.
        gain_squared: of every weight, over fan_in.
        fan_out: weights have gain^2/fan_out instead (Shao et al. 2020's VGG code).
        centered: a bias of minus the batch mean in front of every weight.
        circular: borders of maps; zeros otherwise.
    """

    activation: str
    gain_squared: float
    fan_out: bool = False
    centered: bool = False
    circular: bool = False

    def predict(
        self, plan: Sequence[tuple[Shape, bool]], start: Kernel, pooled_head: bool = False
    ) -> Prediction:
        """Return the recursion of a chain.

        Args:
            plan: each block's weight, and whether a 2x2 max-pool stands in front of it.
            start: the kernel of the first convolution's output, on a map.
            pooled_head: whether the head begins with a max-pool.

        Returns:
            The statistics at blocks 0..L.

        Example:
            >>> made = Chain("relu", 2.0, circular=True).predict(
            ...     [(Shape(8, 8), False)], Kernel().on_map((4, 4))
            ... )
            >>> made.second_moment.round(9).tolist()
            [1.0, 1.0]
        """
        blocks = [Block(Branch(self._block(shape, pooled)), 0.0) for shape, pooled in plan]
        return recursion(blocks, start, head=Branch((self._act(pooled_head),)))

    def _act(self, pooled: bool) -> Operation:
        return ActMaxPool(self.activation) if pooled else Act(self.activation)

    def _block(self, shape: Shape, pooled: bool) -> tuple[Operation, ...]:
        widening = shape.outputs / shape.inputs
        gain = self.gain_squared / (widening if self.fan_out else 1.0)
        weight = Convolution(gain, Window(shape.kernel, 1, self.circular), widening)
        return (self._act(pooled), *(Center(),) * self.centered, weight)
