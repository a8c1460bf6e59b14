"""Texts that an export is proved on: from one word to the model's window, ended as real conversations end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from odin_rm.core.errors import ExportError
from odin_rm.data.tokenise import EncodingSettings, encode_responses

# Several lengths, from one word on; the last is repeated until it fills the model's window.
PARITY_TEXTS: tuple[tuple[str, str], ...] = (
    ("Hi", "Hello."),
    ("What is 2 + 2?", "It is 4."),
    ("Name three colours.", "Red, green and blue. Many people would also call black and white colours."),
    (
        "How do I boil an egg?",
        "Put it into boiling water. Wait six minutes for a soft yolk and ten for a hard one. Cool it in cold water.",
    ),
    ("Is it good to walk? Answer with yes or no.", "Yes"),
    (
        "Human: I slept badly.\n\nAssistant: What kept you awake?\n\nHuman: The street.",
        "Ear plugs help at once; a bed farther from the window helps for good.",
    ),
    (
        "Write a long story about a journey.",
        "They set out before the sun rose, and the road was white with frost. Nobody spoke until the first hill. ",
    ),
)
EXAMPLE = PARITY_TEXTS[1]
# A window of 100,000 tokens need not be filled to prove that two models are the same.
_LONGEST_PARITY_TEXT = 2048


def parity_sequences(tokenizer: Any, settings: EncodingSettings) -> list[list[int]]:
    """Token ids of the built-in texts as the model reads them, from very short to (nearly) its window.

    Raises:
        ExportError: not one text fits into the window.
    """
    window = min(settings.max_length, _LONGEST_PARITY_TEXT)
    cut = replace(settings, max_length=window, overlong="truncate_response")
    prompts = [prompt for prompt, _ in PARITY_TEXTS]
    responses = [response for _, response in PARITY_TEXTS]
    words = len(responses[-1].split())
    responses[-1] = responses[-1] * (window // words + 1)
    encoded = encode_responses(tokenizer, prompts, responses, cut)
    sequences = [e.input_ids for e in encoded if not e.dropped]
    if not sequences:
        raise ExportError(f"no text fits into the model's window of {settings.max_length} tokens")
    return sequences
