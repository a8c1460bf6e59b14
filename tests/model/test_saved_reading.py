"""Models of an earlier odin-rm that do not say where they are read: refused in one line, or read as the user says."""

from __future__ import annotations

import json

import pytest
import torch

from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError, ModelError
from odin_rm.data.tokenise import EncodingSettings, encode_response
from odin_rm.model.info import INFO_FILE
from odin_rm.model.scoring import load_scorer, score_texts
from tests.model.words import TEXTS, build_tokenizer, reward_model


@pytest.fixture
def old_model(tmp_path):
    """Saved as it was: the tokenizer's missing pad token became its end token, and nothing says where it is read."""
    tokenizer = build_tokenizer("llama", pad=False)
    tokenizer.pad_token = "<eos>"
    model = reward_model("llama", tmp_path / "base", head_scale=3.0).eval()
    model.config.pad_token_id = tokenizer.eos_token_id
    settings = vars(EncodingSettings(max_length=60)).copy()
    del settings["read_at"]
    model.info = model.info.with_(encoding=settings)
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    return model, tokenizer, tmp_path / "model"


@torch.no_grad()
def at(model, ids: list[int]) -> float:
    """The quality at the last of some tokens, by hand: the states of the base model, then the head."""
    states = model.classifier.model(torch.tensor([ids])).last_hidden_state
    return float(model.heads(states[:, -1])[0, 0])


def test_it_is_refused_with_the_way_out(old_model):
    with pytest.raises(ModelError, match="at the last token of a text in trees, and before it in padded batches") as e:
        load_scorer(old_model[2])
    assert "--read_at end (trees) or before_pad" in str(e.value)


@pytest.mark.parametrize(("read_at", "left_out"), [("end", 0), ("before_pad", 1)])
def test_it_is_read_as_the_user_says(read_at, left_out, old_model):
    model, tokenizer, path = old_model
    prompts, responses = map(list, zip(*TEXTS, strict=True))
    quality, _, _ = score_texts(load_scorer(path, read_at=read_at), prompts, responses)
    for value, prompt, response in zip(quality, prompts, responses, strict=True):
        ids = encode_response(tokenizer, prompt, response, EncodingSettings()).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        assert value == pytest.approx(at(model, ids[: len(ids) - left_out]), abs=1e-5)


def test_what_is_written_into_the_folder_counts_everywhere(old_model, tmp_path):
    model, tokenizer, path = old_model
    content = json.loads((path / INFO_FILE).read_text())
    content["encoding"]["read_at"] = "end"
    (path / INFO_FILE).write_text(json.dumps(content))
    scorer = load_scorer(path)
    assert scorer.settings.read_at == "end"
    with pytest.raises(ConfigError, match="the model was trained with end"):
        load_scorer(path, read_at="before_pad")


def test_the_commands_say_it_in_one_line_and_take_the_flag(old_model, tmp_path, capsys):
    path = str(old_model[2])
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Why?", "response": "No."}) + "\n")
    command = ["score", "--model", path, "--input", str(rows), "--output", str(tmp_path / "out.jsonl")]
    assert main(command) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main([*command, "--read_at", "end"]) == 0
    export = ["export", "--model", path, "--output", str(tmp_path / "export")]
    assert main(export) == 2
    assert main([*export, "--read_at", "before_pad"]) == 2
    assert "vLLM, verl and OpenRLHF read the last token" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
    assert main([*export, "--read_at", "end"]) == 0
    assert json.loads((tmp_path / "export" / "config.json").read_text())["pad_token_id"] == 0


def test_a_model_whose_texts_do_not_end_with_the_pad_token_needs_no_word(tmp_path):
    tokenizer = build_tokenizer("llama")
    model = reward_model("llama", tmp_path / "base")
    settings = vars(EncodingSettings(max_length=60)).copy()
    del settings["read_at"]
    model.info = model.info.with_(encoding=settings)
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    assert load_scorer(tmp_path / "model").settings == EncodingSettings(max_length=60, read_at="end")


def test_an_end_token_as_pad_token_is_no_question_where_the_template_ends_otherwise(tmp_path):
    """As Qwen's base models are: their texts end with a line break, never with the pad token."""
    tokenizer = build_tokenizer("llama", pad=False)
    tokenizer.pad_token = "<eos>"
    tokenizer.chat_template = "{% for m in messages %}<bos>{{ m['content'] }} .{% endfor %}"
    model = reward_model("llama", tmp_path / "base")
    model.config.pad_token_id = tokenizer.eos_token_id
    settings = vars(EncodingSettings(max_length=60)).copy()
    del settings["read_at"]
    model.info = model.info.with_(encoding=settings)
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    assert load_scorer(tmp_path / "model").settings.read_at == "end"


@pytest.mark.parametrize(
    ("template", "said"), [("<bos>{{ m['content'] }} .", False), ("{{ m['content'] }}<eos>", True)]
)
def test_a_classifier_is_said_to_be_read_before_the_end_only_where_it_is(template, said, tmp_path, caplog):
    tokenizer = build_tokenizer("llama")
    tokenizer.chat_template = f"{{% for m in messages %}}{template}{{% endfor %}}"
    model = reward_model("llama", tmp_path / "base")
    model.config.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    (tmp_path / "model" / INFO_FILE).unlink()
    load_scorer(tmp_path / "model")
    assert ("its config says to skip <eos> at the end of a text" in caplog.text) == said


def test_the_flag_is_not_for_somebodys_classifier(tmp_path):
    tokenizer = build_tokenizer("llama")
    model = reward_model("llama", tmp_path / "base")
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    (tmp_path / "model" / INFO_FILE).unlink()
    with pytest.raises(ConfigError, match="somebody's classifier is read where its config says"):
        load_scorer(tmp_path / "model", read_at="end")
