"""What is known of a module before anything runs: its name, whether it is recorded, and as what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from sigprop.capture.model.blocks import CONTAINERS, RECTIFIERS
from sigprop.capture.model.channels import ChannelDim
from sigprop.capture.model.closed import closed_cost
from sigprop.capture.recording.tap import Kind, Source

#: Modules that PyTorch may run as one fused function when nothing watches their inside.
FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


@dataclass(frozen=True)
class ModuleInfo:
    """One module of a probed model.

    Attributes:
        name: its name.
        target: the innermost chosen block that holds it, or None.
        chosen_kind: the kind of what was chosen: ``"block"`` or ``"leaf"``.
        axis: the channel axis that the user named for it, if one was.
        rectifier: whether it is a rectifier.
        ports: the ports of the operands that its forward adds; () unless it is an addition.
        frames: whether the additions in its code are recorded.
        fused: whether PyTorch may run it as one fused function.
        weighs: whether it has parameters.
        transparent: whether all that it does is done by functions that a function mode sees.
        cost: what passing it adds to the distance of a tensor, where its code is PyTorch's own and
            need not be watched; None where it must be.
    """

    name: str
    target: str | None
    chosen_kind: Kind
    axis: int | None
    rectifier: bool
    ports: tuple[str, ...]
    frames: bool
    fused: bool
    weighs: bool
    transparent: bool
    cost: int | None

    @property
    def is_target(self) -> bool:
        """Whether the module itself was chosen."""
        return self.target == self.name

    @property
    def records_own_output(self) -> bool:
        """Whether its own hooks see all there is, so that functions inside it are no news."""
        return self.rectifier or bool(self.ports)

    @property
    def inner_rectifier(self) -> bool:
        """Whether it is a rectifier inside a block: recorded with it, for its dead units."""
        return self.rectifier and not self.is_target and self.target is not None

    @property
    def source(self) -> Source:
        """What the module's own inputs and outputs belong to."""
        # Of what was not chosen only rectifiers hand over what they return.
        return Source(self.chosen_kind if self.is_target else "rectifier", self.name, self.name)

    @property
    def addition_source(self) -> Source:
        """What the operands of an addition in this module belong to."""
        block = self.target or self.name
        return Source(self.chosen_kind if self.target else "addition", block, block)

    def function_source(self, kind: str) -> Source:
        """Return what the result of a function of this kind in the module belongs to."""
        name = f"{self.name}:{kind}"
        return Source("attention" if kind == "sdpa" else "rectifier", self.name, name)


def describe(
    name: str,
    module: nn.Module,
    target: str | None,
    channel_dim: ChannelDim,
    chosen_kind: Kind,
    outside: bool,
) -> ModuleInfo:
    """Return what is known of a module.

    Args:
        name: its name.
        module: the module.
        target: the innermost chosen block that holds it.
        channel_dim: the channel axis, where the user named it.
        chosen_kind: the kind of what was chosen.
        outside: whether additions are recorded outside of every block too.
    """
    rectifier, ports = isinstance(module, RECTIFIERS), tuple(getattr(module, "ports", ()))
    outside_blocks = outside and target is None and not isinstance(module, CONTAINERS)
    return ModuleInfo(
        name=name,
        target=target,
        chosen_kind=chosen_kind,
        axis=channel_dim.get(name) if isinstance(channel_dim, Mapping) else channel_dim,
        rectifier=rectifier,
        ports=ports,
        frames=(target == name or outside_blocks) and not (rectifier or ports),
        fused=isinstance(module, FUSED),
        weighs=next(module.parameters(), None) is not None,
        transparent=transparent(module),
        cost=closed_cost(module),
    )


def transparent(module: nn.Module) -> bool:
    """Return whether all that a module does is done by functions that a function mode sees.

    So it is with PyTorch's own leaves and containers; the fused encoder layer and recurrent nets
    call what is no such function.
    """
    kind = type(module)
    own = kind.__module__.startswith("torch.nn.modules.") or kind in CONTAINERS
    patched = "forward" in vars(module)
    return own and not patched and not isinstance(module, (*FUSED, nn.RNNBase))
