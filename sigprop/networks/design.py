"""What a network of the zoo is asked to be: sizes and orders, checked. Builds nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from sigprop.errors import BadInput, suggestion

ARCHITECTURES = ("mlp", "resnet")
ORDERS = ("norm-act-weight", "act-norm-weight", "weight-norm-act")
PADDINGS = ("zeros", "circular")
ACTIVATIONS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {"relu": nn.ReLU, "identity": nn.Identity, "tanh": nn.Tanh}
)


@dataclass(frozen=True)
class Design:
    """The options that every network of the zoo shares.

    Attributes:
        depth: number of residual blocks L.
        width: units of an MLP, channels of a ResNet's first stage.
        architecture: ``"mlp"`` or ``"resnet"`` (3x3 convolutions).
        inputs: shape of one sample; a ResNet needs (channels, height, width), an MLP flattens.
        classes: number of outputs.
        order: of the slots of a branch. ``"norm-act-weight"`` (pre-activation, He et al. 2016b),
            ``"act-norm-weight"`` (as in the analysis of De & Smith 2020) or ``"weight-norm-act"``
            (He et al. 2016a and the RescaleNet authors' code: the last activation of a block
            comes after the addition). Slots that a network does not use are dropped.
        branch_layers: weights in a branch, m.
        activation: ``"relu"``, ``"tanh"`` or ``"identity"`` (a linear network).
        stages: of a ResNet; each further one halves the image and doubles the width.
        padding: of convolutions. ``"zeros"`` is what papers do, but takes variance away at
            borders: an n x n map keeps ((3n - 2)/(3n))² of it per 3x3 layer; ``"circular"``
            keeps all.

    Raises:
        BadInput: a value is unknown, not positive, or the image is too small for the stages.
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

    def __post_init__(self) -> None:
        for name in ("depth", "width", "classes", "branch_layers", "stages"):
            _check_positive(name, getattr(self, name))
        _check_known("architecture", self.architecture, ARCHITECTURES)
        _check_known("order", self.order, ORDERS)
        _check_known("activation", self.activation, ACTIVATIONS)
        _check_known("padding", self.padding, PADDINGS)
        for size in self.inputs:
            _check_positive("every size in inputs", size)
        if not self.inputs:
            raise BadInput("inputs is empty; give the shape of one sample, such as (1, 8, 8)")
        if self.architecture == "resnet":
            self._check_image()
        elif self.stages > 1:
            raise BadInput(
                f"stages={self.stages} needs architecture='resnet'; an MLP has one stage"
            )

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
        each, left = divmod(self.depth, self.stages)
        return [
            self.width * 2**stage
            for stage in range(self.stages)
            for _ in range(each + (stage < left))
        ]


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_known(option: str, value: str, known: Iterable[str]) -> None:
    known = list(known)
    if value not in known:
        raise BadInput(f"no {option} is called {value!r}; {suggestion(str(value), known)}")
