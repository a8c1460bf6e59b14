"""Reward models as sources: their own tokenizer and template, the quality head only; and which words mean what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from odin_rm.core.errors import ConfigError, ModelError, RewardSourceError
from odin_rm.core.types import LENGTH, QUALITY
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_scorer, score_texts
from odin_rm.rl.reward_source import load_reward_source
from odin_rm.rl.sources.callable import CallableSource
from odin_rm.rl.sources.http import HttpSource
from odin_rm.rl.sources.length import LengthSource
from odin_rm.rl.sources.model import ModelSource
from odin_rm.testbed import tiny
from tests.families import family_configs, save_base
from tests.model.words import TEXTS, build_tokenizer
from tests.rl.sources_kit import CHAT, make_request

TEMPLATE = (
    "{% for m in messages %}{{ '<bos>' if loop.first }} {{ m['role'] }} : {{ m['content'] }} . {% endfor %}"
    "{{ 'assistant :' if add_generation_prompt }}"
)
NO_SYSTEM = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
NO_SYSTEM += "{{ m['role'] + ' : ' + m['content'] + ' ' }}{% endfor %}"


def save_reward_model(folder: Path, *, template: str | None = None, encoding: dict | None = None, **info) -> Path:
    """A tiny two-head model with a tokenizer that is not the policy's."""
    save_base("llama", folder / "base")
    torch.manual_seed(1)
    model = RewardModel.from_backbone(folder / "base", heads=(QUALITY, LENGTH))
    model.info = model.info.with_(encoding=encoding or {"max_length": 64}, **info)
    tokenizer = build_tokenizer("llama")
    tokenizer.chat_template = template
    model.save_pretrained(folder / "run" / "model", tokenizer=tokenizer)
    return folder / "run"


def save_classifier(folder: Path, labels: int) -> Path:
    config = family_configs()["bert"]
    config.num_labels = labels
    torch.manual_seed(2)
    tf.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    build_tokenizer("bert").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("plain"), reward_mean=0.25, reward_std=2.0)


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("chat"), template=TEMPLATE)


def policy_request(prompts, responses):
    """As a policy with the testbed's tokenizer would have written it: its ids mean nothing to the reward model."""
    request = make_request(prompts, responses)
    tokenizer = tiny.build_tokenizer()
    request.response_ids[:] = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in responses]
    return request


@pytest.mark.parametrize("which", ["plain", "chat"])
def test_policy_and_reward_model_may_differ_in_tokenizer_and_template(which, request):
    """The scores are those of the texts as ``odin-rm score`` reads them, whatever the policy's ids are."""
    folder = request.getfixturevalue(which)
    prompts = [*(prompt for prompt, _ in TEXTS), CHAT]
    responses = [*(response for _, response in TEXTS), "because it is red"]
    policy_tokenizer = tiny.build_tokenizer()
    policy_tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    source = load_reward_source(str(folder), policy_tokenizer=policy_tokenizer, microbatch_tokens=40)
    judged = source.judge(policy_request(prompts, responses))
    quality_R, length_R, tokens_R = score_texts(load_scorer(folder), prompts, responses)
    np.testing.assert_allclose(judged.quality, quality_R, atol=1e-5)
    np.testing.assert_allclose(judged.length_for_log, length_R, atol=1e-5)
    assert judged.tokens.tolist() == tokens_R.tolist()
    assert judged.quality.std() > 1e-3  # or any reading would do


def test_the_reward_model_reads_its_own_template(plain, chat):
    request = policy_request(["Why?"], ["no"])
    one, other = (load_reward_source(str(folder)).judge(request).quality for folder in (plain, chat))
    assert abs(one - other) > 1e-4  # the same weights, two renderings


def test_statistics_come_with_our_model_and_with_nobody_elses(plain, chat, tmp_path):
    ours, unmeasured = load_reward_source(str(plain)), load_reward_source(str(chat))
    theirs = load_reward_source(str(save_classifier(tmp_path / "stock", 1)))
    assert (ours.reward_mean, ours.reward_std) == (0.25, 2.0)
    assert (unmeasured.reward_mean, unmeasured.reward_std, theirs.reward_mean, theirs.reward_std) == (None,) * 4
    assert (ours.name, theirs.name) == ("run", "stock")


def test_a_stock_classifier_of_one_label_is_read_as_it_is(tmp_path):
    folder = save_classifier(tmp_path / "stock", 1)
    judged = load_reward_source(str(folder)).judge(policy_request(*zip(*TEXTS, strict=True)))
    model = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    for (prompt, response), quality in zip(TEXTS, judged.quality, strict=True):
        inputs = tokenizer(f"Human: {prompt}\n\nAssistant: {response}", return_tensors="pt")
        with torch.no_grad():
            logit = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits[0, 0]
        assert quality == pytest.approx(float(logit), abs=1e-5)
    assert judged.length_for_log is None


def test_a_classifier_of_two_labels_is_refused_with_the_way_out(tmp_path):
    folder = save_classifier(tmp_path / "two", 2)
    with pytest.raises(ConfigError, match=r"two: the model has 2 labels .* Give a model of one label, or a file.py:"):
        load_reward_source(str(folder))


def test_empty_texts_have_a_reward(plain):
    judged = load_reward_source(str(plain)).judge(policy_request(["Why?", "Why?"], ["", "no"]))
    assert np.isfinite(judged.quality).all()
    assert judged.tokens.tolist() == [0, 1]
    none = load_reward_source(str(plain)).judge(policy_request([], []))
    assert none.quality.shape == (0,)


def test_a_response_that_the_policy_did_not_end_is_read_without_an_ending(plain):
    source = load_reward_source(str(plain))
    scorer = source.scorer
    both = policy_request(["Why?", "Why?"], ["no cats", "no cats"])
    judged = source.judge(replace(both, ended=np.array([False, True])))
    ids = scorer.tokenizer("Human: Why?\n\nAssistant: no cats")["input_ids"]
    with torch.no_grad():
        rows = [torch.tensor([row]) for row in (ids, [*ids, scorer.tokenizer.eos_token_id])]
        alone = [scorer.model(row, torch.ones_like(row)).quality.item() for row in rows]
    assert judged.quality.tolist() == pytest.approx(alone, abs=1e-5)
    assert abs(alone[0] - alone[1]) > 1e-3
    assert judged.tokens.tolist() == [2, 2]
    assert source.judge(both).quality.tolist() == pytest.approx([alone[1]] * 2, abs=1e-5)


def test_a_long_prompt_loses_its_start_and_a_long_response_has_no_reward(plain):
    source = load_reward_source(str(plain))
    rice = "rice " * 200
    judged = source.judge(policy_request([f"red {rice}", f"green {rice}", "Why?", "Why?"], ["no", "no", rice, "no"]))
    assert np.isfinite(judged.quality).tolist() == [True, True, False, True]
    assert np.isfinite(judged.length_for_log).tolist() == [True, True, False, True]
    assert judged.quality[0] == pytest.approx(judged.quality[1], abs=1e-6)  # what differs is cut away
    assert judged.tokens.tolist() == [1, 1, 200, 1]
    assert judged.quality[3] == pytest.approx(source.judge(policy_request(["Why?"], ["no"])).quality[0], abs=1e-5)
    alone = source.judge(policy_request(["Why?"], [rice]))  # not one that fits
    assert np.isnan(alone.quality).all()


def test_a_model_that_was_trained_on_cut_responses_still_gets_whole_ones(tmp_path):
    folder = save_reward_model(tmp_path, encoding={"max_length": 32, "overlong": "truncate_response"})
    assert np.isnan(load_reward_source(str(folder)).judge(policy_request(["Why?"], ["rice " * 99])).quality).all()


def test_a_conversation_that_the_template_refuses_is_named(tmp_path):
    source = load_reward_source(str(save_reward_model(tmp_path, template=NO_SYSTEM)))
    with pytest.raises(RewardSourceError, match=r"run: the chat template refuses .*no system role.* \(response 2\)"):
        source.judge(policy_request(["Why?", CHAT], ["no", "no"]))


def test_a_score_that_is_no_number_is_left_to_the_run_to_judge(plain):
    source = load_reward_source(str(plain))
    with torch.no_grad():
        source.scorer.model.heads.vectors[QUALITY].fill_(float("nan"))
    assert np.isnan(source.judge(policy_request(["Why?"], ["no"])).quality).all()


def test_length_only_pays_tokens_of_the_policy():
    judged = load_reward_source("length_only").judge(make_request(responses=["a b c", "", "a"]))
    assert judged.quality.tolist() == [3.0, 0.0, 1.0]
    assert judged.quality.dtype == np.float64


def test_which_words_mean_what(plain, tmp_path, monkeypatch):
    odd = tmp_path / "odd:name"
    odd.mkdir()
    (plain / "model").rename(odd / "model")
    try:
        kinds = {
            "length_only": LengthSource,
            "gold": CallableSource,
            "http://host/x": HttpSource,
            "https://host:5000/get_reward": HttpSource,
            "tests.rl.sources_kit:make_request": CallableSource,
            str(odd): ModelSource,  # a folder that is there is a model, whatever it is called
        }
        for spec, kind in kinds.items():
            assert type(load_reward_source(spec, device="cpu")) is kind
    finally:
        (odd / "model").rename(plain / "model")
    assert load_reward_source("gold").name == "gold"
    with pytest.raises(ModelError):
        load_reward_source(str(tmp_path / "nothing"))


def test_options_reach_the_source(plain):
    served = load_reward_source("http://host/x", policy_tokenizer="t", chat_template="c", timeout=3.0, retries=1)
    assert (served.tokenizer, served.chat_template, served.timeout, served.retries) == ("t", "c", 3.0, 1)
    assert load_reward_source(str(plain), microbatch_tokens=77).microbatch_tokens == 77
    with pytest.raises(ConfigError, match="'nowhere' cannot be used"):
        load_reward_source(str(plain), device="nowhere")
