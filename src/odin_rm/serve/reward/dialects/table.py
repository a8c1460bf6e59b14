"""Which protocol is spoken at which path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odin_rm.serve.reward.dialects import rerank, rlhf, vllm
from odin_rm.serve.reward.dialects.records import Dialect

_get_reward = Dialect("openrlhf", rlhf.read_get_reward, rlhf.error)
_classify = Dialect("classify", vllm.read_classify, vllm.error)
_score = Dialect("score", vllm.read_score, vllm.error)
_rerank = Dialect("rerank", rerank.read_rerank, rerank.rerank_error)

DIALECTS: Mapping[str, Dialect] = {
    "/": _get_reward,
    "/get_reward": _get_reward,
    "/classify": _classify,
    "/v1/classify": _classify,
    "/pooling": Dialect("pooling", vllm.read_pooling, vllm.error),
    "/v1/embeddings": Dialect("embeddings", vllm.read_embeddings, vllm.error),
    "/score": _score,
    "/v1/score": _score,
    "/rerank": _rerank,
    "/v1/rerank": _rerank,
    "/v2/rerank": _rerank,
    "/predict": Dialect("predict", rerank.read_predict, rerank.tei_error, 422),
    "/v1/score/evaluation": Dialect("score_evaluation", rlhf.read_score_evaluation, rlhf.error),
}


def error_at(path: str, status: int, message: str, param: str | None = None) -> Any:
    """The body of an error in the shape that the path's clients read; OpenAI's at unknown paths."""
    dialect = DIALECTS.get(path)
    return (vllm.error if dialect is None else dialect.error)(status, message, param)
