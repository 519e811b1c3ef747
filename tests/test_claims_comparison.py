"""A prediction, its measurement and the verdict on the two; and what the registry promises."""

import math

import numpy as np
import pytest
from messages import refusal

from sigprop import claims
from sigprop.claims import CLAIMS, SABOTEURS, Comparison, Trial
from sigprop.claims.comparison import (
    at_least,
    at_most,
    close,
    estimate,
    mean_ratio,
    overall_verdict,
)
from sigprop.errors import BadInput, UnknownName
from sigprop.theory import ERRATA
from sigprop.verification.intervals import quantile
from sigprop.verification.laws import LAWS

# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "error", "verdict"),
    [
        (2.0, 0.01, "holds"),
        (2.09, 0.01, "undecided"),
        (2.11, 0.01, "undecided"),
        (2.2, 0.01, "violated"),
        (1.8, 0.01, "violated"),
        (2.0, 0.1, "undecided"),
        (math.nan, 0.0, "violated"),
        (math.inf, 0.0, "violated"),
    ],
)
def test_an_interval_inside_holds_outside_is_violated_across_is_undecided(measured, error, verdict):
    assert Comparison("x", 2.0, measured, error, draws=10, tolerance=0.1).verdict == verdict


def test_a_number_that_is_not_random_is_compared_as_it_is():
    assert Comparison("x", 2.0, 2.1, tolerance=0.1 + 1e-12).verdict == "holds"
    assert Comparison("x", 2.0, 2.1, tolerance=0.0999).verdict == "violated"


@pytest.mark.parametrize(
    ("make", "value", "verdict"),
    [
        (at_least, 1.2, "holds"),
        (at_least, 0.8, "violated"),
        (at_least, math.inf, "holds"),
        (at_most, 0.8, "holds"),
        (at_most, 1.2, "violated"),
        (at_most, math.inf, "violated"),
        (at_least, math.nan, "violated"),
    ],
)
def test_inequalities(make, value, verdict):
    assert make("x", 1.0, value, "why").verdict == verdict


def test_an_inequality_over_draws_needs_its_whole_interval():
    assert at_least("x", 1.0, [1.1, 1.3, 1.2], "why").verdict == "undecided"
    assert at_least("x", 1.0, [1.19, 1.21, 1.2], "why").verdict == "holds"


def test_mean_error_and_interval_of_draws():
    comparison = close("x", 1.0, [1.0, 2.0, 3.0], "why", share=0.1, by=0.2)
    assert (comparison.measured, comparison.draws) == (2.0, 3)
    assert comparison.tolerance == pytest.approx(0.3)
    assert comparison.error == pytest.approx(1 / math.sqrt(3))
    assert comparison.half_width == pytest.approx(quantile(0.95, 3) / math.sqrt(3))


def test_a_single_draw_and_an_infinite_one_have_no_error():
    assert estimate([4.0]) == (4.0, 0.0, 1)
    assert estimate([1.0, math.inf]) == (math.inf, 0.0, 2)


def test_growth_is_the_log_of_the_mean_not_the_mean_of_the_logs():
    ratios = np.array([1.0, 4.0])
    comparison = mean_ratio("x", 1.0, ratios, "why", by=0.1)
    assert comparison.measured == pytest.approx(math.log2(2.5))
    assert comparison.measured > np.log2(ratios).mean()


def test_strain_is_the_share_of_the_tolerance_that_is_used():
    assert Comparison("x", 2.0, 1.95, tolerance=0.1).tolerance_used == pytest.approx(-0.5)
    assert Comparison("x", 0.0, 0.0, tolerance=0.0).tolerance_used == 0
    assert Comparison("x", 0.0, 1.0, tolerance=0.0).tolerance_used == math.inf
    assert at_least("x", 1.0, 4.0, "why").tolerance_used == pytest.approx(0.25)
    assert at_most("x", 1.0, 4.0, "why").tolerance_used == pytest.approx(4)


def test_one_violation_outweighs_what_is_undecided():
    assert overall_verdict(["holds", "undecided", "violated"]) == "violated"
    assert overall_verdict(["holds", "undecided"]) == "undecided"
    assert overall_verdict([]) == "holds"


def test_a_verdict_from_elsewhere_stands():
    assert (
        Comparison("x", 1.0, 1.0, tolerance=1.0, verdict_elsewhere="violated").verdict == "violated"
    )


# --- the registry --------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.name)
def test_a_claim_says_what_where_and_under_which_conditions(claim):
    for words in (claim.title, claim.source, claim.conditions, claim.statement):
        assert words
        assert "  " not in words
    assert claim.name == claim.name.lower()
    assert claim.theme in claim.tags


def test_what_cannot_run_here_is_tagged():
    for claim in CLAIMS.values():
        assert (claim.function is None) == ("gpu" in claim.tags)


def test_every_claim_that_runs_has_a_saboteur_and_only_those():
    sabotaged = {saboteur.claim for saboteur in SABOTEURS.values()}
    assert sabotaged == {name for name, claim in CLAIMS.items() if claim.function}


def test_every_law_has_a_claim_and_with_it_a_saboteur():
    names = {name.replace(":", "-").replace("_", "-") for name in LAWS}
    assert {f"law-{name}" for name in names} <= set(CLAIMS)


def test_every_misprint_has_a_claim_that_shows_both_forms():
    deciding = {claim.erratum: name for name, claim in CLAIMS.items() if claim.erratum}
    assert set(deciding) == set(ERRATA)
    for name in deciding.values():
        comparisons = claims.measure_claim(name, Trial(quick=True)).findings
        assert any(not math.isnan(finding.comparison.printed) for finding in comparisons), name


def test_a_claim_name_is_taken_once():
    with refusal(BadInput, "a claim called 'rescale-algebra' exists already; choose another name"):
        claims.claim("rescale-algebra", "again", saboteurs={}, **dict.fromkeys(_WORDS, ""))(
            lambda trial: []
        )


_WORDS = ("source", "conditions", "statement")


def test_saboteurs_of_an_unknown_claim():
    with refusal(UnknownName, "no claim is called 'rezero-jac'; did you mean 'rezero-jacobian'?"):
        claims.saboteurs_of("rezero-jac")
