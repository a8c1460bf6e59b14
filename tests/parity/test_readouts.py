"""One text, four read-outs, one number: the training's forward pass, evaluation, ``odin-rm score`` and the export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from odin_rm.cli.main import main
from odin_rm.data.batching import collate
from odin_rm.data.load import load_preferences
from odin_rm.data.tokenise import EncodingSettings, encode_responses
from odin_rm.model.pad_token import ensure_sound_pad_token
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_scorer
from odin_rm.reward.scoring import score_preferences
from tests.families import FAMILIES
from tests.model.words import TEXTS, build_tokenizer, reward_model

TOLERANCE = 1e-5
SETTINGS = EncodingSettings(max_length=60)


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def saved_model(name: str, folder: Path, *, pad: bool = True) -> tuple[RewardModel, Path, list[float]]:
    """A saved reward model and what its training forward pass gives for the texts, one at a time, unpadded."""
    tokenizer = build_tokenizer(name, pad=pad)
    model = reward_model(name, folder / "base", head_scale=3.0).train()
    ensure_sound_pad_token(tokenizer, model.config, SETTINGS)
    model.grow_vocabulary(int(tokenizer.pad_token_id) + 1)
    model.info = model.info.with_(encoding=vars(SETTINGS))
    forward = []
    for encoded in encode_responses(tokenizer, *map(list, zip(*TEXTS, strict=True)), SETTINGS):
        ids = torch.tensor([encoded.input_ids])
        forward.append(float(model(ids, torch.ones_like(ids)).quality.detach()))
    model.save_pretrained(folder / "model", tokenizer=tokenizer)
    return model, folder / "model", forward


def evaluation_scores(path: Path) -> list[float]:
    scorer = load_scorer(path)
    rows = [{"prompt": p, "chosen": r, "rejected": "House."} for p, r in TEXTS]
    data = load_preferences(rows, scorer.tokenizer, scorer.settings)
    scored = score_preferences(scorer, data, microbatch_tokens=100)
    return [float(scored.quality[i]) for i in scored.chosen]


def command_scores(path: Path, folder: Path) -> list[float]:
    rows = [{"prompt": p, "response": r} for p, r in TEXTS]
    source, target = folder / "rows.jsonl", folder / f"scored-{path.name}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["score", "--model", str(path), "--input", str(source), "--output", str(target)]) == 0
    return [json.loads(line)["quality"] for line in target.read_text(encoding="utf-8").splitlines()]


def stock_scores(path: Path) -> list[float]:
    """What a tool without odin-rm does: its chat template, no further special tokens, padded on the right."""
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in TEXTS]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    with torch.no_grad():
        return model(**inputs).logits[:, 0].tolist()


def expect_one_number(name: str, folder: Path, *, pad: bool = True) -> None:
    model, path, forward = saved_model(name, folder, pad=pad)
    assert np.ptp(forward) > 1e-2  # a constant would agree with anything
    assert main(["export", "--model", str(path), "--output", str(folder / "exported")]) == 0
    found = {
        "evaluation": evaluation_scores(path),
        "score": command_scores(path, folder),
        "exported": stock_scores(folder / "exported"),
        "score of the exported": command_scores(folder / "exported", folder),
    }
    for door, scores in found.items():
        np.testing.assert_allclose(scores, forward, rtol=0, atol=TOLERANCE, err_msg=door)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_four_read_outs_give_one_number(name, tmp_path):
    expect_one_number(name, tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_and_where_the_tokenizer_has_no_pad_token(name, tmp_path):
    """The pad token is then the end token; the read-out is the last token that is no padding all the same."""
    expect_one_number(name, tmp_path, pad=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_side_and_company_change_nothing(name, tmp_path):
    model, _, forward = saved_model(name, tmp_path)
    tokenizer = build_tokenizer(name)
    encoded = encode_responses(tokenizer, *map(list, zip(*TEXTS, strict=True)), SETTINGS)
    for side in ("left", "right"):
        inputs = collate([np.array(e.input_ids) for e in encoded], tokenizer.pad_token_id, padding_side=side)
        with torch.no_grad():
            quality = model(inputs["input_ids"], inputs["attention_mask"]).quality
        np.testing.assert_allclose(quality, forward, rtol=0, atol=TOLERANCE, err_msg=side)
