"""Trainers' protocols: OpenRLHF's remote reward model, slime's single sample, LLaMA-Factory's score, lenbias' list.

OpenRLHF (``utils/agent.py``) sends what its policy read and wrote; slime a prompt and a response and takes the reply as
the reward itself; LLaMA-Factory prompt and response as one text. Their texts come from a policy's template, so a text
in another form is a mistake, and is refused rather than scored as something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from odin_rm.serve.reward.dialects.records import (
    Asked,
    Item,
    Json,
    Problem,
    Scored,
    kind,
    messages_of,
    name_of,
    new_id,
    sigmoid,
    texts_of,
    variables_of,
)


def read_get_reward(body: Mapping[str, Json]) -> Asked:
    """OpenRLHF's form (``query``), slime's (``prompt`` and ``response``) or lenbias' (``texts``)."""
    if "query" in body:
        return _openrlhf(body)
    if "texts" in body:
        texts = texts_of(body, "texts")
        items = tuple(Item(f"texts[{i}]", text=text, free=True) for i, text in enumerate(texts))
        return Asked(items, lambda model, scores: [one.quality for one in scores], name_of(body))
    if "response" in body:
        return _slime(body)
    what = "there is no 'query' (OpenRLHF), no 'prompt' with 'response' (slime) and no 'texts' (a bare list)"
    raise Problem(400, what, param="query")


def _openrlhf(body: Mapping[str, Json]) -> Asked:
    queries = texts_of(body, "query")
    prompts = texts_of(body, "prompts") if body.get("prompts") is not None else [None] * len(queries)
    if len(prompts) != len(queries):
        raise Problem(400, f"'prompts' has {len(prompts)} entries, 'query' has {len(queries)}", param="prompts")
    pairs = enumerate(zip(queries, prompts, strict=True))
    items = tuple(Item(f"query[{i}]", text=query, prompt=prompt) for i, (query, prompt) in pairs)
    return Asked(items, write_get_reward, name_of(body))


def write_get_reward(model: str, scores: Sequence[Scored]) -> Json:
    """``rewards`` as they are, ``scores`` between 0 and 1 for OpenRLHF's filter, and lists for its log."""
    logs: dict[str, list[Json]] = {}
    if scores:
        logs["quality"] = [one.quality for one in scores]
        if all(one.length is not None for one in scores):
            logs["length_reward"] = [one.length for one in scores]
        if all(one.response_tokens is not None for one in scores):
            logs["response_tokens"] = [one.response_tokens for one in scores]
        logs["cut"] = [int(one.cut) for one in scores]
        if any(one.taken_off for one in scores):
            logs["calibration_takes"] = [one.taken_off for one in scores]
        for name in scores[0].attributes:
            if all(name in one.attributes for one in scores):
                logs[name] = [one.attributes[name] for one in scores]
    quality = [one.quality for one in scores]
    return {"rewards": quality, "scores": [sigmoid(one) for one in quality], "extra_logs": logs}


def _slime(body: Mapping[str, Json]) -> Asked:
    prompt, response = body.get("prompt"), body["response"]
    if isinstance(prompt, list):
        prompt = messages_of(prompt, "prompt")
    if not isinstance(prompt, (str, list)):
        raise Problem(400, f"'prompt' is {kind(prompt)}, not text or messages", param="prompt")
    if isinstance(response, list):
        response = messages_of(response, "response")
    if not isinstance(response, (str, list)):
        raise Problem(400, f"'response' is {kind(response)}, not text", param="response")
    item = Item("response", prompt=prompt, response=response, variables=variables_of(body))
    return Asked((item,), lambda _, scores: scores[0].quality)


def read_score_evaluation(body: Mapping[str, Json]) -> Asked:
    """LLaMA-Factory: ``messages`` are texts, each a whole conversation."""
    texts = texts_of(body, "messages")
    items = tuple(Item(f"messages[{i}]", text=text) for i, text in enumerate(texts))
    return Asked(items, write_score_evaluation)  # its client always says "model", whatever is served


def write_score_evaluation(model: str, scores: Sequence[Scored]) -> Json:
    """``scores``, one a text."""
    values = [one.quality for one in scores]
    return {"id": new_id("scoreeval"), "object": "score.evaluation", "model": model, "scores": values}


def error(status: int, message: str, param: str | None) -> Json:
    """As FastAPI servers say it, which both are."""
    return {"detail": message}
