"""Every comparison can fail: on a subject that was broken on purpose it must turn red.

The table of claims, saboteurs and verdicts stands at the end of pytest's output.
"""

import pytest

from sigprop.claims import CLAIMS, SABOTEURS, sabotage
from sigprop.errors import BadInput, UnknownName


@pytest.mark.parametrize("name", SABOTEURS)
def test_a_saboteur_turns_its_check_red(name, record_property):
    finding = sabotage(name)
    saboteur = SABOTEURS[name]
    comparison = finding.comparison
    predicted = f"{comparison.relation} {comparison.predicted:.4g} predicted"
    found = f"{comparison.what}: {predicted}, {comparison.measured:.4g}"
    record_property("sabotage", (saboteur.claim, saboteur.what, finding.verdict, found))
    assert finding.verdict == "violated", comparison
    assert finding.saboteur == saboteur.what


def test_the_first_saboteur_of_a_claim_goes_by_the_claims_name():
    assert sabotage("rezero-jacobian").saboteur == "gain of .1"


def test_what_cannot_be_run_cannot_be_sabotaged():
    with pytest.raises(BadInput, match="has no saboteur: it is not run"):
        sabotage("bjorck-110-layers")


def test_an_unknown_saboteur():
    with pytest.raises(UnknownName, match="no saboteur is called"):
        sabotage("rezero-jacobian: nothing")


def test_the_acts_that_the_laws_must_withstand_are_all_there():
    acts = " / ".join(saboteur.what for saboteur in SABOTEURS.values())
    for act in (
        "alpha forgotten",
        "beta off by 10 %",
        "exponent 1/6 with 2 weights a branch",
        "bias not initialized",
        "detached",
        "branch and skip correlated",
        "unbiased for biased variance",
        "gamma off",
        "eps missing",
    ):
        assert act in acts
    assert len(SABOTEURS) >= len([c for c in CLAIMS.values() if c.function])
