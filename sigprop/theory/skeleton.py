"""Any stack of the zoo's kinds as blocks of operations: sizes and orders in, a recursion out.

What a stack looks like (`Skeleton`) and what a family does to it (`Treatment`) are apart, so that
every family has its recursion as an MLP, a ResNet and a Transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sigprop.errors import BadInput
from sigprop.theory.attention import Attention
from sigprop.theory.branch import Branch
from sigprop.theory.kernel import Gradient, Kernel
from sigprop.theory.maps import AveragePool, Convolution, Gather, Window
from sigprop.theory.operations import (
    Act,
    BatchNorm,
    Center,
    Drop,
    GroupNorm,
    MeanOnlyNorm,
    Operation,
    Weight,
)
from sigprop.theory.residual import Block, Prediction, recursion

#: Hidden units of a feed-forward branch per unit of a Transformer's trunk (Vaswani et al. 2017).
_FEED_FORWARD = 4


@dataclass(frozen=True)
class Skeleton:
    """Sizes and orders of a stack of blocks.

    Args:
        widths: channels of each block's output, first to last.
        width: channels of the first block's input.
        kind: ``"mlp"``, ``"resnet"`` or ``"transformer"`` (odd blocks attend, even ones feed
            forward).
        order: of a branch's layers, such as ``("norm", "act", "weight")``.
        layers: weights of a branch.
        activation: its name.
        circular: borders of a ResNet's maps; zeros otherwise.
        skip: False for x_k = F(x_{k-1}).
        bottleneck: the inner width of a branch is the block's over this; None for a basic block.
        heads: of attention.
    """

    widths: tuple[int, ...]
    width: int
    kind: str = "mlp"
    order: tuple[str, ...] = ("norm", "act", "weight")
    layers: int = 2
    activation: str = "relu"
    circular: bool = False
    skip: bool = True
    bottleneck: int | None = None
    heads: int = 1

    @property
    def post_activation(self) -> bool:
        """Whether a block's last activation stands behind the addition."""
        return self.order[-1] == "act"


def _one(block: int) -> float:
    return 1.0


@dataclass(frozen=True)
class Treatment:
    """What a family does to a stack: a block is skip(k) x + scale(k) F_k(x), k = 1..L.

    Args:
        gain_squared: of a weight behind an activation.
        weights: ``"fan_in"`` (variance gain^2/fan_in), ``"xavier"`` (over the mean of both fans),
            ``"rows"`` (rows of norm gain), ``"fan_out"``, ``"standardized"``, or ``"delta"``, which
            has its weights at a kernel's center.
        norm: ``"none"``, ``"batchnorm"``, ``"layernorm"`` or ``"groupnorm"``.
        per_group: channels of a group, by width.
        post_norm: the norm stands behind the addition.
        zero_head: the head's weight starts at 0, so that no gradient arrives.
        final_norm: a norm in front of the head only.
        before_weight: operations in front of every weight.
        after_weight: operations behind every weight.
        after_act: operations behind every activation.
        bias: variance of a bias behind every weight.
        skip: coefficient of the skip, by block.
        scale: coefficient of the branch, by block.
        weight_scale: factor on the deviation of every weight of a branch, by block.
        last_weight_scale: on that of the last weight.
        drop: rate of dropout in front of a branch's weights, which have sqrt(1 - rate) of their
            gain.
        query_gain: of queries' and keys' weights.
        scale_exponent: logits are q.k / head width ** this.
    """

    gain_squared: float = 2.0
    weights: str = "fan_in"
    norm: str = "none"
    per_group: Callable[[int], float] | None = None
    post_norm: bool = False
    zero_head: bool = False
    final_norm: str = "none"
    before_weight: tuple[Operation, ...] = ()
    after_weight: tuple[Operation, ...] = ()
    after_act: tuple[Operation, ...] = ()
    bias: float = 0.0
    skip: Callable[[int], float] = _one
    scale: Callable[[int], float] = _one
    weight_scale: Callable[[int], float] = _one
    last_weight_scale: float = 1.0
    drop: float = 0.0
    query_gain: float = 1.0
    scale_exponent: float = 0.5


@dataclass(frozen=True)
class Shape:
    """Sizes of one linear map."""

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1


def predict_stack(skeleton: Skeleton, treatment: Treatment, start: Kernel) -> Prediction:
    """Return what a stack does to a batch that arrives at its first block, and to its gradient.

    The gradient is the one that a standard normal one at the logits becomes at the last block.

    Args:
        skeleton: sizes and orders.
        treatment: what the family does.
        start: the kernel of x_0; on a map where convolutions have borders.

    Raises:
        BadInput: an activation behind an addition, whose trunk is not Gaussian.

    Example:
        >>> made = predict_stack(Skeleton((8,) * 3, 8), Treatment(), Kernel())
        >>> made.second_moment.tolist()
        [1.0, 2.0, 4.0, 8.0]
    """
    if skeleton.post_activation and skeleton.skip:
        raise BadInput("a trunk behind an addition and an activation is not Gaussian")
    builder = _Builder(skeleton, treatment)
    made = recursion(builder.blocks(), start, *builder.head())
    if treatment.zero_head:
        return replace(made, gradient_second_moment=np.full_like(made.second_moment, np.nan))
    return made


@dataclass(frozen=True)
class _Builder:
    skeleton: Skeleton
    treatment: Treatment

    def blocks(self) -> list[Block]:
        before, made = self.skeleton.width, []
        for k, width in enumerate(self.skeleton.widths, start=1):
            made.append(self._block(k, before, width))
            before = width
        return made

    def head(self) -> tuple[Gradient, Branch | None]:
        """Return the gradient behind a mean over positions, and the operations up to there."""
        skeleton, treatment = self.skeleton, self.treatment
        ops: list[Operation] = []
        if treatment.final_norm != "none":
            ops += self._norm(treatment.final_norm, skeleton.widths[-1] if skeleton.widths else 1)
        if not skeleton.post_activation:
            wanted = [p for p in skeleton.order[:2] if not (p == "norm" and treatment.post_norm)]
            if skeleton.kind == "transformer":
                wanted = [part for part in wanted if part != "act"]
            width = skeleton.widths[-1] if skeleton.widths else skeleton.width
            ops += self._parts(wanted, width)
        if skeleton.kind != "mlp":
            ops.append(Gather())
        return Gradient(), Branch(tuple(ops)) if ops else None

    def _block(self, k: int, before: int, width: int) -> Block:
        skeleton, treatment = self.skeleton, self.treatment
        if skeleton.kind == "transformer":
            branch = self._attention(k) if k % 2 else self._feed_forward(k)
        else:
            branch = self._branch(k, before, width)
        wanted = ["norm"] * treatment.post_norm + ["act"] * skeleton.post_activation
        after = self._parts(wanted, width)
        return Block(
            Branch(tuple(branch)),
            treatment.skip(k) if skeleton.skip else 0.0,
            treatment.scale(k) if skeleton.skip else 1.0,
            Branch(tuple(self._shortcut(before, width)))
            if skeleton.skip and width != before
            else None,
            Branch(tuple(after)) if after else None,
        )

    def _branch(self, k: int, before: int, width: int) -> list[Operation]:
        skeleton, treatment = self.skeleton, self.treatment
        order = [p for p in skeleton.order if not (p == "norm" and treatment.post_norm)]
        at = order.index("weight")
        normed = "norm" in order[:at] and order[:at][-1] == "norm" and treatment.norm != "none"
        gain = (1.0 if normed else treatment.gain_squared) * treatment.weight_scale(k) ** 2
        shapes, ops = self._shapes(before, width), list[Operation]()
        for index, shape in enumerate(shapes, start=1):
            last = index == len(shapes)
            tail = [part for part in order[at + 1 :] if not (part == "act" and last)]
            own = gain * treatment.last_weight_scale**2 if last else gain
            ops += self._parts(order[:at], shape.inputs)
            ops += self.linear(shape, own, treatment.drop)
            ops += self._parts(tail, shape.outputs)
        return ops

    def _shapes(self, before: int, width: int) -> list[Shape]:
        skeleton, stride = self.skeleton, 1 if width == before else 2
        if skeleton.bottleneck is not None:
            inner = width // skeleton.bottleneck
            return [Shape(before, inner, 1), Shape(inner, inner, 3, stride), Shape(inner, width, 1)]
        first = Shape(before, width, 3, stride)
        return [first, *[Shape(width, width)] * (skeleton.layers - 1)]

    def _shortcut(self, before: int, width: int) -> list[Operation]:
        ops: list[Operation] = [AveragePool()]
        return ops + self.linear(Shape(before, width, 1), 1.0)

    def linear(self, shape: Shape, gain_squared: float, drop: float = 0.0) -> list[Operation]:
        """Return a linear map with what stands in front of it and behind."""
        treatment = self.treatment
        ops = list(treatment.before_weight)
        if drop:
            ops.append(Drop(drop))
        ops.append(self._weight(shape, gain_squared * (1 - drop)))
        return ops + list(treatment.after_weight)

    def _weight(self, shape: Shape, gain_squared: float) -> Operation:
        treatment = self.treatment
        fans = {
            "xavier": 2 * shape.inputs / (shape.inputs + shape.outputs),
            "fan_out": shape.inputs / shape.outputs,
        }
        gain = gain_squared * fans.get(treatment.weights, 1.0)
        standardized = treatment.weights == "standardized"
        widening = shape.outputs / shape.inputs
        if self.skeleton.kind != "resnet":
            return Weight(gain, widening, standardized, treatment.bias)
        kernel = 1 if treatment.weights == "delta" else shape.kernel
        window = Window(kernel, shape.stride, self.skeleton.circular)
        return Convolution(gain, window, widening, standardized, treatment.bias)

    def _parts(self, wanted: list[str] | tuple[str, ...], width: int) -> list[Operation]:
        ops: list[Operation] = []
        for part in wanted:
            if part == "norm":
                ops += self._norm(self.treatment.norm, width)
            elif part == "act":
                ops += [Act(self.skeleton.activation), *self.treatment.after_act]
        return ops

    def _norm(self, name: str, width: int) -> list[Operation]:
        if name == "none":
            return []
        if name == "batchnorm":
            return [BatchNorm()]
        if name == "layernorm":
            return [GroupNorm(per_position=self.skeleton.kind != "resnet")]
        assert self.treatment.per_group is not None
        return [GroupNorm(self.treatment.per_group(width))]

    def _attention(self, k: int) -> list[Operation]:
        skeleton, treatment = self.skeleton, self.treatment
        width = skeleton.width
        head, spread = width // skeleton.heads, treatment.weight_scale(k) ** 2
        logits = treatment.query_gain**4 * head ** (1 - 2 * treatment.scale_exponent)
        ops = [*self._pre_norm(), *treatment.before_weight, Attention(logits, spread, head)]
        return ops + self.linear(Shape(width, width), spread * treatment.last_weight_scale**2)

    def _feed_forward(self, k: int) -> list[Operation]:
        skeleton, treatment = self.skeleton, self.treatment
        width, hidden = skeleton.width, _FEED_FORWARD * skeleton.width
        spread = treatment.weight_scale(k) ** 2
        ops = [*self._pre_norm(), *self.linear(Shape(width, hidden), spread)]
        ops += self._parts(["act"], hidden)
        gain = treatment.gain_squared * spread * treatment.last_weight_scale**2
        return ops + self.linear(Shape(hidden, width), gain)

    def _pre_norm(self) -> list[Operation]:
        treatment = self.treatment
        return [] if treatment.post_norm else self._norm(treatment.norm, self.skeleton.width)


def batch_statistics(mean_only: bool = False) -> tuple[Operation, ...]:
    """Return what a data-dependent start puts behind a weight: mean 0 and variance 1 per channel.

    Args:
        mean_only: with mean-only batch normalization behind it.
    """
    fixed = BatchNorm(fixed=True)
    return (fixed, MeanOnlyNorm()) if mean_only else (fixed,)


def centering() -> tuple[Operation, ...]:
    """Return what RescaleNet puts in front of a weight: a bias of minus the batch mean."""
    return (Center(),)
