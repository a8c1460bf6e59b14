"""Finding a backbone's parts, and one-line errors for what is no model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file

from odin_rm.core.errors import ModelError
from odin_rm.model.backbone import (
    check_model_folder,
    ensure_pad_token,
    find_output_layer,
    load_classifier,
    model_window,
    pad_right,
    position_table,
    switch_dropout_off,
)
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_scorer
from tests.families import FAMILIES, family_configs, save_base
from tests.model.words import ENCODERS, build_tokenizer, reward_model

OUTPUT_LAYER = {
    **dict.fromkeys(FAMILIES, "score"),
    "bert": "classifier",
    "roberta": "classifier.out_proj",
    "deberta-v2": "classifier",
    "modernbert": "classifier",
}


def classifier(name: str):
    config = family_configs()[name]
    config.num_labels = 1
    return tf.AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_output_layer_is_found_by_structure(name):
    model = classifier(name)
    assert find_output_layer(model, 1) == OUTPUT_LAYER[name]


def test_a_model_without_such_a_layer_is_refused():
    with pytest.raises(ModelError, match=r"no linear output layer with 3 label\(s\) in BertModel"):
        find_output_layer(tf.BertModel(family_configs()["bert"]), 3)


def test_opt_reads_the_projected_features(tmp_path):
    """Word embeddings of 8 in a model of 16: the heads sit on what the stock classifier reads."""
    model = reward_model("opt", tmp_path)
    assert model.heads.in_features == 8


# RoBERTa counts positions from after its padding id 1; OPT's table has two more rows than positions.
TABLE = {**dict.fromkeys(FAMILIES, None), "gpt2": 64, "opt": 64, "bert": 64, "roberta": 62, "deberta-v2": 64}


@pytest.mark.parametrize("name", FAMILIES)
def test_how_many_positions_a_table_allows(name, tmp_path):
    model = reward_model(name, tmp_path)
    assert position_table(model) == TABLE[name]
    if TABLE[name] is not None:
        pad = model.config.pad_token_id
        ids = torch.full((1, TABLE[name]), 5)
        assert torch.isfinite(model(ids, torch.ones_like(ids)).quality).all()
        longer = torch.full((1, TABLE[name] + 1), 5)
        with pytest.raises((IndexError, RuntimeError)):
            model(longer, torch.ones_like(longer))
        assert pad is not None


def test_the_window_is_the_smallest_that_anything_says(tmp_path):
    tokenizer = build_tokenizer("bert")
    model = reward_model("bert", tmp_path)
    assert model_window(model, tokenizer) == 64  # the tokenizer says 1e30
    tokenizer.model_max_length = 20
    assert model_window(model, tokenizer) == 20


def test_padding_moves_to_the_right():
    ids = torch.tensor([[0, 0, 7, 8], [5, 6, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    moved, moved_mask = pad_right(ids, mask)
    assert moved.tolist() == [[7, 8, 0, 0], [5, 6, 0, 0]]
    assert moved_mask.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_a_tokenizer_without_pad_takes_its_end_token():
    tokenizer, config = build_tokenizer("gpt2", pad=False), family_configs()["gpt2"]
    config.pad_token_id = None
    assert ensure_pad_token(tokenizer, config) == tokenizer.eos_token_id == config.pad_token_id
    tokenizer = build_tokenizer("gpt2", pad=False)
    tokenizer.eos_token = tokenizer.unk_token = None
    with pytest.raises(ModelError, match=r"no pad, end or unknown token"):
        ensure_pad_token(tokenizer, config)


def test_dropout_goes_off_and_is_remembered():
    config = tf.BertConfig(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2)
    assert switch_dropout_off(config) == {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0
    assert switch_dropout_off(config) == {}


# ---- what is no model ------------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_folder_that_is_not_there(tmp_path):
    for load in (check_model_folder, load_classifier, load_scorer, RewardModel.from_backbone):
        with pytest.raises(ModelError) as error:
            load(tmp_path / "none")
        assert "there is no such model folder" in one_line(error)


def test_a_folder_without_config(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError) as error:
        load_scorer(tmp_path)
    assert "no config.json" in one_line(error)


def test_a_folder_without_weights(tmp_path):
    family_configs()["bert"].save_pretrained(tmp_path)
    for load in (load_scorer, RewardModel.from_backbone):
        with pytest.raises(ModelError) as error:
            load(tmp_path)
        assert "no weights" in one_line(error)


def test_a_pickle_is_never_opened(tmp_path):
    save_base("bert", tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    for load in (load_scorer, RewardModel.from_backbone):
        with pytest.raises(ModelError) as error:
            load(tmp_path)
        assert "pickle" in one_line(error)


def test_damaged_weights_are_one_line(tmp_path):
    save_base("bert", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError) as error:
        RewardModel.from_backbone(tmp_path)
    assert "cannot load the model" in one_line(error)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_base_model_is_not_scored_with_a_random_classifier(name, tmp_path):
    build_tokenizer(name).save_pretrained(save_base(name, tmp_path))
    with pytest.raises(ModelError) as error:
        load_scorer(tmp_path)
    assert f"{'classifier' if name in ENCODERS else 'score'}" in one_line(error)
    assert "not a trained sequence classifier" in str(error.value)


def test_an_architecture_without_a_classifier(tmp_path: Path):
    config = tf.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    tf.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError) as error:
        RewardModel.from_backbone(tmp_path)
    assert "cannot load the model" in one_line(error)
