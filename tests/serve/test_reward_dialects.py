"""Each protocol under a real server: requests as the clients write them, replies as they read them, scores to 1e-5."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest

import odin_rm
from odin_rm.model.scoring import Scorer
from odin_rm.serve.reward.app import Service
from tests.serve.reward_kit import assert_close, make_model, make_scorer, quality, rendered, serving

ASKED = "What is the best way to cook rice?"
GOOD, BAD = "Wash it well, then boil it for ten minutes.", "No."


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return make_scorer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def client(scorer: Scorer) -> Iterator[httpx2.Client]:
    with serving(Service({"rm": make_model(scorer)})) as client:
        yield client


@pytest.fixture(scope="module")
def expected(scorer: Scorer) -> list[float]:
    scores = quality(scorer, [ASKED, ASKED], [GOOD, BAD])
    assert abs(scores[0] - scores[1]) > 1e-3
    return scores


def post(client: httpx2.Client, path: str, body: object, status: int = 200) -> dict:
    reply = client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


# ---- trainers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [" <eos>", "<eos>", " <eos> .", " <eos> . <eos>"])
@pytest.mark.parametrize("start", ["<bos>", ""])
def test_openrlhf_query_is_the_conversation_however_it_ends(client, scorer, expected, start, ending):
    queries = [rendered(ASKED, text, ending, start) for text in (GOOD, BAD)]
    prompt = f"{start}user : {ASKED} <eos> . assistant : "
    found = post(client, "/get_reward", {"query": queries, "prompts": [prompt] * 2, "labels": [None, None]})
    assert_close(found["rewards"], expected)
    assert_close(found["scores"], [1 / (1 + math.exp(-one)) for one in expected])
    _, length, tokens = odin_rm.score_texts(scorer, [ASKED] * 2, [GOOD, BAD])
    logs = found["extra_logs"]
    assert set(logs) == {"quality", "length_reward", "response_tokens", "cut"}
    assert_close(logs["length_reward"], length)
    assert logs["response_tokens"] == tokens.tolist()
    assert logs["cut"] == [0, 0]
    assert logs["quality"] == found["rewards"]


def test_openrlhf_cut_query_is_read_at_its_last_token(client, scorer):
    text = rendered(ASKED, GOOD, ending="")
    found = post(client, "/get_reward", {"query": [text], "prompts": [""], "labels": [None]})
    assert_close(found["rewards"], odin_rm.score_rendered(scorer, [text])[0])
    assert found["extra_logs"]["cut"] == [1]


def test_openrlhf_empty_lists_and_a_single_string(client, expected):
    empty = post(client, "/get_reward", {"query": [], "prompts": [], "labels": []})
    assert empty == {"rewards": [], "scores": [], "extra_logs": {}}
    assert_close(post(client, "/get_reward", {"query": rendered(ASKED, GOOD)})["rewards"], expected[:1])


def test_openrlhf_prompts_without_a_template_are_conversations(client, expected):
    """``--apply_chat_template`` was not given: prompt and response stand one behind the other."""
    body = {"query": [f"{ASKED}{GOOD}<eos>", f"{ASKED} {BAD}<eos>"], "prompts": [ASKED, ASKED], "labels": [None, None]}
    found = post(client, "/get_reward", body)
    assert_close(found["rewards"], expected)


def test_openrlhf_text_of_another_template_is_refused(client):
    found = post(client, "/get_reward", {"query": ["<|im_start|>user\nHi<|im_end|>"], "prompts": None}, 400)
    assert set(found) == {"detail"}
    assert "not in the form of the model's chat template" in found["detail"]


def test_slime_single_sample_is_answered_by_the_number_itself(client, expected):
    body = {"prompt": ASKED, "response": GOOD, "label": "x"}
    assert_close(post(client, "/get_reward", body), expected[0])
    chat = {"prompt": [{"role": "user", "content": ASKED}], "response": BAD, "label": None}
    assert_close(post(client, "/get_reward", chat), expected[1])
    as_rendered = {"prompt": f"<bos>user : {ASKED} <eos> . assistant : ", "response": f"{GOOD} <eos>", "label": None}
    assert_close(post(client, "/get_reward", as_rendered), expected[0])


def test_llamafactory_score_evaluation(client, expected):
    texts = [rendered(ASKED, text) for text in (GOOD, BAD)]
    found = post(client, "/v1/score/evaluation", {"model": "model", "messages": texts})
    assert_close(found["scores"], expected)
    assert (found["object"], found["model"]) == ("score.evaluation", "rm")
    assert found["id"]


def test_lenbias_bare_list(client, scorer, expected):
    found = post(client, "/get_reward", {"texts": [rendered(ASKED, GOOD), "rice is green"]})
    assert isinstance(found, list)
    assert_close(found[0], expected[0])
    assert_close(post(client, "/", {"texts": [rendered(ASKED, GOOD)]}), expected[:1])


# ---- vLLM and its kin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_vllm_classify_messages_text_and_ids(client, scorer, expected, path):
    messages = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": GOOD}]
    parts = [{"role": "user", "content": [{"type": "text", "text": ASKED}]}, messages[1]]
    text = rendered(ASKED, GOOD)
    ids = scorer.tokenizer(text, add_special_tokens=False)["input_ids"]
    forms = [
        {"messages": messages},
        {"messages": parts},
        {"input": text},
        {"input": [text]},
        {"input": text.removeprefix("<bos>"), "use_activation": False},
        {"input": text, "add_special_tokens": False, "use_activation": True},
        {"input": ids},
        {"input": [ids]},
    ]
    for form in forms:
        found = post(client, path, {"model": "rm", **form})
        assert set(found) == {"id", "object", "created", "model", "data", "usage"}
        (one,) = found["data"]
        assert (one["index"], one["label"], one["num_classes"]) == (0, "quality", 1)
        assert_close(one["probs"], expected[:1])
        counts = {"prompt_tokens": len(ids), "total_tokens": len(ids), "completion_tokens": 0}
        assert found["usage"] == counts | {"prompt_tokens_details": None, "completion_tokens_details": None}


def test_vllm_free_text_is_read_as_it_stands(client, scorer):
    """As vLLM reads it: the start token once, nothing behind."""
    text = "cats sleep on the green hill"
    ids = scorer.tokenizer(text)["input_ids"]
    assert ids[0] == scorer.tokenizer.bos_token_id
    import torch

    with torch.no_grad():
        alone = scorer.model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)).quality.item()
    for form in (text, f"<bos>{text}", [text], ids):
        assert_close(post(client, "/classify", {"input": form})["data"][0]["probs"], [alone])
    bare = ids[1:]
    found = post(client, "/classify", {"input": text, "add_special_tokens": False})
    assert_close(found["data"][0]["probs"], post(client, "/classify", {"input": bare})["data"][0]["probs"])


def test_verl_reads_the_last_probability_under_the_path_that_it_knows(client, expected):
    text = rendered(ASKED, BAD, start="")
    found = post(client, "/classify", {"model": "checkpoints/their/path", "input": text, "use_activation": False})
    assert_close(found["data"][-1]["probs"][-1], expected[1])
    found = post(client, "/v1/embeddings", {"model": "checkpoints/their/path", "input": text})
    assert_close(found["data"][-1]["embedding"][-1], expected[1])


def test_pooling_and_embeddings_as_floats_and_base64(client, expected):
    body = {"model": "rm", "input": [rendered(ASKED, text) for text in (GOOD, BAD)]}
    pooled = post(client, "/pooling", {**body, "task": "classify"})
    assert_close([one["data"] for one in pooled["data"]], [[one] for one in expected])
    packed = post(client, "/v1/embeddings", {**body, "encoding_format": "base64"})
    values = [struct.unpack("<f", base64.b64decode(one["embedding"]))[0] for one in packed["data"]]
    assert_close(values, expected)
    assert [one["object"] for one in packed["data"]] == ["embedding"] * 2
    post(client, "/pooling", {**body, "encoding_format": "hex"}, 400)


def test_sglang_classify(client, scorer, expected):
    text = rendered(ASKED, GOOD)
    found = post(client, "/classify", {"text": [text, rendered(ASKED, BAD)]})
    assert_close([one["embedding"][0] for one in found], expected)
    assert found[0]["meta_info"]["prompt_tokens"] > 10
    assert_close(post(client, "/classify", {"text": text})["embedding"], expected[:1])
    ids = scorer.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert_close(post(client, "/classify", {"input_ids": [ids]})[0]["embedding"], expected[:1])


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
def test_vllm_score_one_to_one_to_many_and_in_pairs(client, expected, path, names):
    one, two = names
    found = post(client, path, {"model": "rm", one: ASKED, two: GOOD})
    assert_close([row["score"] for row in found["data"]], expected[:1])
    found = post(client, path, {one: ASKED, two: [GOOD, BAD]})
    assert_close([row["score"] for row in found["data"]], expected)
    assert [(row["index"], row["object"]) for row in found["data"]] == [(0, "score"), (1, "score")]
    found = post(client, path, {one: [ASKED, ASKED], two: [BAD, GOOD]})
    assert_close([row["score"] for row in found["data"]], expected[::-1])
    refused = post(client, path, {one: [ASKED, ASKED], two: [GOOD, BAD, GOOD]}, 400)
    assert refused["error"]["code"] == 400


# ---- rerankers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_cohere_rerank_sorts(client, expected, path):
    order = list(np.argsort([-one for one in expected]))
    body = {"model": "rm", "query": ASKED, "documents": [GOOD, {"text": BAD}]}
    found = post(client, path, body)
    assert [row["index"] for row in found["results"]] == order
    assert_close([row["relevance_score"] for row in found["results"]], [expected[i] for i in order])
    assert found["results"][0]["document"] == {"text": (GOOD, BAD)[order[0]], "multi_modal": None}
    first = post(client, path, {**body, "top_n": 1, "return_documents": False})
    assert [set(row) for row in first["results"]] == [{"index", "relevance_score"}]
    refused = post(client, path, {**body, "top_n": -1}, 400)
    assert refused["message"] == refused["error"]["message"]


def test_tei_rerank_is_told_by_texts(client, expected):
    order = list(np.argsort([-one for one in expected]))
    found = post(client, "/rerank", {"query": ASKED, "texts": [GOOD, BAD], "return_text": True, "raw_scores": True})
    assert [(row["index"], row["text"]) for row in found] == [(i, (GOOD, BAD)[i]) for i in order]
    assert_close([row["score"] for row in found], [expected[i] for i in order])
    assert set(post(client, "/rerank", {"query": ASKED, "texts": [GOOD]})[0]) == {"index", "score"}


def test_tei_predict_text_pair_and_batch(client, expected):
    text = rendered(ASKED, GOOD)
    for inputs in (text, [text], [ASKED, GOOD]):
        (one,) = post(client, "/predict", {"inputs": inputs, "raw_scores": True})
        assert one["label"] == "quality"
        assert_close(one["score"], expected[0])
    found = post(client, "/predict", {"inputs": [[text], [ASKED, BAD]]})
    assert_close([row[0]["score"] for row in found], expected)
    refused = post(client, "/predict", {"inputs": [ASKED, GOOD, BAD]}, 422)
    assert set(refused) == {"error", "error_type"}


# ---- what is not scored ----------------------------------------------------------------------------------------------


def test_too_long_texts_are_refused_or_lose_the_start_of_their_prompt(client, scorer):
    prompt = "rice " * 100
    body = {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": GOOD}]}
    refused = post(client, "/classify", body, 400)["error"]
    assert "maximum context length is 64 tokens" in refused["message"]
    assert refused["param"] == "messages"
    found = post(client, "/classify", {**body, "truncate_prompt_tokens": -1})
    assert found["usage"]["prompt_tokens"] == 64
    found = post(client, "/classify", {**body, "truncate_prompt_tokens": 40})
    assert found["usage"]["prompt_tokens"] == 40
    assert len(post(client, "/predict", {"inputs": [prompt, GOOD], "truncate": True})) == 1
    found = post(client, "/classify", {"input": "rice " * 100, "truncate_prompt_tokens": 5})
    assert found["usage"]["prompt_tokens"] == 5


def test_health_models_info_metrics(client):
    for path in ("/health", "/ping"):
        assert client.get(path).status_code == client.head(path).status_code == 200
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["owned_by"], model["max_model_len"]) == ("rm", "model", "odin-rm", 64)
    info = client.get("/info").json()
    assert (info["model_id"], info["max_input_length"]) == ("rm", 64)
    post(client, "/get_reward", {"query": [rendered("Why?", "Yes.")]})
    text = client.get("/metrics").text
    assert 'odin_rm_requests_total{path="/get_reward",status="200"}' in text
    assert 'odin_rm_scores_total{source="computed"}' in text


def test_several_models_by_name(scorer, tmp_path):
    other = make_scorer(tmp_path, seed=5)
    wanted = quality(scorer, [ASKED], [GOOD]) + quality(other, [ASKED], [GOOD])
    assert abs(wanted[0] - wanted[1]) > 1e-3
    with serving(Service({"a": make_model(scorer, "a"), "b": make_model(other, "b")})) as client:
        for name, value in [("a", wanted[0]), ("b", wanted[1]), ("runs/b/model", wanted[1])]:
            found = post(client, "/score", {"model": name, "text_1": ASKED, "text_2": GOOD})
            assert_close(found["data"][0]["score"], value)
            assert found["model"] == name.split("/")[-1 if "/" not in name else 1]
        assert_close(post(client, "/score", {"text_1": ASKED, "text_2": GOOD})["data"][0]["score"], wanted[0])
        refused = post(client, "/score", {"model": "c", "text_1": ASKED, "text_2": GOOD}, 404)
        assert refused["error"]["type"] == "NotFoundError"
        found = post(client, "/get_reward", {"model": "b", "query": [rendered(ASKED, GOOD)]})
        assert_close(found["rewards"], wanted[1:])


def test_a_plain_template(tmp_path):
    scorer = make_scorer(tmp_path, chat=False)
    wanted = quality(scorer, [ASKED], [GOOD])
    with serving(Service({"rm": make_model(scorer)})) as client:
        text = f"Human: {ASKED}\n\nAssistant: {GOOD}"
        for query in (f"{text}<eos>", f"<bos>{text} <eos>"):
            assert_close(post(client, "/get_reward", {"query": [query]})["rewards"], wanted)
        assert_close(post(client, "/score", {"text_1": ASKED, "text_2": GOOD})["data"][0]["score"], wanted[0])
