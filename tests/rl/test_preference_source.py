"""Preference to a reference answer as a reward: by hand, each answer asked for once, and live in a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError
from odin_rm.data.prompts import PromptSet
from odin_rm.rl.records import JudgedResponses, RewardRequest
from odin_rm.rl.sources.preference import PreferenceSource, check_reference_answers
from tests.rl.sources_kit import make_request


class Letters:
    """A letter is worth one."""

    name, reward_mean, reward_std = "letters", 1.0, 2.0

    def __init__(self) -> None:
        self.requests: list[RewardRequest] = []

    def judge(self, request: RewardRequest) -> JudgedResponses:
        self.requests.append(request)
        return JudgedResponses(np.array([float(len(text)) for text in request.responses]))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_by_hand_and_each_answer_once() -> None:
    inner = Letters()
    source = PreferenceSource(inner, "answer")
    columns = {"answer": ["abc", ["a", "abcd"], [{"role": "assistant", "content": "x"}]]}
    request = make_request(["p", "q", "p"], ["abcde", "ab", "y"], columns=columns)
    judged = source.judge(request)
    expected = [sigmoid(2), (sigmoid(1) + sigmoid(-2)) / 2, 0.5]
    np.testing.assert_allclose(judged.quality, expected)
    assert judged.log_columns["quality"] == [5.0, 2.0, 1.0]
    assert judged.log_columns["reference_quality"] == [3.0, 2.5, 1.0]
    assert [one.responses for one in inner.requests] == [["abc", "a", "abcd", "x"], ["abcde", "ab", "y"]]
    assert inner.requests[0].prompts == ["p", "q", "q", "p"]
    assert (source.reward_mean, source.reward_std) == (None, None)
    source.judge(request)
    assert [len(one.responses) for one in inner.requests] == [4, 3, 3]


@pytest.mark.parametrize("value", [None, "", "  ", [], ["a", ""], 5, [{"role": "assistant"}]])
def test_prompts_without_an_answer_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="prompt 2 has no answer in the column 'answer'"):
        check_reference_answers(PromptSet(["p", "q"], {"answer": ["a", value]}, "x"), "answer")
    with pytest.raises(ConfigError, match="no column 'other'"):
        check_reference_answers(PromptSet(["p"], {"answer": ["a"]}, "x"), "other")


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_it_is_live_in_a_run(algorithm: str, make_config: Any, bench: Path, tmp_path: Path) -> None:
    """``length_only`` pays a token each; the answers have two tokens and an end."""
    from odin_rm.workflows.rl.run import train_policy

    rows = [json.loads(line) for line in (bench / "prompts.jsonl").read_text().splitlines()]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({**row, "answer": "yes ."}) + "\n" for row in rows))
    changes: dict[str, Any] = {"reward": "length_only", "preference_reference": "answer", "standardise": "none"}
    size = {"num_generations": 2} if algorithm == "grpo" else {}
    run = train_policy(
        make_config(algorithm=algorithm, prompts=str(path), max_steps=1, sample_steps=1, **changes, **size)
    )
    (row, *_) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert row["source_reference_quality"] == 2.0
    assert len(samples) == 4
    for sample in samples:
        assert sample["quality"] == pytest.approx(sigmoid(sample["response_tokens"] - 2.0))
    assert row["mean_quality_reward"] == pytest.approx(np.mean([sample["quality"] for sample in samples]))


def test_it_needs_another_standardisation_than_the_models(make_config: Any) -> None:
    with pytest.raises(ConfigError, match="--standardise model"):
        make_config(preference_reference="answer", standardise="model")
