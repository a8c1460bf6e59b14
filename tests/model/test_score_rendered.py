"""Scores of rendered texts from Python: those of the conversations, however a text ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import odin_rm
from odin_rm.core.errors import DataError
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.scoring import Scorer
from tests.model.words import TEXTS, build_tokenizer, reward_model

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {{ eos_token }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


@pytest.fixture(scope="module", params=["end", "end_of_turn"])
def scorer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    model = reward_model("llama", tmp_path_factory.mktemp("model") / "base")
    tokenizer = build_tokenizer("llama")
    tokenizer.chat_template = TEMPLATE
    return Scorer(model, tokenizer, EncodingSettings(max_length=64, read_at=request.param), "tiny", True)


def rendered(prompt: str, response: str, start: str, ending: str) -> str:
    return f"{start}user : {prompt} <eos> . assistant : {response}{ending}"


@pytest.mark.parametrize("start", ["<bos>", ""])
@pytest.mark.parametrize("ending", [" <eos> . ", " <eos>", "<eos>", " <eos> . <eos>"])
def test_a_text_has_the_score_of_its_conversation(scorer: Scorer, start: str, ending: str) -> None:
    prompts, responses = map(list, zip(*TEXTS, strict=True))
    texts = [rendered(*pair, start, ending) for pair in TEXTS]
    expected = odin_rm.score_texts(scorer, prompts, responses)
    for known in (None, prompts, [text[: text.index("assistant :") + 12] for text in texts]):
        quality, length, tokens, cut = odin_rm.score_rendered(scorer, texts, known)
        np.testing.assert_allclose(quality, expected[0], atol=1e-5)
        assert length is not None
        np.testing.assert_allclose(length, expected[1], atol=1e-5)
        assert tokens.tolist() == expected[2].tolist()
        assert cut.tolist() == [False] * len(texts)
    assert np.std(expected[0]) > 1e-3


def test_a_cut_text_is_read_at_its_last_token(scorer: Scorer) -> None:
    text = rendered("why ?", "no cats", "<bos>", "")
    quality, _, tokens, cut = odin_rm.score_rendered(scorer, [text, f"{text} <eos>"])
    ids = torch.tensor([scorer.tokenizer(text, add_special_tokens=False)["input_ids"]])
    assert ids[0, -1] == scorer.tokenizer.convert_tokens_to_ids("cats")
    with torch.no_grad():
        alone = scorer.model(ids, torch.ones_like(ids)).quality.item()
    assert quality[0] == pytest.approx(alone, abs=1e-5)
    assert abs(quality[0] - quality[1]) > 1e-3
    assert (cut.tolist(), tokens.tolist()) == ([True, False], [2, 2])


def test_what_cannot_be_scored_is_refused_by_number(scorer: Scorer) -> None:
    good = rendered("why ?", "no", "<bos>", " <eos>")
    with pytest.raises(DataError, match=r"text 2: the text is not in the form of the model's chat template"):
        odin_rm.score_rendered(scorer, [good, "no"])
    with pytest.raises(DataError, match="the window is 64"):
        odin_rm.score_rendered(scorer, [rendered("why ?", "rice " * 80, "", " <eos>")])
    quality, _, tokens, cut = odin_rm.score_rendered(scorer, [])
    assert quality.shape == tokens.shape == cut.shape == (0,)
