"""Model folders that say what is not so: one line, from whichever command meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from odin_rm.core.errors import ModelError
from odin_rm.model import honest
from odin_rm.model.backbone import check_model_folder, load_classifier, load_config
from odin_rm.model.honest import check_template, labels_of_weights
from odin_rm.model.policy import load_policy, save_policy
from odin_rm.model.scoring import load_scorer, score_sequences
from odin_rm.testbed.tiny import save_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("honest") / "base"
    save_tiny_model(folder, 0, hidden=16, layers=1, heads=2)
    return folder


@pytest.fixture
def folder(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def change(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(call, *arguments) -> str:
    with pytest.raises(ModelError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("value", [float("nan"), -5, "big", None, [], 10**30, True])
@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads"])
def test_sizes_that_are_none(folder, name, value):
    change(folder, **{name: value})
    assert str(folder) in refused(load_scorer, folder)
    assert str(folder) in refused(load_policy, folder)


@pytest.mark.parametrize("text", ["[" * 5000, "[1]", "{", "\x00", '"x"'])
def test_a_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in refused(check_model_folder, folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../base/model.safetensors", "/etc/passwd", "gone.safetensors"])
def test_an_index_that_points_elsewhere(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / honest.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": name}}))
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert name.split("/")[-1] in refused(check_model_folder, folder)
    (folder / honest.INDEX).write_text("[1]")
    assert "cannot be read" in refused(check_model_folder, folder)


def test_an_adapter_none_of_whose_weights_fit(base, tmp_path):
    model, tokenizer = load_policy(base, lora_r=2)
    torch.nn.init.ones_(next(p for n, p in model.named_parameters() if "lora_B" in n))
    save_policy(model, tokenizer, tmp_path / "adapter")
    load_policy(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("layers", "blocks"): tensor for name, tensor in tensors.items()}, file)
    assert "not those of this model (0 fit; " in refused(load_policy, tmp_path / "adapter")
    save_file(dict(list(tensors.items())[1:]), file)
    assert "there is none for" in refused(load_policy, tmp_path / "adapter")


def test_an_adapter_as_a_reward_model(base, tmp_path):
    model, tokenizer = load_policy(base, lora_r=2)
    save_policy(model, tokenizer, tmp_path / "adapter")
    assert "is a LoRA adapter without its base model. Merge it" in refused(load_scorer, tmp_path / "adapter")


def classifier(folder: Path, labels: int) -> None:
    """Make the folder one of a classifier, without a word on its labels in the config."""
    model = load_classifier(folder, config=load_config(folder, num_labels=labels), quiet=True)
    model.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    for name in ("num_labels", "id2label", "label2id"):
        content.pop(name, None)
    (folder / "config.json").write_text(json.dumps(content))


def test_labels_that_the_config_does_not_say(folder):
    classifier(folder, 1)
    assert labels_of_weights(folder) == 1
    scorer = load_scorer(folder)
    assert scorer.model.classifier.score.out_features == 1
    classifier(folder, 3)
    assert labels_of_weights(folder) == 3
    change(folder, num_labels=2)
    assert labels_of_weights(folder) is None


def test_ids_that_the_embedding_has_no_row_for(folder):
    classifier(folder, 1)
    scorer = load_scorer(folder)
    rows = scorer.model.classifier.get_input_embeddings().num_embeddings
    settings = {"pad_token_id": 0, "microbatch_tokens": 100, "device": torch.device("cpu")}
    score_sequences(scorer.model, [np.array([1, rows - 1])], **settings)
    said = refused(lambda: score_sequences(scorer.model, [np.array([1]), np.array([rows])], **settings))
    assert f"gives a text the token {rows}, and the model's embedding has {rows} rows" in said


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "does not end within"),
        ("{{ 'x' * 40000000 }}", "makes 40,000,000 characters"),
        ("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "makes 99,980,001 characters"),
    ],
)
def test_chat_templates_without_end(template, what, monkeypatch):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    monkeypatch.setattr(honest, "TEMPLATE_SECONDS", 1.0)
    compiled = ImmutableSandboxedEnvironment().from_string(template)
    tokenizer = SimpleNamespace(
        chat_template=template, apply_chat_template=lambda messages, tokenize: compiled.render()
    )
    assert what in refused(check_template, tokenizer, "somewhere")


def test_chat_templates_that_are_fine_or_refuse_the_probe():
    def refuse(messages, tokenize):
        raise ValueError("no assistant here")

    check_template(SimpleNamespace(chat_template="x", apply_chat_template=refuse), "x")
    check_template(SimpleNamespace(chat_template="x", apply_chat_template=lambda m, tokenize: "short"), "x")
    check_template(SimpleNamespace(chat_template=None), "x")
