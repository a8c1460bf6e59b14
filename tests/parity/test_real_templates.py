"""Chat templates as model makers write them (those that TRL ships): wrapped for an export they give the same text."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
from transformers import PreTrainedTokenizerFast

from odin_rm.data.render import with_fixed_date
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.stock_tokenizer import stock_tokenizer
from tests.model.words import build_tokenizer

trl = pytest.importorskip("trl", reason="needs TRL (pip install trl)")
FOLDER = Path(trl.__file__).parent / "chat_templates"
# Families with different ways: thoughts, tools, macros, an end token after the last line, spans of generation.
NAMES = (
    "gemma_training",
    "gemma4_v5",
    "glm4moe_training",
    "gptoss_training",
    "lfm2_v2_training",
    "llama3_1",
    "nemotron_3_nano_training",
    "phi3_training",
    "qwen2_5_training",
    "qwen3",
    "qwen3_5_think_training",
)
ENDS = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|return|>", "<|user|>"]
ASKED, ANSWERED = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "no"}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALLED = {"type": "function", "function": {"name": "f", "arguments": {}}}
CALL = {"role": "assistant", "content": "look", "tool_calls": [CALLED]}
TALKS = [
    ([ASKED], {"add_generation_prompt": True}),
    ([ASKED, ANSWERED], {}),
    ([{"role": "system", "content": "be brief"}, ASKED, ANSWERED, ASKED, ANSWERED], {}),
    ([ASKED, ANSWERED], {"tools": [TOOL]}),
    ([ASKED, CALL, {"role": "tool", "name": "f", "content": "3"}, ANSWERED], {"tools": [TOOL]}),
]


def tokenizer_with(name: str) -> PreTrainedTokenizerFast:
    path = FOLDER / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this TRL has no {path.name}")
    tokenizer = build_tokenizer("gpt2")
    tokenizer.add_special_tokens({"additional_special_tokens": ENDS})
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    return tokenizer


def text(tokenizer, messages, options) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except (jinja2.TemplateError, TypeError) as error:
        return f"refused: {error}"


@pytest.mark.parametrize("name", NAMES)
def test_each_conversation_is_the_same_text(name):
    tokenizer = tokenizer_with(name)
    made = stock_tokenizer(tokenizer, EncodingSettings())
    assert (made.conversations, made.pairs) == (True, "both")
    # A template that asks for today's date writes one fixed date from then on.
    tokenizer.chat_template = with_fixed_date(tokenizer.chat_template)
    texts = [text(tokenizer, *talk) for talk in TALKS]
    assert [text(made.tokenizer, *talk) for talk in TALKS] == texts
    assert not texts[1].startswith("refused")
    turn = stock_tokenizer(tokenizer, EncodingSettings(read_at="end_of_turn"))
    assert (turn.conversations, turn.rest) == (True, "")
    assert text(turn.tokenizer, *TALKS[1]) == texts[1][: len(texts[1]) - len(made.rest)]
    assert text(turn.tokenizer, *TALKS[0]) == texts[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("training")])
def test_the_assistants_tokens_are_marked_as_before(name):
    tokenizer = tokenizer_with(name)
    made = stock_tokenizer(tokenizer, EncodingSettings()).tokenizer
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    talk = [ASKED, ANSWERED, ASKED, ANSWERED]
    expected, found = (t.apply_chat_template(talk, **options) for t in (tokenizer, made))
    assert dict(found) == dict(expected)
    assert 0 < sum(found["assistant_masks"]) < len(found["input_ids"])
