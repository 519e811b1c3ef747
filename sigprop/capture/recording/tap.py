"""Where a number was read."""

from __future__ import annotations

from typing import Literal, NamedTuple

#: What a tensor belongs to: a chosen module (a block, or a leaf where leaves were asked for), or
#: what was found inside or outside of one.
Kind = Literal["block", "rectifier", "attention", "addition", "leaf"]


class Source(NamedTuple):
    """What a tensor belongs to.

    Attributes:
        kind: what it is.
        module: the module's own name; of a function, that of the module it runs in.
        name: the module's name, with ``:relu`` for a function in it.
    """

    kind: Kind
    module: str
    name: str


class Tap(NamedTuple):
    """Where a number was read. Statistics of one tap in one step merge.

    Attributes:
        mode: ``"train"`` or ``"eval"``.
        block: the depth of the block (or of what lies outside of one), in the order of first calls.
        kind: what the tensor belongs to.
        module: the module's own name; of a function, that of the module it runs in.
        target: the module's name, with ``:relu`` for a function in it.
        name: the target's name, with ``#1`` for a second call and ``[0]`` for a leaf of a nest.
        call: which call of the module in one forward pass.
        port: ``"in"``, ``"skip"``, ``"branch"`` or ``"out"``.
        direction: ``"forward"`` or ``"backward"``.
        channel_dim: the axis of the channels.
        channels: how many there are.
    """

    mode: str
    block: int
    kind: Kind
    module: str
    target: str
    name: str
    call: int
    port: str
    direction: str
    channel_dim: int
    channels: int
