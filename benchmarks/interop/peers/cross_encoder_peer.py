"""sentence-transformers: the export as a CrossEncoder, with no setting but the folder."""

from __future__ import annotations

from typing import Any

from answer import Answer, batches
from sentence_transformers import CrossEncoder

WAYS = ("predict(messages)", "predict((query, document))", "rank(query, documents)")


def ranked(encoder: Any, rows: list[dict[str, str]]) -> list[float]:
    """Scores by ``rank``, two responses to a prompt at a time, put back into order."""
    found: list[float] = []
    for pair in batches(rows, 2):
        documents = [row["response"] for row in pair]
        scores = [0.0] * len(pair)
        for hit in encoder.rank(pair[0]["prompt"], documents, show_progress_bar=False):
            scores[int(hit["corpus_id"])] = float(hit["score"])
        found += scores
    return found


def score_model(answer: Answer, name: str, model: dict[str, Any]) -> None:
    """One model in all ways."""
    encoder = answer.load(name, WAYS, lambda: CrossEncoder(model["export"], device="cpu"))
    if encoder is None:
        return
    pairs = [(row["prompt"], row["response"]) for row in answer.rows]

    def predict(inputs: list[Any]) -> list[float]:
        return encoder.predict(inputs, batch_size=8, show_progress_bar=False).tolist()

    calls = (
        lambda: predict(answer.conversations()),
        lambda: predict(pairs),
        lambda: ranked(encoder, answer.rows),
    )
    for way, call in zip(WAYS, calls, strict=True):
        answer.measure(name, way, call)


def main() -> None:
    answer = Answer("sentence-transformers", "transformers", "torch")
    for name, model in answer.models():
        score_model(answer, name, model)


if __name__ == "__main__":
    main()
