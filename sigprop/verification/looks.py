"""When draws are judged, and how the probability of error is shared: by looks, blocks, stages.

With ``seeds="auto"`` a law is judged after 8 draws, and again each time their number has doubled,
until it is decided (a group-sequential test: Pocock 1977). Looking again is another chance to err.
Every look therefore gets the same part of the error probability: by Boole's inequality the
intervals of all looks then hold together at the stated confidence, whatever the draws are.
"""

from __future__ import annotations

#: How many draws each look of ``seeds="auto"`` is judged from.
LOOKS = (8, 16, 32, 64, 128, 256)

#: Part of the error probability that the stages share. A stage's ratio spreads wider than that of
#: any of its blocks, so it is what a decision waits for.
_STAGES_PART = 0.8


def levels(level: float, looks: int, blocks: int, stages: int) -> tuple[float, float]:
    """Return the confidence of one block's interval and of one stage's, at one look.

    Args:
        level: confidence of all intervals of all looks together.
        looks: how many times is judged.
        blocks: how many blocks are judged.
        stages: how many stages.

    Example:
        >>> block, stage = levels(0.95, looks=1, blocks=10, stages=1)
        >>> round(1 - block, 4), round(1 - stage, 4)
        (0.001, 0.04)
    """
    error = (1 - level) / looks
    block = (1 - _STAGES_PART) * error / max(1, blocks)
    return 1 - block, 1 - _STAGES_PART * error / max(1, stages)
