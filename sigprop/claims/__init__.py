"""The ledger: what the papers claim, as functions that measure it, and saboteurs that break it.

``run()`` measures, ``sabotage(name)`` shows that a check can fail. Nothing here prints.
"""

from sigprop.claims import (
    capture,
    centering,
    errata,
    invariances,
    laws,
    matrices,
    meanfield,
    nf,
    nf_parts,
    normalization,
    optimization,
    residual,
    scale,
    training,
    weightnorm,
    width,
    zero_start,
)
from sigprop.claims.checks import Check
from sigprop.claims.claim import (
    CLAIMS,
    NOT_RUN,
    SABOTEURS,
    Claim,
    Saboteur,
    Trial,
    claim,
    saboteurs_of,
)
from sigprop.claims.ledger import Ledger, chosen, measured, run, sabotage
from sigprop.claims.outcome import Finding, Outcome

__all__ = [
    "CLAIMS",
    "NOT_RUN",
    "SABOTEURS",
    "Check",
    "Claim",
    "Finding",
    "Ledger",
    "Outcome",
    "Saboteur",
    "Trial",
    "capture",
    "centering",
    "chosen",
    "claim",
    "errata",
    "invariances",
    "laws",
    "matrices",
    "meanfield",
    "measured",
    "nf",
    "nf_parts",
    "normalization",
    "optimization",
    "residual",
    "run",
    "sabotage",
    "saboteurs_of",
    "scale",
    "training",
    "weightnorm",
    "width",
    "zero_start",
]
