"""Scoring from Python: a text that does not fit is refused, never scored on nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from odin_rm.core.errors import DataError
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.model.scoring import Scorer, score_texts
from tests.model.words import build_tokenizer, reward_model


def test_an_overlong_text_is_refused_by_number(tmp_path: Path) -> None:
    model = reward_model("llama", tmp_path / "base").eval()
    scorer = Scorer(model, build_tokenizer("llama"), EncodingSettings(max_length=12), "tiny", True)
    quality, length, tokens = score_texts(scorer, ["why"], ["rice"])
    assert quality.shape == (1,)
    assert length is not None
    assert tokens.tolist() == [1]
    with pytest.raises(DataError, match=r"response 1: the text has \d+ tokens, the window is 12"):
        score_texts(scorer, ["why", "why"], ["rice", "rice " * 20])
