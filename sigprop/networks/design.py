"""What a network of the zoo is asked to be: sizes and orders, checked. Builds nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sigprop.errors import BadInput
from sigprop.networks.activations import ACTIVATIONS
from sigprop.networks.arguments import check_known, check_whole

ARCHITECTURES = ("mlp", "resnet", "transformer")
ORDERS = ("norm-act-weight", "act-norm-weight", "weight-norm-act")
PADDINGS = ("zeros", "circular")
BLOCKS = ("basic", "bottleneck")


@dataclass(frozen=True)
class Design:
    """The options that every network of the zoo shares.

    Attributes:
        depth: number of residual blocks L; of a Transformer, encoder layers, two blocks each.
        width: units of an MLP or a Transformer's trunk, channels of a ResNet's first stage.
        architecture: ``"mlp"``, ``"resnet"`` (3x3 convolutions) or ``"transformer"`` (an encoder
            whose attention and feed-forward branches are blocks of their own).
        inputs: shape of one sample; a ResNet needs (channels, height, width), an MLP flattens, a
            Transformer reads (tokens, features), or the rows of an image as tokens.
        classes: number of outputs.
        order: of the layers of a branch. ``"norm-act-weight"`` (pre-activation, He et al. 2016b),
            ``"act-norm-weight"`` (as in the analysis of De & Smith 2020) or ``"weight-norm-act"``
            (He et al. 2016a and the RescaleNet authors' code: the last activation of a block
            comes after the addition). A network without normalization leaves it out.
        branch_layers: weights in a branch, m; a bottleneck has 3, a Transformer's branches 2.
        activation: a name of `sigprop.networks.activations.ACTIVATIONS`: ``"relu"``, ``"tanh"``,
            ``"gelu"``, ``"silu"``, ``"identity"`` (a linear network), ...
        stages: of a ResNet; each further one halves the image and doubles the width.
        padding: of convolutions. ``"zeros"`` is what papers do, but takes variance away at
            borders: an n x n map keeps ((3n - 2)/(3n))² of it per 3x3 layer; ``"circular"``
            keeps all.
        skip: whether blocks have skip connections; without, x_k = F_k(x_{k-1}), no coefficients.
        block: of a ResNet: ``"basic"`` or ``"bottleneck"`` (1x1, 3x3, 1x1).
        bottleneck: a bottleneck's inner width is the block's divided by this.
        groups: of the 3x3 convolutions in branches.
        heads: of a Transformer's attention.

    Raises:
        BadInput: a value is unknown or not positive, sizes do not divide, or the image is too
            small for the stages.
    """

    depth: int = 20
    width: int = 64
    architecture: str = "mlp"
    inputs: tuple[int, ...] = (1, 8, 8)
    classes: int = 10
    order: str = "norm-act-weight"
    branch_layers: int = 2
    activation: str = "relu"
    stages: int = 1
    padding: str = "zeros"
    skip: bool = True
    block: str = "basic"
    bottleneck: int = 4
    groups: int = 1
    heads: int = 2

    def __post_init__(self) -> None:
        for name in _SIZES:
            check_whole(name, getattr(self, name))
        check_known("architecture", self.architecture, ARCHITECTURES)
        check_known("order", self.order, ORDERS)
        check_known("block", self.block, BLOCKS)
        check_known("activation", self.activation, ACTIVATIONS)
        check_known("padding", self.padding, PADDINGS)
        for size in self.inputs:
            check_whole("every size in inputs", size)
        if not self.inputs:
            raise BadInput("inputs is empty; give the shape of one sample, such as (1, 8, 8)")
        if self.architecture == "resnet":
            self._check_image()
            self._check_convolutions()
        else:
            self._check_no_convolutions()
        if self.architecture == "transformer":
            self._check_transformer()

    def _check_image(self) -> None:
        if len(self.inputs) != 3:
            raise BadInput(
                f"a resnet needs inputs=(channels, height, width), got {self.inputs}; "
                "use architecture='mlp' for flat inputs"
            )
        if self.stages > self.depth:
            raise BadInput(
                f"stages={self.stages} needs at least as many blocks, got depth={self.depth}"
            )
        smallest = min(self.inputs[1:])
        most = 1 + math.ceil(math.log2(smallest))
        if self.stages > most:
            raise BadInput(
                f"an image of {self.inputs[1]}x{self.inputs[2]} is too small for "
                f"stages={self.stages}, each of which halves it; use at most {most}"
            )

    def _check_convolutions(self) -> None:
        if self.block == "bottleneck" and self.width % self.bottleneck:
            raise BadInput(
                f"width={self.width} does not divide by bottleneck={self.bottleneck}; "
                "the inner width of a bottleneck is their quotient"
            )
        inner = self.width // self.bottleneck if self.block == "bottleneck" else self.width
        if inner % self.groups:
            raise BadInput(
                f"groups={self.groups} does not divide the {inner} channels of a branch; "
                f"use one of {_divisors(inner)}"
            )

    def _check_no_convolutions(self) -> None:
        one = "an MLP has one stage" if self.architecture == "mlp" else "a Transformer has one"
        if self.stages > 1:
            raise BadInput(f"stages={self.stages} needs architecture='resnet'; {one}")
        for name, value in (("block", "basic"), ("groups", 1)):
            if getattr(self, name) != value:
                raise BadInput(f"{name}={getattr(self, name)!r} needs architecture='resnet'")

    def _check_transformer(self) -> None:
        if len(self.inputs) not in (2, 3):
            raise BadInput(
                "a transformer needs inputs=(tokens, features) or (channels, height, width), "
                f"got {self.inputs}"
            )
        if self.width % self.heads:
            raise BadInput(
                f"heads={self.heads} does not divide width={self.width}; "
                f"use one of {_divisors(self.width)}"
            )
        if self.order != ORDERS[0] or not self.skip:
            raise BadInput(
                f"a transformer has skip connections and order={ORDERS[0]!r}, got "
                f"order={self.order!r}, skip={self.skip}"
            )

    @property
    def m(self) -> int:
        """Weights that the signal passes in series in a branch."""
        if self.architecture == "transformer":
            return 2
        return 3 if self.block == "bottleneck" else self.branch_layers

    @property
    def additions(self) -> int:
        """Number of residual blocks, L in the papers' formulas."""
        return 2 * self.depth if self.architecture == "transformer" else self.depth

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of a sample and features of a token: the rows of an image, (H, C·W)."""
        if len(self.inputs) == 2:
            return self.inputs[0], self.inputs[1]
        return self.inputs[1], self.inputs[0] * self.inputs[2]

    @property
    def dims(self) -> int:
        """Spatial axes of a hidden tensor: 2 for images, 0 for vectors."""
        return 2 if self.architecture == "resnet" else 0

    @property
    def post_activation(self) -> bool:
        """Whether a block's last activation comes after the addition."""
        return self.order == "weight-norm-act"

    def widths(self) -> list[int]:
        """Return the width of each block, first to last.

        Example:
            >>> Design(depth=5, width=8, architecture="resnet", stages=2).widths()
            [8, 8, 8, 16, 16]
        """
        each, left = divmod(self.additions, self.stages)
        return [
            self.width * 2**stage
            for stage in range(self.stages)
            for _ in range(each + (stage < left))
        ]


_SIZES = ("depth", "width", "classes", "branch_layers", "stages", "bottleneck", "groups", "heads")


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
