"""Rendered texts by value: one token per character, so that every string and every id can be written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from odin_rm.core.errors import DataError
from odin_rm.data.demonstrations import encode_replies
from odin_rm.data.prompts import encode_prompts
from odin_rm.data.rendered import check_not_half_rendered, render_any_prompt, rendered_prompt, split_rendered
from odin_rm.data.template_form import template_form
from odin_rm.data.tokenise import EncodingSettings, encode_rendered, encode_response, encode_responses

SPECIAL = [
    *("[UNK]", "<pad>", "<s>", "</s>", "[CLS]", "[SEP]", "<|im_start|>", "<|im_end|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]
CHARACTERS = ["\n", *map(chr, range(32, 127))]
ID = {token: number for number, token in enumerate([*SPECIAL, *CHARACTERS])}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Speakers in words, nothing that ends a turn but a line break.
NO_END = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'BOT: ' }}{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}BOT:{% endif %}"
)
# A blank before response and end token; no header of its own for the assistant.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }} {{ eos_token }}"
    "{% else %}{{ raise_exception('no system message') }}{% endif %}{% endfor %}"
)
# An empty thought before the last response; a policy is asked without it.
THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}"
    "(thought)\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(template: str | None = None, *, adds: str = "$A", **special: str) -> PreTrainedTokenizerFast:
    """One token per character; special tokens as given."""
    backend = Tokenizer(models.WordLevel(dict(ID), unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    if adds != "$A":
        ids = [(name, ID[name]) for name in ("<s>", "</s>", "[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(adds, None, ids)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="<pad>", **special)
    made.add_special_tokens({"additional_special_tokens": SPECIAL[6:]})
    made.chat_template = template
    return made


def ids_of(text: str) -> list[int]:
    """The ids of a text, special tokens written as they are."""
    ids: list[int] = []
    while text:
        token = next((token for token in SPECIAL if text.startswith(token)), text[0])
        ids.append(ID[token])
        text = text[len(token) :]
    return ids


@pytest.fixture(scope="module")
def chatml() -> PreTrainedTokenizerFast:
    return tokenizer(CHATML, eos_token="</s>")


@pytest.fixture(scope="module")
def llama3() -> PreTrainedTokenizerFast:
    return tokenizer(LLAMA3, adds="<s> $A", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    return tokenizer(adds="<s> $A", bos_token="<s>", eos_token="</s>")


def encoded(tok, text, prompt=None, read_at="end"):
    (one,) = encode_rendered(tok, [text], [prompt], EncodingSettings(read_at=read_at))
    return one


ASKED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


# ---- ChatML ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending, completed",
    [
        ("<|im_end|>\n", False),
        ("<|im_end|>", True),
        ("<|im_end|></s>", True),
        ("<|im_end|>\n</s>", True),
        ("</s>", True),
        ("<|im_end|><|im_end|>\n", False),
        ("<|im_end|><pad><pad>", True),
        ("<|im_end|>\n\n", True),
    ],
)
def test_chatml_endings_become_the_templates_own(ending, completed, chatml):
    one = encoded(chatml, f"{ASKED}Yes.{ending}")
    assert one.input_ids == ids_of(f"{ASKED}Yes.<|im_end|>\n")
    assert (one.ended, one.completed, one.response_tokens) == (True, completed, 4)
    to_turn = encoded(chatml, f"{ASKED}Yes.{ending}", read_at="end_of_turn")
    assert to_turn.input_ids == ids_of(f"{ASKED}Yes.<|im_end|>")
    assert to_turn.completed == (completed and ending != "<|im_end|>")


@pytest.mark.parametrize("read_at", ["end", "end_of_turn"])
@pytest.mark.parametrize("response", ["Ye", "Ye\n", "Ye <|im_st", "Ye<pad><pad>"])
def test_chatml_without_an_end_token_is_cut_and_stays_as_it_is(response, read_at, chatml):
    one = encoded(chatml, ASKED + response, read_at=read_at)
    text = response.removesuffix("<pad><pad>")
    assert one.input_ids == ids_of(ASKED + text)
    assert (one.ended, one.completed, one.response_tokens) == (False, False, len(text))


def test_a_longer_conversation_ends_its_prompt_at_the_last_header(chatml):
    history = (
        "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    )
    asked = history + "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    part = split_rendered(chatml, f"{asked}So.<|im_end|>", None, None)
    assert (part.prompt, part.response, part.cut, part.completed) == (asked, "So.", False, True)
    roles = [("system", "Be brief"), ("user", "Hi"), ("assistant", "Yes"), ("user", "Why?")]
    messages = [{"role": role, "content": content} for role, content in roles]
    ids = encode_response(chatml, messages, "So.", EncodingSettings()).input_ids
    assert encoded(chatml, f"{asked}So.<|im_end|>").input_ids == ids == ids_of(f"{asked}So.<|im_end|>\n")


@pytest.mark.parametrize("prompt", [ASKED, "Hi", [{"role": "user", "content": "Hi"}]])
def test_a_known_prompt_splits_where_it_ends(prompt, chatml):
    # A response that quotes a header would be split there without the prompt.
    response = "No.<|im_end|>\n<|im_start|>assistant\nYes."
    part = split_rendered(chatml, f"{ASKED}{response}<|im_end|>", prompt, None)
    assert (part.prompt, part.response) == (ASKED, response)


@pytest.mark.parametrize(
    "text, prompt, what",
    [
        ("Hi there", None, "does not begin with '<|im_start|>'"),
        ("<|im_start|>user\nHi<|im_end|>\n", None, "no header of the assistant's turn"),
        (ASKED, None, "has no response"),
        (f"{ASKED}A<|im_end|>\n<|im_start|>user\nB<|im_end|>\n", None, "goes on behind the end"),
        (f"{ASKED}A<|im_end|>", "Ho", "does not begin with its 'prompt'"),
    ],
)
def test_what_is_no_text_of_the_template_is_refused(text, prompt, what, chatml):
    with pytest.raises(DataError, match=what.replace("|", r"\|")) as caught:
        encoded(chatml, text, prompt)
    assert caught.value.where == "text 1"
    assert caught.value.fix


# ---- Llama 3, plain, others ------------------------------------------------------------------------------------------

LLAMA_ASKED = (
    "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize("start", ["", "<s>", "<s><s>", "<s> "])
@pytest.mark.parametrize("ending", ["<|eot_id|>", "</s>", "<|eot_id|></s>"])
def test_llama_has_one_start_token_and_a_trimmed_response(start, ending, llama3):
    body = LLAMA_ASKED.removeprefix("<s>")
    one = encoded(llama3, f"{start}{body}\n Yes.  {ending}")
    assert one.input_ids == ids_of(f"{LLAMA_ASKED}Yes.<|eot_id|>")
    assert one.input_ids == encode_response(llama3, "Hi", "\n Yes.  ", EncodingSettings()).input_ids
    assert encoded(llama3, f"{start}{body}Yes", prompt=start + body).input_ids == ids_of(f"{LLAMA_ASKED}Yes")


@pytest.mark.parametrize("start", ["", "<s>"])
@pytest.mark.parametrize("response", ["Yes.", " Yes."])
def test_plain_texts_have_a_blank_and_one_end_token(start, response, plain):
    one = encoded(plain, f"{start}Human: Hi\n\nAssistant:{response}</s>")
    assert one.input_ids == ids_of("<s>Human: Hi\n\nAssistant: Yes.</s>")
    assert one.input_ids == encode_response(plain, "Hi", "Yes.", EncodingSettings()).input_ids
    assert (one.ended, one.completed, one.response_tokens) == (True, False, 4)
    cut = encoded(plain, f"{start}Human: Hi\n\nAssistant:{response}")
    assert cut.input_ids == ids_of("<s>Human: Hi\n\nAssistant: Yes.")
    assert (cut.ended, cut.completed) == (False, False)


def test_plain_transcripts_and_system_messages(plain):
    text = "System: Be brief\n\nHuman: Hi\n\nAssistant: Yes\n\nHuman: Why?\n\nAssistant: So.</s>"
    assert encoded(plain, text).input_ids == ids_of(f"<s>{text}")
    prompt = text.removesuffix(" So.</s>")
    assert encode_response(plain, prompt, "So.", EncodingSettings()).input_ids == ids_of(f"<s>{text}")
    assert split_rendered(plain, text, None, None).prompt == prompt


def test_a_tokenizer_that_adds_the_end_leaves_it_out_behind_a_cut_response():
    adds_end = tokenizer(adds="<s> $A </s>", bos_token="<s>", eos_token="</s>")
    assert encoded(adds_end, "Human: Hi\n\nAssistant: Ye").input_ids == ids_of("<s>Human: Hi\n\nAssistant: Ye")
    assert encoded(adds_end, "Human: Hi\n\nAssistant: Ye</s>").input_ids == ids_of("<s>Human: Hi\n\nAssistant: Ye</s>")


def test_an_encoder_closes_every_text_itself_so_none_is_cut():
    encoder = tokenizer(adds="[CLS] $A [SEP]", cls_token="[CLS]", sep_token="[SEP]")
    for text in ("Human: Hi\n\nAssistant: Yes", "[CLS]Human: Hi\n\nAssistant: Yes[SEP]"):
        one = encoded(encoder, text)
        assert one.input_ids == ids_of("[CLS]Human: Hi\n\nAssistant: Yes[SEP]")
        assert (one.ended, one.completed) == (True, False)


@pytest.mark.parametrize(
    "written, ended, completed",
    [(" Yes\n", True, False), (" Yes\n</s>", True, True), (" Yes</s>", True, True), (" Yes", False, False)],
)
def test_a_template_without_an_end_token_ends_by_its_own_text_or_the_tokenizers_end(written, ended, completed):
    tok = tokenizer(NO_END, eos_token="</s>")
    one = encoded(tok, f"USER: Hi\nBOT:{written}")
    assert (one.ended, one.completed) == (ended, completed)
    assert one.input_ids == ids_of("USER: Hi\nBOT: Yes" + ("\n" if ended else ""))
    without = tokenizer(NO_END)
    assert encoded(without, "USER: Hi\nBOT: Yes").input_ids == ids_of("USER: Hi\nBOT: Yes\n")  # nothing tells


@pytest.mark.parametrize("ending, cut", [(" </s>", False), ("</s>", False), ("", True)])
def test_blanks_around_the_response_are_the_templates(ending, cut):
    tok = tokenizer(INST, bos_token="<s>", eos_token="</s>")
    for response in ("Yes.", " Yes."):
        one = encoded(tok, f"[INST] Hi [/INST]{response}{ending}")
        assert one.input_ids == ids_of("<s>[INST] Hi [/INST] Yes." + ("" if cut else " </s>"))
        assert one.ended is not cut


@pytest.mark.parametrize("thought", ["", "(thought)\n\n"])
def test_what_the_template_writes_before_a_response_is_written_once(thought):
    tok = tokenizer(THOUGHT, eos_token="<|im_end|>")
    expected = ids_of(f"{ASKED}(thought)\n\nYes<|im_end|>\n")
    assert encode_response(tok, "Hi", "Yes", EncodingSettings()).input_ids == expected
    assert encoded(tok, f"{ASKED}{thought}Yes<|im_end|>").input_ids == expected
    assert encoded(tok, f"{ASKED}{thought}Yes<|im_end|>", prompt=ASKED + thought).input_ids == expected
    assert encode_response(tok, ASKED + thought, "Yes", EncodingSettings()).input_ids == expected


def test_another_header_before_a_response_that_is_there():
    template = "{% for m in messages %}{% if m['role'] == 'assistant' %}BOT says {% else %}<|im_start|>{% endif %}"
    template += "{{ m['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}BOT, say {% endif %}"
    tok = tokenizer(template)
    expected = ids_of("<|im_start|>Hi<|im_end|>BOT says Yes<|im_end|>")
    assert encode_response(tok, "Hi", "Yes", EncodingSettings()).input_ids == expected
    assert encoded(tok, "<|im_start|>Hi<|im_end|>BOT, say Yes<|im_end|>").input_ids == expected


@pytest.mark.parametrize("start", ["<|im_start|>", ""])
def test_a_start_token_that_also_begins_every_turn(start):
    tok = tokenizer(CHATML, bos_token="<|im_start|>", eos_token="<|im_end|>")
    expected = encode_response(tok, "Hi", "Yes", EncodingSettings()).input_ids
    assert expected == ids_of(f"{ASKED}Yes<|im_end|>\n")
    asked = start + ASKED.removeprefix("<|im_start|>")
    assert encoded(tok, f"{asked}Yes<|im_end|>").input_ids == expected
    assert encode_response(tok, asked, "Yes", EncodingSettings()).input_ids == expected


def test_a_template_with_todays_date_takes_yesterdays_text():
    days = ["Monday"]
    head = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nIt is {{ today }}.<|im_end|>\n{% endif %}"
    tok = tokenizer(head + CHATML)
    apply = tok.apply_chat_template
    tok.apply_chat_template = lambda *args, **kwargs: apply(*args, today=days[0], **kwargs)
    text = f"<|im_start|>system\nIt is Monday.<|im_end|>\n{ASKED}Yes"
    for day in ("Monday", "Tuesday"):
        days[0] = day
        assert encoded(tok, f"{text}<|im_end|>").input_ids == ids_of(f"{text}<|im_end|>\n")
        assert encoded(tok, f"{text}<|im_end|>", text.removesuffix("Yes")).input_ids == ids_of(f"{text}<|im_end|>\n")


def test_a_template_that_wants_another_kind_of_conversation_still_renders_it():
    template = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    tok = tokenizer(template)
    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
    text = "<|im_start|>system\nS<|im_end|>\n" + ASKED + "Yes<|im_end|>\n"
    assert encode_response(tok, prompt, "Yes", EncodingSettings()).input_ids == ids_of(text)


# ---- prompts that are rendered already, responses that have their end ------------------------------------------------


def test_a_rendered_prompt_is_taken_as_it_is_by_policy_and_reward_model(chatml, llama3, plain):
    for tok, asked in ((chatml, ASKED), (llama3, LLAMA_ASKED), (llama3, LLAMA_ASKED.removeprefix("<s>"))):
        (ids,), _ = encode_prompts(tok, ["Hi"], max_prompt_tokens=99)
        assert encode_prompts(tok, [asked], max_prompt_tokens=99)[0] == [ids]
        one, other = encode_responses(tok, ["Hi", asked], ["Yes", "Yes"], EncodingSettings())
        assert one == other
    assert render_any_prompt(plain, "<s>Human: Hi\n\nAssistant: ", None) == "Human: Hi\n\nAssistant:"


@pytest.mark.parametrize(
    "prompt",
    [
        "Hi",
        "Why <|im_start|> and <|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nHi<|im_end|>\n",
        [{"role": "user", "content": ASKED}],
    ],
)
def test_nothing_else_is_taken_for_rendered(prompt, chatml):
    assert rendered_prompt(template_form(chatml, None), prompt) is None


def test_a_prompt_that_begins_as_rendered_and_ends_otherwise_can_be_refused(chatml, plain):
    form = template_form(chatml, None)
    with pytest.raises(DataError, match="does not end with") as caught:
        check_not_half_rendered(form, "<|im_start|>user\nHi<|im_end|>\n")
    assert "add_generation_prompt" in caught.value.fix
    for prompt in (ASKED, "Hi", [{"role": "user", "content": "<|im_start|>"}]):
        check_not_half_rendered(form, prompt)
    check_not_half_rendered(template_form(plain, None), "Human: Hi")


@pytest.mark.parametrize("ending", ["", "<|im_end|>", "<|im_end|>\n", "</s>"])
def test_a_plain_response_gets_its_end_once(ending, chatml):
    messages = [{"role": "assistant", "content": f"Yes{ending}"}]
    for response in (f"Yes{ending}", messages):
        one = encode_response(chatml, "Hi", response, EncodingSettings())
        assert one.input_ids == ids_of(f"{ASKED}Yes<|im_end|>\n")
        assert one.response_tokens == 3
    prompt_ids, _ = encode_prompts(chatml, ["Hi"], max_prompt_tokens=99)
    (written,) = encode_replies(chatml, ["Hi"], prompt_ids, [f"Yes{ending}"], end_token_ids=[ID["<|im_end|>"]])
    assert written == ids_of("Yes<|im_end|>")


@pytest.mark.parametrize("ending, kept", [("<pad>", "<pad>"), ("<pad>\n", "<pad>\n"), ("</s><pad><pad>", "")])
def test_a_pad_token_that_a_response_writes_is_text_where_an_ending_follows_it(ending, kept, chatml):
    for response in (f"Say{ending}", [{"role": "assistant", "content": f"Say{ending}"}]):
        one = encode_response(chatml, "Hi", response, EncodingSettings())
        assert one.input_ids == ids_of(f"{ASKED}Say{kept}<|im_end|>\n")
    (whole,) = encode_rendered(chatml, [f"{ASKED}Say{kept}<|im_end|>\n"], None, EncodingSettings())
    assert whole.input_ids == one.input_ids


def test_a_text_does_not_end_with_the_pad_token_where_nothing_follows_a_response():
    """Else a stock decoder would read an earlier token than the last."""
    one = encode_response(tokenizer(), "Hi", "Say<pad>", EncodingSettings())
    assert one.input_ids == ids_of("Human: Hi\n\nAssistant: Say")


def test_a_cut_response_of_a_question_has_no_ending(chatml, plain):
    (one,) = encode_responses(chatml, ["Hi"], ["Ye\n"], EncodingSettings(read_at="end_of_turn"), ended=[False])
    assert one.input_ids == ids_of(f"{ASKED}Ye\n")
    assert one.ended is False
    (one,) = encode_responses(plain, ["Hi"], ["Ye"], EncodingSettings(), ended=[False])
    assert one.input_ids == ids_of("<s>Human: Hi\n\nAssistant: Ye")


def test_a_rendered_text_that_is_too_long_loses_the_start_of_its_prompt(chatml):
    settings = EncodingSettings(max_length=20, overlong="truncate_prompt_left")
    (one,) = encode_rendered(chatml, [f"{ASKED}Yes.<|im_end|>"], None, settings)
    assert one.input_ids == ids_of(f"{ASKED}Yes.<|im_end|>\n")[-20:]
    assert (one.prompt_cut, one.response_cut) == (len(ids_of(f"{ASKED}Yes.<|im_end|>\n")) - 20, 0)


TEXTS = st.text(alphabet=[c for c in CHARACTERS if c not in "<["], min_size=1).filter(str.strip)


@given(question=TEXTS, response=TEXTS, template=st.sampled_from([CHATML, LLAMA3, INST, THOUGHT]), turn=st.booleans())
def test_any_conversation_as_text_has_the_ids_of_its_messages(question, response, template, turn):
    tok = tokenizer(template, bos_token="<s>", eos_token="</s>")
    settings = EncodingSettings(read_at="end_of_turn" if turn else "end")
    messages = [{"role": "user", "content": question}]
    text = tok.apply_chat_template([*messages, {"role": "assistant", "content": response}], tokenize=False)
    for written in (text, text.rstrip("\n"), text.removeprefix("<s>"), f"{text}</s>"):
        (one,) = encode_rendered(tok, [written], None, settings)
        assert one.input_ids == encode_response(tok, messages, response, settings).input_ids
        assert one.ended
