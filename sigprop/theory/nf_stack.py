"""Normalizer-free stacks with their real sizes: transitions, strides, borders, squeeze-excite.

x_k = S_k(x_{k-1}) + alpha s F_k(x_{k-1}/beta_k) with standardized weights (Brock et al. 2021a).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sigprop.theory import gaussian
from sigprop.theory.branch import Branch
from sigprop.theory.kernel import Gradient, Kernel
from sigprop.theory.maps import AveragePool, Convolution, Gather, Window
from sigprop.theory.operations import Act, Drop, Operation, Scale, Weight
from sigprop.theory.residual import Block, Prediction, recursion
from sigprop.theory.skeleton import Shape


@dataclass(frozen=True)
class Gate:
    """Squeeze-excite at the start: y = 2 sigmoid(z) x, z of small biases and weights.

    With torch's U(-1/sqrt n, 1/sqrt n) for both layers, E u^2 = (E mean(x)^2 + 1/C)/3 in front of
    the ReLU, E z^2 = (E u^2/2 + 1/h)/3 behind it, and values are multiplied by E (2 sigmoid(z))^2.

    Args:
        channels: C.
        hidden: h, units of the gate.
    """

    channels: int
    hidden: int

    def forward(self, x: Kernel) -> Kernel:
        """Return the gated kernel; a channel's gate is the same for all samples."""
        return x.scaled(math.sqrt(self._square(x)))

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient through the gate."""
        return g.scaled(self._square(x))

    def _square(self, x: Kernel) -> float:
        squeezed = (x.average(x.same) + 1 / self.channels) / 3
        logit = (squeezed / 2 + 1 / self.hidden) / 3
        return 4 * gaussian.second_moment("sigmoid", max(logit, 0.0))


@dataclass(frozen=True)
class NFStack:
    """What normalizer-free networks choose.

    Args:
        activation: its name.
        gamma: the gain of standardized weights behind an activation.
        alpha: of the branches.
        skip_gain: s, learned, at the start.
        act_first: divide by beta behind the first activation.
        pool_shortcut: average in front of a strided shortcut, rather than stride its weight.
        excite: hidden units per channel of a squeeze-excite; 0 for none.
        drop: rate of stochastic depth of the last block, growing linearly.
        convolutional: maps; vectors otherwise.
        circular: borders of maps.
    """

    activation: str
    gamma: float
    alpha: float
    skip_gain: float
    act_first: bool = False
    pool_shortcut: bool = False
    excite: float = 0.0
    drop: float = 0.0
    convolutional: bool = True
    circular: bool = False

    def predict(
        self, plan: Sequence[tuple[Sequence[Shape], Shape | None]], start: Kernel
    ) -> Prediction:
        """Return the recursion of a stack.

        Args:
            plan: for each block, its branch's weights and that of its shortcut, if it has one.
            start: the kernel of x_0.

        Returns:
            The statistics at blocks 0..L.

        Example:
            >>> made = NFStack("relu", gaussian.gamma("relu"), 0.2, 1.0, convolutional=False)
            >>> plan = [((Shape(8, 8),) * 2, Shape(8, 8, 1))] + [((Shape(8, 8),) * 2, None)] * 2
            >>> made.predict(plan, Kernel()).second_moment.round(9).tolist()
            [1.0, 1.04, 1.08, 1.12]
        """
        blocks, variance = [], 1.0
        for index, (shapes, shortcut) in enumerate(plan):
            rate = self.drop * index / len(plan)
            entry = self._entry(math.sqrt(variance))
            side = Branch((*entry, *self._side(shortcut))) if shortcut else None
            branch = Branch((*entry, *self._branch(shapes, rate)))
            blocks.append(Block(branch, 1.0, self.alpha * self.skip_gain, side))
            variance = (1.0 if shortcut else variance) + self.alpha**2
        head: list[Operation] = [Act(self.activation)]
        return recursion(blocks, start, head=Branch(tuple(head + [Gather()] * self.convolutional)))

    def _entry(self, deviation: float) -> list[Operation]:
        entry: list[Operation] = [Scale(1 / deviation), Act(self.activation)]
        return entry[::-1] if self.act_first else entry

    def _side(self, shape: Shape) -> list[Operation]:
        if shape.stride > 1 and self.pool_shortcut:
            return [AveragePool(), self._weight(Shape(shape.inputs, shape.outputs, shape.kernel))]
        return [self._weight(shape)]

    def _branch(self, shapes: Sequence[Shape], rate: float) -> list[Operation]:
        ops: list[Operation] = [self._weight(shapes[0])]
        for shape in shapes[1:]:
            ops += [Act(self.activation), self._weight(shape)]
        if self.excite:
            channels = shapes[-1].outputs
            ops.append(Gate(channels, max(1, int(channels * self.excite))))
        return ops + [Drop(rate, rescale=False, samples=True)] * (rate > 0)

    def _weight(self, shape: Shape) -> Operation:
        gain, widening = self.gamma**2, shape.outputs / shape.inputs
        if not self.convolutional:
            return Weight(gain, widening, standardized=True)
        window = Window(shape.kernel, shape.stride, self.circular)
        return Convolution(gain, window, widening, standardized=True)
