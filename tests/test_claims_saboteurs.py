"""Every comparison can fail: on a subject that was broken on purpose it must turn red.

The table of claims, saboteurs and verdicts stands at the end of pytest's output.
"""

from functools import cache

import pytest
from messages import refusal

from sigprop.claims import CLAIMS, SABOTEURS, Outcome, Trial, faults, measure_claim, sabotage
from sigprop.errors import BadInput, UnknownName
from sigprop.networks.layers import Scale
from sigprop.networks.recipe import Recipe


def of_the_prediction(name: str) -> bool:
    """Whether a saboteur breaks what a claim predicts instead of what it measures."""
    if name in (
        "sgd-noise: C of the estimate, not of one sample",
        "nf-gammas: He's gain taken for gamma",
    ):
        return True
    # the plan of an NF network divides what is measured
    return "theory" in name and not name.startswith("nf-planned-variance")


@cache
def honest(claim: str) -> Outcome:
    return measure_claim(claim, Trial(quick=True))


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
    # with the same seed and size the honest subject is not violated, and its number is another one
    outcome = honest(saboteur.claim)
    assert outcome.verdict != "violated"
    same = [f.comparison for f in outcome.findings if f.comparison.what == comparison.what]
    for unbroken in same:
        # where a claim measures a deviation from theory, a fault of theory changes the measurement
        moved = unbroken.predicted != comparison.predicted
        assert moved or unbroken.measured != comparison.measured
        assert not moved or of_the_prediction(name)


def test_the_first_saboteur_of_a_claim_goes_by_the_claims_name():
    assert sabotage("rezero-jacobian").saboteur == "gain of .1"


def test_a_fault_is_gone_afterwards_and_reaches_those_who_imported_the_function() -> None:
    gain = Recipe().gain  # imported by name, and a default
    with faults.NO_GAIN.applied():
        assert gain("relu") == Recipe().gain("relu") == 1.0
    assert gain("relu") == pytest.approx(2**0.5)
    right = Scale.forward
    with faults.SCALE.applied():
        assert Scale.forward is not right
    assert Scale.forward is right


def test_what_cannot_be_run_cannot_be_sabotaged():
    with refusal(
        BadInput, "'bjorck-110-layers' has no saboteur: it is not run: needs a GPU-size run"
    ):
        sabotage("bjorck-110-layers")


def test_an_unknown_saboteur():
    with refusal(
        UnknownName,
        (
            "no saboteur is called 'rezero-jacobian: nothing'; did you mean"
            " 'rezero-jacobian: gain of .1'?"
        ),
    ):
        sabotage("rezero-jacobian: nothing")


def test_the_acts_that_the_laws_must_withstand_are_all_there():
    acts = " / ".join(saboteur.what for saboteur in SABOTEURS.values())
    for act in (
        "alpha forgotten",
        "beta off by 10 %",
        "exponent 1/6, as printed",
        "biases left at 0",
        "detached",
        "branch and skip correlated",
        "unbiased for biased variance",
        "gamma off",
        "no clipping",
    ):
        assert act in acts
    assert len(SABOTEURS) >= len([c for c in CLAIMS.values() if c.function])
