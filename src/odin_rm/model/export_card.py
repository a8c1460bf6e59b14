"""The card of an export: one conversation with its score, and the exact call of each tool that gives it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from odin_rm.model.card import FIGURES, write_card
from odin_rm.model.info import RewardModelInfo
from odin_rm.model.stock_tokenizer import StockTokenizer


@dataclass(frozen=True)
class Example:
    """One conversation and what the written model says of it.

    Attributes:
        prompt: the user's message.
        response: the assistant's.
        text: both through the chat template.
        bare: the same without the special tokens that the tokenizer adds by itself; ``None`` where they are none of
            the training's.
        ids: its token ids.
        score: its reward; ``None`` where it does not fit into the model's window.
    """

    prompt: str
    response: str
    text: str
    bare: str | None
    ids: list[int]
    score: float | None


@dataclass(frozen=True)
class ExportFacts:
    """What the card says besides the model's description.

    Attributes:
        decoder: whether the model reads from left to right (else an encoder).
        left_out: what the proof left out, a sentence each.
        tokenizer: what is known of the tokenizer; ``None`` without one or without a faithful chat template.
        example: the conversation; ``None`` then too.
    """

    decoder: bool
    left_out: tuple[str, ...] = ()
    tokenizer: StockTokenizer | None = None
    example: Example | None = None


def write_export_card(folder: Path, info: RewardModelInfo, facts: ExportFacts) -> None:
    """Write ``README.md`` of an exported quality head.

    Args:
        folder: the exported folder.
        info: the reward model's description with audit and training figures.
        facts: what the proof found.
    """
    values: dict[str, object] = {"facts": facts, "window": info.encoding.get("max_length", 1024), "json": _json}
    if facts.example is not None and facts.tokenizer is not None:
        example, tokenizer = facts.example, facts.tokenizer
        values |= {
            "example": example,
            "messages": [
                {"role": "user", "content": example.prompt},
                {"role": "assistant", "content": example.response},
            ],
            "prompt": _json(example.prompt),
            "response": _json(example.response),
            "text": _json(example.text),
            "bare": _code(example.bare) if example.bare else "",
            "adds": "".join(tokenizer.adds),
            "pairs": tokenizer.pairs,
            "ending": _code(tokenizer.ending) if tokenizer.ending else "what the template writes after a response",
            "rest": _code(tokenizer.rest) if tokenizer.rest else "",
        }
    write_card(folder, info, ["export_card.md.j2", FIGURES], **values)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _code(text: str) -> str:
    return f"`{_json(text)}`"
