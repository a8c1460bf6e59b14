"""Settings of a reinforcement-learning run: defaults that depend on others, ranges, options that would do nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from odin_rm.core.errors import ConfigError
from odin_rm.rl.config import RLConfig


def test_ppo_collects_two_minibatches_and_remax_one() -> None:
    assert RLConfig(algorithm="ppo", minibatch_size=8).responses_per_collection == 16
    assert RLConfig(algorithm="remax", minibatch_size=8).responses_per_collection == 8


def test_steps_per_collection_count_epochs() -> None:
    assert RLConfig(minibatch_size=8, experience_size=32, ppo_epochs=3).optimiser_steps_per_collection == 12


def test_ppo_and_remax_write_one_response_to_a_prompt_and_group_algorithms_four() -> None:
    defaults = {name: RLConfig(algorithm=name).responses_per_prompt for name in ("ppo", "remax", "rloo", "grpo")}
    assert defaults == {"ppo": 1, "remax": 1, "rloo": 4, "grpo": 4}


def test_critic_learns_at_the_policys_rate_by_default() -> None:
    assert RLConfig(learning_rate=3e-4).critic_learning_rate == 3e-4
    assert RLConfig(learning_rate=3e-4, critic_learning_rate=1e-3).critic_learning_rate == 1e-3


@pytest.mark.parametrize(
    "values, name",
    [
        ({"top_p": 0.9}, "--top_p"),
        ({"algorithm": "remax", "top_k": 20}, "--top_k"),
        ({"experience_size": 48, "minibatch_size": 32}, "--experience_size"),
        ({"algorithm": "remax", "experience_size": 64, "minibatch_size": 32}, "--experience_size"),
        ({"kl_estimator": "k1", "kl_place": "loss"}, "--kl_estimator"),
        ({"kl_target": 6.0, "kl_coef": 0.0}, "--kl_target"),
        ({"algorithm": "remax", "clip_epsilon": 0.1}, "--clip_epsilon"),
        ({"algorithm": "remax", "gae_lambda": 0.9}, "--gae_lambda"),
        ({"algorithm": "ppo", "num_generations": 7}, "--num_generations"),
        ({"algorithm": "ppo", "num_generations": 0}, "--num_generations"),
        ({"algorithm": "grpo", "num_generations": 1}, "--num_generations"),
        ({"algorithm": "ppo", "group_length_rescaling": 0.5}, "--group_length_rescaling"),
        ({"algorithm": "remax", "num_generations": 1, "group_length_rescaling": 0.5}, "--group_length_rescaling"),
        ({"reward": "length_only", "length_penalty": 0.01}, "--length_penalty"),
        ({"vllm_server": "http://vllm.example"}, "--vllm_server"),
        ({"lora_alpha": 32}, "--lora_*"),
        ({"offload_reference": True, "lora_r": 4}, "--offload_reference"),
        ({"kl_estimator": "k4"}, "--kl_estimator"),
        ({"algorithm": "a2c"}, "--algorithm"),
        ({"reward_clip": 0.0}, "--reward_clip"),
        ({"temperature": 0.0}, "--temperature"),
        ({"gamma": 1.1}, "--gamma"),
        ({"kl_coef": -0.1}, "--kl_coef"),
        ({"max_steps": 0}, "--max_steps"),
        ({"learning_rate": math.nan}, "--learning_rate"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RLConfig(**values)
    assert caught.value.where == name


def test_a_schedule_that_needs_the_number_of_steps_is_part_of_the_trajectory() -> None:
    assert "max_steps" not in RLConfig().trajectory()
    assert RLConfig(lr_scheduler_type="cosine").trajectory()["max_steps"] == 200
