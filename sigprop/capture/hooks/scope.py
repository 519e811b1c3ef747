"""What is recorded beyond the chosen blocks themselves."""

from __future__ import annotations

from dataclasses import dataclass

from sigprop.capture.recording.tap import Kind


@dataclass(frozen=True)
class Scope:
    """What is recorded beyond the blocks themselves.

    Attributes:
        additions: residual additions that lie outside of every block.
        rectifiers: functional rectifiers that lie outside of every block.
        attention: what functional attention makes.
        chosen_kind: the kind of what was chosen: ``"block"`` or ``"leaf"``.
    """

    additions: bool = False
    rectifiers: bool = False
    attention: bool = False
    chosen_kind: Kind = "block"
