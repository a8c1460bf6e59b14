"""One look: figures that can be worked out another way, chance that stays its own, rows for ``samples.jsonl``."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from odin_rm.core.errors import RewardSourceError
from odin_rm.model.policy import response_log_probs
from odin_rm.rl.records import Rollout, SamplingSettings
from odin_rm.rl.text_statistics import text_statistics
from odin_rm.rl.watch_look import observe_policy
from tests.rl.watch_fakes import END, PAD, PROMPT_IDS, PROMPTS, RandomEngine, Source, tiny_policy

SAMPLING = SamplingSettings(max_new_tokens=10, temperature=0.7)


def look(policy: Any, reference: Any, **changes: Any) -> Any:
    arguments = {
        "engine": RandomEngine(policy),
        "policy": policy,
        "reference_pass": lambda batch: response_log_probs(reference, batch, SAMPLING.temperature),
        "prompts": PROMPTS,
        "prompt_ids": PROMPT_IDS,
        "sampling": SAMPLING,
        "source": Source(lambda request: request.response_tokens * 0.5),
        "held_out": None,
        "pad_token_id": PAD,
        "microbatch_tokens": 10_000,
        "seed": 3,
        "step": 40,
    }
    return observe_policy(**(arguments | changes))


class Fixed(RandomEngine):
    """Writes what it was told."""

    def __init__(self, *responses: list[int]) -> None:
        self.responses = responses

    def generate(self, prompt_ids: Any, sampling: Any, *, greedy: Any = None) -> list[Rollout]:
        return [
            Rollout(list(ids), written, written[-1] == END, f"text {row}")
            for row, (ids, written) in enumerate(zip(prompt_ids, self.responses, strict=True))
        ]


def test_kl_and_entropy_against_one_unpadded_response_at_a_time():
    policy, reference = tiny_policy(1), tiny_policy(2)
    responses = [20, 21, 20, END], [30, END], [40, 41, 42, 43, 44, 45]
    record, _ = look(policy, reference, engine=Fixed(*responses))
    kl, entropies = [], []
    for prompt, response in zip(PROMPT_IDS, responses, strict=True):
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            logs = [
                torch.log_softmax(model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / 0.7, -1)
                for model in (policy, reference)
            ]
        chosen = [log[torch.arange(len(response)), response] for log in logs]
        kl.append(float((chosen[0] - chosen[1]).sum()))
        entropies += (-(logs[0].exp() * logs[0]).sum(-1)).tolist()
    assert record.kl == pytest.approx(np.mean(kl), rel=1e-4)
    assert record.entropy == pytest.approx(np.mean(entropies), rel=1e-5)  # of 12 tokens, each the same weight


def test_the_plain_figures_by_hand():
    responses = [20, 21, 20, END], [30, END], [40, 41, 42, 43, 44, 45]
    held_out = Source(lambda request: [0.5, math.nan, 0.1] if request.ended.tolist() == [True, True, False] else None)
    source = Source(lambda request: [1.0, 2.0, 6.0], lambda request: [0.1, 0.2, 0.6])
    record, rows = look(tiny_policy(), tiny_policy(), engine=Fixed(*responses), source=source, held_out=held_out)
    assert (record.step, record.ended_share) == (40, pytest.approx(2 / 3))
    assert record.mean_tokens == pytest.approx((3 + 1 + 6) / 3)  # end tokens do not count
    assert (record.quality, record.length_reward) == (pytest.approx(3.0), pytest.approx(0.3))
    assert record.quality_error == pytest.approx(math.sqrt(7.0) / math.sqrt(3))  # variance (4 + 1 + 9) / 2
    assert record.held_out == pytest.approx(0.3)
    assert record.held_out_error == pytest.approx(math.sqrt(0.08) / math.sqrt(2))
    statistics = text_statistics(responses)
    assert (record.distinct_2, record.repetition) == (statistics["distinct_2"], statistics["repetition"])
    assert rows[0] == {
        "step": 40,
        "prompt": PROMPTS.prompts[0],
        "response": "text 0",
        "response_tokens": 3,
        "ended": True,
        "quality": 1.0,
        "length_reward": 0.1,
        "held_out": 0.5,
    }
    assert [row["prompt"] for row in rows] == PROMPTS.prompts
    assert [row["held_out"] for row in rows] == [0.5, None, 0.1]
    json.dumps([rows, asdict(record)], allow_nan=False)


def test_a_policy_that_is_its_reference_is_at_distance_zero():
    policy = tiny_policy()
    record, _ = look(policy, policy)
    assert record.kl == 0.0
    assert record.entropy > 1.0


def test_micro_batches_change_nothing():
    policy, reference = tiny_policy(1), tiny_policy(2)
    one, one_rows = look(policy, reference)
    many, many_rows = look(policy, reference, microbatch_tokens=1)
    assert (many.kl, many.entropy) == pytest.approx((one.kl, one.entropy), rel=1e-4)
    assert many_rows == one_rows


def test_the_sources_get_prompts_columns_and_step():
    source, held_out = Source(lambda request: [1, 2, 3]), Source(lambda request: [3, 2, 1])
    _, rows = look(tiny_policy(), tiny_policy(), source=source, held_out=held_out)
    assert len(source.requests) == len(held_out.requests) == 1
    request = source.requests[0]
    assert request is held_out.requests[0]
    assert (request.prompts, request.columns, request.step) == (PROMPTS.prompts, {"n": [1, 2, 3]}, 40)
    assert request.responses == [row["response"] for row in rows]
    assert request.response_tokens.tolist() == [row["response_tokens"] for row in rows]
    assert [row["quality"] for row in rows] == [1, 2, 3]


def random_numbers() -> tuple:
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


def test_a_seed_decides_and_the_global_random_state_is_untouched():
    def noisy(request: Any) -> Any:
        return [random.random() + np.random.rand() for _ in request.prompts]

    torch.manual_seed(11), np.random.seed(11), random.seed(11)
    expected = random_numbers()
    torch.manual_seed(11), np.random.seed(11), random.seed(11)
    policy, reference = tiny_policy(1), tiny_policy(2)
    first = look(policy, reference, source=Source(noisy))
    assert random_numbers() == expected
    assert look(policy, reference, source=Source(noisy)) == first
    assert look(policy, reference, source=Source(noisy), seed=4) != first


def test_the_random_state_and_the_training_modes_come_back_where_a_source_fails():
    def dead(request: Any) -> Any:
        raise RewardSourceError("the server does not answer")

    policy = tiny_policy().train()
    policy.model.norm.eval()
    torch.manual_seed(5)
    expected = torch.rand(2).tolist()
    torch.manual_seed(5)
    engine = RandomEngine(policy)
    with pytest.raises(RewardSourceError, match="does not answer"):
        look(policy, tiny_policy(), source=Source(dead), engine=engine)
    assert torch.rand(2).tolist() == expected
    assert engine.training == [False]
    assert policy.training
    assert not policy.model.norm.training


def test_no_gradient_is_kept():
    policy = tiny_policy()
    look(policy, tiny_policy(2))
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_a_source_that_knows_nothing_gives_nulls_in_rows_and_an_unknown_mean():
    source = Source(lambda request: [math.nan] * 3)
    record, rows = look(tiny_policy(), tiny_policy(), source=source)
    assert math.isnan(record.quality)
    assert {row["quality"] for row in rows} == {None}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_devices_random_state_is_untouched_too():
    policy, reference = tiny_policy(1).cuda(), tiny_policy(2).cuda()
    torch.manual_seed(7)
    expected = torch.rand(3, device="cuda").tolist()
    torch.manual_seed(7)
    torch.rand(0, device="cuda")
    record, _ = look(policy, reference)
    assert math.isfinite(record.kl)
    assert torch.rand(3, device="cuda").tolist() == expected
