"""The ledger: what the papers claim, as functions that measure it, and saboteurs that break it.

``run()`` measures, ``sabotage(name)`` shows that a comparison can fail. Nothing here prints.
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
from sigprop.claims.comparison import Comparison
from sigprop.claims.ledger import Ledger, measure_claim, run, sabotage, select_claims
from sigprop.claims.outcome import Finding, Outcome

__all__ = [
    "CLAIMS",
    "NOT_RUN",
    "SABOTEURS",
    "Claim",
    "Comparison",
    "Finding",
    "Ledger",
    "Outcome",
    "Saboteur",
    "Trial",
    "capture",
    "centering",
    "claim",
    "errata",
    "invariances",
    "laws",
    "matrices",
    "meanfield",
    "measure_claim",
    "nf",
    "nf_parts",
    "normalization",
    "optimization",
    "residual",
    "run",
    "sabotage",
    "saboteurs_of",
    "scale",
    "select_claims",
    "training",
    "weightnorm",
    "width",
    "zero_start",
]
