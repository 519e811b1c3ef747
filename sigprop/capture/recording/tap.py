"""Where a number was read."""

from __future__ import annotations

from typing import NamedTuple


class Tap(NamedTuple):
    """Where a number was read. Readings of one tap in one step merge.

    Attributes:
        mode: ``"train"`` or ``"eval"``.
        target: the module's name, without call or leaf.
        block: its depth, in the order of first calls.
        name: the module's name, with ``#1`` for a second call and ``[0]`` for a leaf of a nest.
        call: which call of the module in one forward pass.
        port: ``"in"``, ``"skip"``, ``"branch"`` or ``"out"``.
        direction: ``"forward"`` or ``"backward"``.
        channel_dim: the axis of the channels.
        channels: how many there are.
    """

    mode: str
    target: str
    block: int
    name: str
    call: int
    port: str
    direction: str
    channel_dim: int
    channels: int
