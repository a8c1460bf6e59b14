"""Rerankers' protocols: Cohere's and Jina's shape, which vLLM speaks, and TEI's ``/rerank`` and ``/predict``.

A query is a user's message and a document the assistant's response, through the model's template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from odin_rm.serve.reward.dialects import vllm
from odin_rm.serve.reward.dialects.records import (
    Asked,
    Item,
    Json,
    Problem,
    Scored,
    document_texts,
    flag_of,
    kind,
    name_of,
    new_id,
    texts_of,
    usage,
    whole_number,
)

_TEI_TYPES = {401: "Unauthorized", 413: "Validation", 429: "Overloaded", 503: "Backend"}


def read_rerank(body: Mapping[str, Json]) -> Asked:
    """Cohere's form; TEI's where ``texts`` comes instead of ``documents``."""
    query = body.get("query")
    if isinstance(query, Mapping):
        query = document_texts({"query": query}, "query")[0]
    if not isinstance(query, str):
        raise Problem(400, f"'query' is {kind(query)}, not text", param="query")
    if "texts" in body and "documents" not in body:
        return _tei_rerank(body, query)
    documents = document_texts(body, "documents")
    if not documents:
        raise Problem(400, "'documents' is empty", param="documents")
    most = whole_number(body, "top_n", 0) or len(documents)
    with_text = flag_of(body, "return_documents", True)
    items = tuple(Item(f"documents[{i}]", prompt=query, response=text) for i, text in enumerate(documents))

    def write(model: str, scores: Sequence[Scored]) -> Json:
        results = []
        for i in best_first(scores)[:most]:
            text = {"document": {"text": documents[i], "multi_modal": None}} if with_text else {}
            results.append({"index": i, **text, "relevance_score": scores[i].quality})
        return {"id": new_id("rerank"), "model": model, "results": results, "usage": usage(scores)}

    return Asked(items, write, name_of(body), named=True)


def _tei_rerank(body: Mapping[str, Json], query: str) -> Asked:
    texts = texts_of(body, "texts")
    if not texts:
        raise Problem(422, "'texts' is empty", param="texts")
    with_text = flag_of(body, "return_text", False)
    cut = flag_of(body, "truncate", False)
    items = tuple(Item(f"texts[{i}]", prompt=query, response=text, cut=cut) for i, text in enumerate(texts))

    def write(model: str, scores: Sequence[Scored]) -> Json:
        return [
            {"index": i, "score": scores[i].quality, **({"text": texts[i]} if with_text else {})}
            for i in best_first(scores)
        ]

    return Asked(items, write)


def best_first(scores: Sequence[Scored]) -> list[int]:
    """Positions in falling order of quality; equal ones keep theirs."""
    return sorted(range(len(scores)), key=lambda i: -scores[i].quality)


def rerank_error(status: int, message: str, param: str | None) -> Json:
    """vLLM's shape, and Cohere's ``message`` beside it."""
    return {"message": message, **vllm.error(status, message, param)}


# ---- TEI's /predict --------------------------------------------------------------------------------------------------


def read_predict(body: Mapping[str, Json]) -> Asked:
    """``inputs``: a text, a pair ``[query, text]``, or a list of such lists."""
    value = body.get("inputs")
    cut = flag_of(body, "truncate", False)
    batched = isinstance(value, list) and all(isinstance(one, list) for one in value)
    if value == []:
        raise Problem(422, "'inputs' is empty", param="inputs")
    entries = value if isinstance(value, list) and batched else [value]
    items = tuple(_predicted(one, f"inputs[{i}]" if batched else "inputs", cut) for i, one in enumerate(entries))

    def write(model: str, scores: Sequence[Scored]) -> Json:
        replies = [[{"label": vllm.LABEL, "score": one.quality}] for one in scores]
        return replies if batched else replies[0]

    return Asked(items, write)


def _predicted(value: Json, name: str, cut: bool) -> Item:
    texts = value if isinstance(value, list) else [value]
    if not 1 <= len(texts) <= 2 or not all(isinstance(text, str) for text in texts):
        raise Problem(422, f"'{name}' is no text and no pair of texts", param=name)
    if len(texts) == 1:
        return Item(name, text=texts[0], free=True, cut=cut)
    return Item(name, prompt=texts[0], response=texts[1], cut=cut)


def tei_error(status: int, message: str, param: str | None) -> Json:
    """TEI's shape of an error."""
    kind_of = _TEI_TYPES.get(status, "Backend" if status >= 500 else "Validation")
    return {"error": message, "error_type": kind_of}
