"""vLLM's pooling protocols (classify, pooling, score, embeddings), and what SGLang and OpenAI clients ask there.

The number is always the raw one: a one-label model trained by regression has no activation in vLLM either, whatever
``use_activation`` says. verl reads ``data[-1].probs[-1]`` (vLLM) or ``data[-1].embedding[-1]`` (SGLang).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence

from odin_rm.serve.reward.dialects.records import (
    Asked,
    Item,
    Json,
    Problem,
    Scored,
    conversation,
    document_texts,
    flag_of,
    kind,
    messages_of,
    name_of,
    new_id,
    now,
    texts_of,
    usage,
    variables_of,
    whole_number,
)

LABEL = "quality"
# (name of the queries, name of the documents)
_PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}


def error(status: int, message: str, param: str | None) -> Json:
    """OpenAI's and vLLM's shape of an error."""
    kind_of = _TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
    return {"error": {"message": message, "type": kind_of, "param": param, "code": status}}


# ---- /classify, /pooling, /v1/embeddings -----------------------------------------------------------------------------


def read_classify(body: Mapping[str, Json]) -> Asked:
    """``input`` or ``messages`` (vLLM), ``text`` or ``input_ids`` (SGLang)."""
    if "input" not in body and "messages" not in body and ("text" in body or "input_ids" in body):
        return _sglang(body)
    return Asked(_inputs(body), _classified, name_of(body), named=True)


def read_pooling(body: Mapping[str, Json]) -> Asked:
    """As :func:`read_classify`; each reply is a list of one number."""
    return Asked(_inputs(body), _pooled(_encoding(body)), name_of(body), named=True)


def read_embeddings(body: Mapping[str, Json]) -> Asked:
    """As :func:`read_classify`; each reply is an embedding of one number."""
    return Asked(_inputs(body), _embedded(_encoding(body)), name_of(body), named=True)


def _inputs(body: Mapping[str, Json]) -> tuple[Item, ...]:
    window = whole_number(body, "truncate_prompt_tokens", -1)
    if window == 0:
        raise Problem(400, "'truncate_prompt_tokens' is 0, so nothing would be read", param="truncate_prompt_tokens")
    cut = window is not None
    most = None if window == -1 else window
    if body.get("messages") is not None:
        messages, given = messages_of(body["messages"], "messages"), variables_of(body)
        return (conversation(messages, "messages", window=most, cut=cut, variables=given),)
    special = flag_of(body, "add_special_tokens", True)
    value = body.get("input")
    if isinstance(value, list) and value and all(_is_id(one) for one in value):
        return (_ids_item(value, "input", most, cut),)
    if isinstance(value, list) and value and isinstance(value[0], list):
        return tuple(_ids_item(one, f"input[{i}]", most, cut) for i, one in enumerate(value))
    if value == []:
        raise Problem(400, "'input' is empty", param="input")
    texts = texts_of(body, "input")
    return tuple(
        Item(f"input[{i}]", text=text, free=True, special=special, window=most, cut=cut) for i, text in enumerate(texts)
    )


def _ids_item(value: Json, name: str, window: int | None, cut: bool) -> Item:
    if not isinstance(value, list) or not value or not all(_is_id(one) for one in value):
        raise Problem(400, f"'{name}' is no list of token ids", param=name)
    return Item(name, ids=tuple(value), window=window, cut=cut)


def _is_id(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _encoding(body: Mapping[str, Json]) -> Callable[[float], Json]:
    name = body.get("encoding_format") or "float"
    if name not in ("float", "base64"):
        raise Problem(400, "'encoding_format' must be float or base64", param="encoding_format")
    if name == "float":
        return lambda value: [value]
    return lambda value: base64.b64encode(struct.pack("<f", value)).decode()


def _classified(model: str, scores: Sequence[Scored]) -> Json:
    data = [{"index": i, "label": LABEL, "probs": [one.quality], "num_classes": 1} for i, one in enumerate(scores)]
    return _listed("classify", model, data, scores)


def _pooled(encoded: Callable[[float], Json]) -> Callable[[str, Sequence[Scored]], Json]:
    def write(model: str, scores: Sequence[Scored]) -> Json:
        data = [{"index": i, "object": "pooling", "data": encoded(one.quality)} for i, one in enumerate(scores)]
        return _listed("pool", model, data, scores)

    return write


def _embedded(encoded: Callable[[float], Json]) -> Callable[[str, Sequence[Scored]], Json]:
    def write(model: str, scores: Sequence[Scored]) -> Json:
        data = [{"index": i, "object": "embedding", "embedding": encoded(one.quality)} for i, one in enumerate(scores)]
        return _listed("embd", model, data, scores)

    return write


def _listed(name: str, model: str, data: list[Json], scores: Sequence[Scored]) -> Json:
    head = {"id": new_id(name), "object": "list", "created": now(), "model": model}
    return {**head, "data": data, "usage": usage(scores)}


def _sglang(body: Mapping[str, Json]) -> Asked:
    single: bool
    if body.get("text") is not None:
        single = isinstance(body["text"], str)
        texts = texts_of(body, "text")
        items = tuple(Item(f"text[{i}]", text=text, free=True) for i, text in enumerate(texts))
    else:
        value = body.get("input_ids")
        if not isinstance(value, list) or not value:
            raise Problem(400, f"'input_ids' is {kind(value)}, not a list of ids", param="input_ids")
        single = _is_id(value[0])
        lists = [value] if single else value
        items = tuple(_ids_item(one, f"input_ids[{i}]", None, False) for i, one in enumerate(lists))

    def write(model: str, scores: Sequence[Scored]) -> Json:
        replies = [
            {"embedding": [one.quality], "meta_info": {"id": new_id("classify"), "prompt_tokens": one.tokens}}
            for one in scores
        ]
        return replies[0] if single else replies

    return Asked(items, write, name_of(body), named=True)


# ---- /score ----------------------------------------------------------------------------------------------------------


def read_score(body: Mapping[str, Json]) -> Asked:
    """Queries and documents, 1 to 1, 1 to many, or in pairs: user and assistant of a conversation."""
    names = next((pair for pair in _PAIRS if all(body.get(name) is not None for name in pair)), None)
    if names is None:
        known = ", ".join(" and ".join(f"'{name}'" for name in pair) for pair in _PAIRS)
        raise Problem(400, f"there are no two lists of texts: give {known}", param="text_1")
    queries, documents = (document_texts(body, name) for name in names)
    if not queries or not documents:
        raise Problem(400, f"'{names[0] if not queries else names[1]}' is empty", param=names[0])
    if len(queries) not in (1, len(documents)):
        counts = f"'{names[0]}' has {len(queries)} texts and '{names[1]}' {len(documents)}"
        raise Problem(400, f"{counts}: give one query for all, or one for each", param=names[0])
    if len(queries) == 1:
        queries = queries * len(documents)
    pairs = enumerate(zip(queries, documents, strict=True))
    items = tuple(Item(f"{names[1]}[{i}]", prompt=query, response=text) for i, (query, text) in pairs)
    return Asked(items, _pairs_scored, name_of(body), named=True)


def _pairs_scored(model: str, scores: Sequence[Scored]) -> Json:
    data = [{"index": i, "object": "score", "score": one.quality} for i, one in enumerate(scores)]
    return _listed("score", model, data, scores)
