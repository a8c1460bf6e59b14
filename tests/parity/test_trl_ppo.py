"""Our PPO mathematics against numbers recorded inside TRL 1.12.0's ``PPOTrainer`` (``make bench-trl-ppo-parity``)."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from benchmarks import trl_ppo_parity

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def recording() -> Any:
    return json.loads(trl_ppo_parity.RECORDING.read_text(encoding="utf-8"))


def test_every_function_gives_the_numbers_of_trl(recording: Any) -> None:
    worst = trl_ppo_parity.differences(recording)
    assert {name: value for name, value in worst.items() if not value < TOLERANCE} == {}
    functions = {name.split()[0] for name in worst}
    assert functions >= {"kl_estimate", "token_rewards", "gae", "whiten", "ppo_policy_loss", "value_loss"}
    assert functions >= {"gather_log_probs", "token_entropy"}


def test_the_recording_holds_what_is_worth_comparing(recording: Any) -> None:
    """Responses that ended and that were cut, ratios of 1 in the first update, clipping of both kinds in later ones."""
    assert recording["versions"]["trl"] == trl_ppo_parity.VERSION
    assert {case["settings"]["kl_estimator"] for case in recording["cases"].values()} == {"k1", "k3"}
    for case in recording["cases"].values():
        lengths = [sum(row) for row in case["collection"]["mask"]]
        assert min(lengths) < max(lengths) == trl_ppo_parity.RESPONSE_TOKENS
        first, *later = case["minibatches"]
        assert first["approxkl"] < 1e-12
        assert first["pg_clipfrac"] == 0
        assert len(later) == 3
        assert all(0 < m["pg_clipfrac"] < 1 and 0 < m["vf_clipfrac"] < 1 for m in later)


@pytest.mark.parametrize(
    ("setting", "functions"),
    [
        ("kl_coef", {"token_rewards", "scores"}),
        ("gamma", {"gae", "scores"}),
        ("lam", {"gae", "scores"}),
        ("cliprange", {"ppo_policy_loss"}),
        ("cliprange_value", {"value_loss"}),
        ("temperature", {"gather_log_probs", "token_entropy"}),
    ],
)
def test_the_comparison_can_fail(recording: Any, setting: str, functions: set[str]) -> None:
    """Each setting 5 % off is far outside the tolerance, and in the functions that have it alone."""
    other = copy.deepcopy(recording)
    for case in other["cases"].values():
        case["settings"][setting] *= 0.95
    worst = trl_ppo_parity.differences(other)
    assert {name.split()[0] for name, value in worst.items() if value > 1000 * TOLERANCE} == functions


def test_trl_rewards_the_position_after_the_end_token(recording: Any) -> None:
    """The difference of layout that the comparison allows for: on the tokens alone our rewards are elsewhere."""
    other = copy.deepcopy(recording)
    for case in other["cases"].values():
        case["collection"]["mask_with_next"] = case["collection"]["mask"]
    assert trl_ppo_parity.differences(other)["token_rewards"] > 0.1
