"""Our reward as a function for TRL, OpenRLHF and verl: ``score_texts``, each step by hand, a real GRPO step."""

from __future__ import annotations

import asyncio
import inspect
import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import odin_rm
from odin_rm.core.errors import ConfigError, RewardSourceError
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.scoring import Scorer
from tests.model.words import build_tokenizer, reward_model

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {{ eos_token }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
ASKED = "What is the best way to cook rice?"
LONG, SHORT = "Wash it well, then boil it for ten minutes.", "No."
LONG_TOKENS, SHORT_TOKENS = 11, 2
CHAT = [{"role": "user", "content": ASKED}]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    model = reward_model("llama", tmp_path_factory.mktemp("model") / "base")
    tokenizer = build_tokenizer("llama")
    tokenizer.chat_template = TEMPLATE
    settings = EncodingSettings(max_length=64, read_at="end_of_turn")
    model.info = model.info.with_(reward_mean=0.5, reward_std=2.0, encoding=asdict(settings))
    return Scorer(model, tokenizer, settings, "tiny", True, model.info)


@pytest.fixture(scope="module")
def quality(scorer: Scorer) -> np.ndarray:
    found, _, tokens = odin_rm.score_texts(scorer, [ASKED, ASKED], [LONG, SHORT])
    assert tokens.tolist() == [LONG_TOKENS, SHORT_TOKENS]
    assert abs(found[0] - found[1]) > 1e-3
    return found


def test_trl_chat_and_text_prompts(scorer, quality):
    function = odin_rm.trl_reward(scorer, name="quality")
    assert function.__name__ == "quality"
    messages = [[{"role": "assistant", "content": text}] for text in (LONG, SHORT)]
    np.testing.assert_allclose(function(prompts=[CHAT, CHAT], completions=messages), quality, atol=1e-5)
    np.testing.assert_allclose(function(prompts=[ASKED, ASKED], completions=[LONG, SHORT]), quality, atol=1e-5)
    rendered = f"<bos>user : {ASKED} <eos> . assistant : "
    np.testing.assert_allclose(function(prompts=[rendered], completions=[LONG]), quality[:1], atol=1e-5)


def test_trl_columns_state_and_logs(scorer, quality):
    function = odin_rm.trl_reward(scorer, standardise="model", clip=0.3)
    logged: dict[str, float] = {}
    found = function(
        prompts=[ASKED, ASKED],
        completions=[LONG, SHORT],
        completion_ids=[[5] * 11, [5] * 2],
        trainer_state=SimpleNamespace(global_step=3),
        log_metric=logged.__setitem__,
        log_extra=None,
        topic=["a", "b"],
    )
    expected = np.clip((quality - 0.5) / 2.0, -0.3, 0.3)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert logged["quality_reward"] == pytest.approx(quality.mean(), abs=1e-5)
    assert logged["clipped_reward"] == pytest.approx(expected.mean(), abs=1e-5)


def test_trl_asynchronous(scorer, quality):
    function = odin_rm.trl_reward(scorer, asynchronous=True)
    assert inspect.iscoroutinefunction(function)
    np.testing.assert_allclose(asyncio.run(function(prompts=[ASKED], completions=[LONG])), quality[:1], atol=1e-5)


def test_trl_every_step_by_hand(scorer, quality):
    """The policy's lengths count: 4 tokens with the end and 8 without; mean 5.5."""
    ids = [[7, 7, 7, 2], [7] * 8]
    function = odin_rm.trl_reward(
        scorer,
        end_token_ids=[2],
        length_penalty=0.1,
        missing_end_penalty=0.5,
        group_length_rescaling=1.0,
        overlong_penalty=2.0,
        overlong_length=8,
        overlong_buffer=4,
    )
    found = function(prompts=[ASKED, ASKED], completions=[SHORT, LONG], completion_ids=ids)
    cut, _, _, was_cut = odin_rm.score_rendered(scorer, [f"<bos>user : {ASKED} <eos> . assistant : {LONG}"])
    assert was_cut.tolist() == [True]
    factors = 2 / (1 + np.array([3, 8]) / 5.5)
    read = np.array([quality[1], cut[0]])
    rescaled = np.where(read > 0, read * factors, read / factors)
    np.testing.assert_allclose(found, rescaled - [0.3, 0.8] - [0.0, 2.0] - [0.0, 0.5], atol=1e-5)


def test_trl_preference_to_a_reference_answer(scorer, quality):
    function = odin_rm.trl_reward(scorer, preference_reference="answer")
    found = function(prompts=[ASKED, ASKED], completions=[LONG, SHORT], answer=[SHORT, [LONG, SHORT]])
    margin = quality[0] - quality[1]
    sigmoid = [1 / (1 + math.exp(-x)) for x in (margin, -margin)]
    np.testing.assert_allclose(found, [sigmoid[0], (sigmoid[1] + 0.5) / 2], atol=1e-5)


def test_a_response_beyond_the_window_has_no_reward(scorer, quality):
    function = odin_rm.trl_reward(scorer)
    found = function(prompts=[ASKED, ASKED], completions=["rice " * 80, SHORT])
    assert found[0] is None
    assert found[1] == pytest.approx(quality[1], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"lenght_penalty": 1.0}, "shaping"),
        ({"mean": 1.0}, "shaping"),
        ({"missing_end_penalty": 1.0}, "missing_end_penalty"),
        ({"standardise": "batch"}, "standardise"),
        ({"standardise": "model", "preference_reference": "answer"}, "standardise"),
        ({"clip": -1.0}, "--reward_clip"),
    ],
)
def test_steps_that_cannot_work_are_refused(scorer, options, where):
    with pytest.raises(ConfigError, match=f"^{where}: "):
        odin_rm.trl_reward(scorer, **options)


# ---- OpenRLHF --------------------------------------------------------------------------------------------------------


def test_openrlhf_function(scorer, quality):
    function = odin_rm.openrlhf_reward(scorer, standardise="model", length_penalty=0.01, missing_end_penalty=3.0)
    prompt = f"user : {ASKED} <eos> . assistant : "
    queries = [f"{prompt}{LONG} <eos>", f"<bos>{prompt}{SHORT} <eos>", f"{prompt}{SHORT}"]
    found = function(queries, [prompt] * 3, [None] * 3)
    cut = odin_rm.score_rendered(scorer, queries[2:])[0]
    read = np.array([*quality, *cut])
    expected = (read - 0.5) / 2 - 0.01 * np.array([LONG_TOKENS, SHORT_TOKENS, SHORT_TOKENS]) - [0.0, 0.0, 3.0]
    np.testing.assert_allclose(found["rewards"], expected, atol=1e-5)
    np.testing.assert_allclose(found["scores"], 1 / (1 + np.exp(-expected)), atol=1e-5)
    logs = found["extra_logs"]
    np.testing.assert_allclose(logs["quality"], read, atol=1e-5)
    assert logs["cut"].tolist() == [0, 0, 1]
    assert logs["response_tokens"].tolist() == [LONG_TOKENS, SHORT_TOKENS, SHORT_TOKENS]
    plain = function([f"{ASKED} {LONG}<eos>"], [ASKED], [None])
    np.testing.assert_allclose(plain["extra_logs"]["quality"], quality[:1], atol=1e-5)


def test_openrlhf_refuses_what_it_cannot_do(scorer):
    with pytest.raises(ConfigError, match="one response at a time"):
        odin_rm.openrlhf_reward(scorer, group_length_rescaling=1.0)
    with pytest.raises(ConfigError, match="takes an address itself"):
        odin_rm.openrlhf_reward("http://127.0.0.1:1/get_reward")
    long = f"user : {ASKED} <eos> . assistant : {'rice ' * 80} <eos>"
    with pytest.raises(RewardSourceError, match="no reward"):
        odin_rm.openrlhf_reward(scorer)([long], None, None)


# ---- verl ------------------------------------------------------------------------------------------------------------


def test_verl_one_at_a_time_and_in_batches(scorer, quality):
    compute_score = odin_rm.verl_reward(scorer)
    infos = [{"prompt": CHAT, "num_turns": None}, {"prompt": np.array(CHAT, dtype=object)}]
    for text, info, value in zip((LONG, SHORT), infos, quality, strict=True):
        found = compute_score(data_source="x", solution_str=text, ground_truth="", extra_info=info, reward_model=1)
        assert found["score"] == found["quality"] == pytest.approx(value, abs=1e-5)
        assert set(found) == {"score", "quality", "response_tokens", "length_reward"}
    batch = compute_score(
        data_sources=["x", "x"], solution_strs=[LONG, SHORT], ground_truths=["", ""], extra_infos=infos
    )
    np.testing.assert_allclose([row["score"] for row in batch], quality, atol=1e-5)
    assert [row["response_tokens"] for row in batch] == [LONG_TOKENS, SHORT_TOKENS]
    assert compute_score(data_sources=[], solution_strs=[], ground_truths=[], extra_infos=[]) == []


def test_verl_steps_by_hand(scorer, quality):
    compute_score = odin_rm.verl_reward(scorer, group_length_rescaling=1.0, prompt_key="question")
    infos = [{"question": ASKED}] * 2
    batch = compute_score(data_sources=None, solution_strs=[LONG, SHORT], ground_truths=None, extra_infos=infos)
    factors = 2 / (1 + np.array([LONG_TOKENS, SHORT_TOKENS]) / 6.5)
    expected = np.where(quality > 0, quality * factors, quality / factors)
    np.testing.assert_allclose([row["score"] for row in batch], expected, atol=1e-5)
    with pytest.raises(ConfigError, match="batch manager"):
        compute_score(data_source="x", solution_str=LONG, ground_truth="", extra_info=infos[0])
    preferred = odin_rm.verl_reward(scorer, reference_key="ground_truth")
    found = preferred(data_source="x", solution_str=LONG, ground_truth=SHORT, extra_info={"prompt": ASKED})
    assert found["score"] == pytest.approx(1 / (1 + math.exp(quality[1] - quality[0])), abs=1e-5)
    assert found["quality"] == found["score"]


@pytest.mark.parametrize("info", [None, {}, {"prompt": ""}, {"prompt": 5}, {"prompt": []}])
def test_verl_without_a_prompt_is_told_where_to_put_it(scorer, info):
    with pytest.raises(ConfigError, match="extra_info has no prompt at 'prompt'"):
        odin_rm.verl_reward(scorer)(data_source="x", solution_str=LONG, ground_truth="", extra_info=info)


# ---- a real trainer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [False, True])
def test_a_grpo_step_of_trl_earns_what_scoring_says(chat, scorer, bench: Path, tmp_path: Path):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(bench / "policy")
    if chat:
        tokenizer.chat_template = TEMPLATE
    seen: list[tuple[Any, Any, list[float]]] = []
    function = odin_rm.trl_reward(scorer)
    beside = odin_rm.trl_reward(scorer, asynchronous=True, name="beside")

    def watched(prompts: Any, completions: Any, **others: Any) -> list[float | None]:
        values = function(prompts=prompts, completions=completions, **others)
        seen.append((prompts, completions, values))
        return values

    prompts = [CHAT if chat else ASKED] * 4
    sizes: dict[str, Any] = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 6}
    trainer = GRPOTrainer(
        model=str(bench / "policy"),
        reward_funcs=[watched, beside],
        args=GRPOConfig(
            output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to="none", logging_steps=1, **sizes
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts, "topic": ["a"] * 4}),
        processing_class=tokenizer,
    )
    trainer.train()
    ((asked, completions, values),) = seen
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    assert all(isinstance(one, list) for one in completions) == chat
    keep = [i for i, text in enumerate(texts) if text.strip()]
    expected = odin_rm.score_texts(scorer, [ASKED] * len(keep), [texts[i] for i in keep])[0]
    np.testing.assert_allclose([values[i] for i in keep], expected, atol=1e-5)
    assert len(keep) >= 2
    (row,) = [row for row in trainer.state.log_history if "rewards/beside/mean" in row]
    assert row["rewards/watched/mean"] == pytest.approx(row["rewards/beside/mean"], abs=1e-5)
    assert row["rewards/watched/mean"] == pytest.approx(np.mean(values), abs=1e-5)
