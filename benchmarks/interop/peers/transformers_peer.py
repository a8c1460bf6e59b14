"""transformers, 5 or 4: the pipeline, and the classifier by hand in batches and one by one."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from answer import Answer, batches

WAYS = (
    "pipeline(text, add_special_tokens=False)",
    "pipeline(text)",
    "pipeline({text, text_pair})",
    "model, padded on the right",
    "model, padded on the left",
    "model, one by one",
    "last attended token",
)


@torch.no_grad()
def classify(classifier: Any, tokenizer: Any, texts: list[str], size: int, side: str) -> list[float]:
    """Scores of texts in batches."""
    found = []
    for part in batches(texts, size):
        inputs = encode(tokenizer, part, side)
        found += classifier(**inputs).logits[:, 0].tolist()
    return found


def encode(tokenizer: Any, texts: list[str], side: str) -> Any:
    """A padded batch of rendered texts."""
    tokenizer.padding_side = side
    return tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


@torch.no_grad()
def last_attended(classifier: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    """The head on the last attended token, as vLLM, verl and OpenRLHF read it."""
    found = []
    for part in batches(texts):
        inputs = encode(tokenizer, part, "right")
        hidden = classifier.base_model(**inputs).last_hidden_state
        last = inputs["attention_mask"].sum(dim=1) - 1
        found += classifier.score(hidden[torch.arange(len(part)), last])[:, 0].tolist()
    return found


def load(folder: str, chats: list[Any]) -> tuple[Any, Any, Any, list[str]]:
    """Tokenizer, classifier, pipeline, and the rows as the tokenizer's own chat template renders them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pipe = transformers.pipeline("text-classification", model=folder, device="cpu")
    return tokenizer, classifier, pipe, [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]


def score_model(answer: Answer, name: str, model: dict[str, Any]) -> None:
    """One model in all ways."""
    ways = WAYS[:-1] if model["encoder"] else WAYS
    loaded = answer.load(name, ways, lambda: load(model["export"], answer.conversations()))
    if loaded is None:
        return
    tokenizer, classifier, pipe, texts = loaded
    pairs = [{"text": row["prompt"], "text_pair": row["response"]} for row in answer.rows]

    def piped(inputs: list[Any], **flags: Any) -> list[float]:
        return [row["score"] for row in pipe(inputs, batch_size=8, **flags)]

    calls = (
        lambda: piped(texts, add_special_tokens=False),
        lambda: piped(texts),
        lambda: piped(pairs),
        lambda: classify(classifier, tokenizer, texts, 8, "right"),
        lambda: classify(classifier, tokenizer, texts, 8, "left"),
        lambda: classify(classifier, tokenizer, texts, 1, "right"),
        lambda: last_attended(classifier, tokenizer, texts),
    )
    for way, call in zip(ways, calls, strict=False):
        answer.measure(name, way, call)


def main() -> None:
    transformers.logging.set_verbosity_error()
    answer = Answer("transformers", "torch")
    for name, model in answer.models():
        score_model(answer, name, model)


if __name__ == "__main__":
    main()
