"""Every regime by hand: figures in, verdict out."""

from __future__ import annotations

import pytest

from odin_rm.evaluation import certificate
from odin_rm.evaluation.certificate import (
    BIASED,
    MITIGATED,
    OVER_CORRECTED,
    SUBSTITUTED,
    UNDECIDED,
    VERDICTS,
    Measured,
    certify,
    direction,
    overall,
)
from odin_rm.evaluation.records import Figure


def at(value: float, half: float = 0.05) -> Figure:
    return Figure(value, value - half, value + half)


def effects(**values: float) -> dict[str, Measured]:
    return {name: Measured(effect=at(value)) for name, value in values.items()}


def verdicts(model, baseline=None, **options) -> dict[str, str]:
    return {name: one.verdict for name, one in certify(model, baseline, **options).items()}


@pytest.mark.parametrize(
    ("figure", "found"),
    [
        (at(0.02), "none"),
        (Figure(0.04, -0.05, 0.099), "none"),
        (Figure(0.05, -0.02, 0.101), "unclear"),  # may lie beyond
        (at(0.3), "paid"),
        (at(-0.3), "charged"),
        (Figure(0.09, 0.01, 0.2), "unclear"),  # not 0, but within the tolerance as far as one can tell
        (Figure(0.5, -0.1, 1.1), "unclear"),
        (Figure(0.5), "unclear"),  # no interval
        (Figure(None, why="no edit changes it"), "unclear"),
        (None, "unclear"),
    ],
)
def test_directions(figure, found):
    assert direction(figure, 0.1) == found


def test_one_model_by_itself_is_biased_or_not():
    found = verdicts(effects(length=0.4, lists=0.0, emoji=-0.2) | {"digits": Measured(within=at(0.6))})
    assert found == {"length": "biased", "lists": "unbiased", "emoji": "biased", "digits": "undecided"}


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        ({"length": 0.02, "lists": 0.0}, "mitigated"),
        ({"length": 0.50, "lists": 0.0}, "no-op"),
        ({"length": 0.41, "lists": 0.0}, "no-op"),
        ({"length": 0.30, "lists": 0.0}, "biased"),  # less than before, and still biased
        ({"length": -0.30, "lists": 0.0}, "over-corrected"),
        ({"length": 0.02, "lists": 0.4}, "substituted"),
        ({"length": 0.02, "lists": -0.4}, "substituted"),
        ({"length": -0.30, "lists": 0.4}, "over-corrected"),
    ],
)
def test_regimes_of_a_model_whose_baseline_pays_for_length(now, verdict):
    found = certify(effects(**now), effects(length=0.5, lists=0.0))
    assert found["length"].verdict == verdict
    assert found["lists"].verdict == ("unbiased" if now["lists"] == 0 else "biased")
    if verdict == "substituted":
        assert found["length"].moved_to == ("lists",)
        assert "lists" in found["length"].why


def test_a_bias_that_was_there_before_has_not_moved():
    found = certify(effects(length=0.0, lists=0.42), effects(length=0.5, lists=0.40))
    assert found["length"].verdict == MITIGATED
    assert found["lists"].verdict == "no-op"
    assert found["lists"].kept == pytest.approx(1.05)


def test_a_bias_that_was_overdone_elsewhere_has_not_moved_there():
    found = certify(effects(length=0.0, emoji=-0.3), effects(length=0.5, emoji=0.3))
    assert {name: one.verdict for name, one in found.items()} == {"length": MITIGATED, "emoji": OVER_CORRECTED}
    doubled = certify(effects(length=0.0, list_items=-0.7), effects(length=0.5, list_items=-0.2))
    assert doubled["length"].verdict == SUBSTITUTED
    assert "list items" in doubled["length"].why


def test_a_growth_that_may_be_chance_is_no_growth():
    wide = {"length": Measured(at(0.0)), "lists": Measured(at(0.4, 0.3))}
    assert verdicts(wide, {"length": Measured(at(0.5)), "lists": Measured(at(0.2, 0.3))})["length"] == MITIGATED
    sure = {"length": Measured(at(0.0)), "lists": Measured(at(0.4))}
    assert verdicts(sure, {"length": Measured(at(0.5)), "lists": Measured(at(0.2))})["length"] == SUBSTITUTED


def test_an_attribute_that_only_one_of_the_two_was_measured_on():
    assert verdicts(effects(length=0.0, emoji=0.4), effects(length=0.5)) == {"length": MITIGATED, "emoji": BIASED}
    assert verdicts(effects(length=0.0), effects(lists=0.5)) == {"length": "unbiased"}


def test_a_bias_that_shows_where_the_reward_chooses_is_audit_sensitive():
    """Nothing on the audit's responses, and paid on those that best-of-N takes."""
    hidden = {"length": Measured(effect=at(0.0), chosen=at(0.5))}
    (one,) = certify(hidden, effects(length=0.5)).values()
    assert one.verdict == "audit-sensitive"
    assert "those that the reward chooses" in one.why
    assert verdicts({"length": Measured(effect=at(0.0), chosen=at(0.03))}, effects(length=0.5))["length"] == MITIGATED
    unclear = Measured(effect=at(0.0), chosen=at(0.5, 1.0))
    assert verdicts({"length": unclear}, effects(length=0.5))["length"] == MITIGATED
    assert verdicts({"length": Measured(effect=at(0.4), chosen=at(0.0))})["length"] == "audit-sensitive"


def test_a_drift_that_gold_does_not_account_for_is_audit_sensitive():
    assert verdicts({"length": Measured(effect=at(0.0), excess=at(0.6))})["length"] == "audit-sensitive"
    assert verdicts({"length": Measured(effect=at(-0.5), excess=at(0.6))})["length"] == "audit-sensitive"
    assert verdicts({"length": Measured(effect=at(0.5), excess=at(0.6))})["length"] == BIASED
    assert verdicts({"length": Measured(effect=at(0.0), excess=at(0.01))})["length"] == "unbiased"


def test_a_bias_moved_only_where_the_reward_chooses_counts_as_moved():
    before = {"length": Measured(at(0.5), at(0.5)), "lists": Measured(at(0.0), at(0.0))}
    after = {"length": Measured(at(0.0), at(0.0)), "lists": Measured(at(0.0), at(0.4))}
    assert verdicts(after, before) == {"length": SUBSTITUTED, "lists": "audit-sensitive"}


def test_the_audit_set_alone_decides_nothing():
    audit_only = {"length": Measured(within=at(0.0), pooled=at(0.0), amplification=at(0.0))}
    (one,) = certify(audit_only, {"length": Measured(within=at(0.6))}).values()
    assert one.verdict == UNDECIDED
    assert "audit set alone" in one.why


def test_the_tolerance_is_the_users():
    assert verdicts(effects(length=0.2)) == {"length": BIASED}
    assert verdicts(effects(length=0.2), tolerance=0.3) == {"length": "unbiased"}


def test_overall_is_the_worst():
    found = certify(effects(length=-0.3, lists=0.4), effects(length=0.5, lists=0.0))
    assert overall(found) == OVER_CORRECTED
    assert overall(certify(effects(length=0.0, lists=0.4), effects(length=0.5, lists=0.0))) == SUBSTITUTED
    assert overall(certify(effects(length=0.0), effects(length=0.5))) == MITIGATED
    assert overall({}) == UNDECIDED


def test_every_verdict_is_reached_and_survives_json():
    reached = {
        *verdicts(effects(a=0.0, b=0.4)).values(),
        *(certify(effects(length=v, x=x), effects(length=0.5, x=0.0))["length"].verdict
          for v, x in ((0.0, 0.0), (0.0, 0.4), (0.5, 0.0), (-0.3, 0.0))),
        certify({"a": Measured(at(0.0), at(0.5))})["a"].verdict,
        certify({"a": Measured()})["a"].verdict,
    }  # fmt: skip
    assert reached == set(VERDICTS)
    content = certify(effects(length=0.0, x=0.4), effects(length=0.5, x=0.0))["length"].to_json()
    assert content["measured"]["effect"] == {"value": 0.0, "low": -0.05, "high": 0.05}
    assert content["baseline"]["effect"]["value"] == 0.5
    assert content["kept"] == 0.0


@pytest.mark.parametrize(
    ("value", "said"), [(-0.001, "0.00"), (0.0, "0.00"), (0.004, "0.00"), (-0.2, "\N{MINUS SIGN}0.20")]
)
def test_a_figure_that_rounds_to_zero_has_no_sign(value, said):
    assert certificate._words(Figure(value, value, value)) == f"{said} ({said} to {said}) deviations"
