"""LoRA: what is trained, what is saved, that it comes back, and that a merge changes no score."""

from __future__ import annotations

import hashlib

import pytest
import torch

from odin_rm.core.errors import ModelError
from odin_rm.model.export import export_quality_head
from odin_rm.model.reward_model import RewardModel
from tests.families import FAMILIES, random_sequences
from tests.model.test_reward_model import gradients, scores
from tests.model.words import reward_model

OUTSIDE = {
    "roberta": ["classifier.dense"],
    "deberta-v2": ["pooler.dense"],
    "modernbert": ["head.dense"],
}


def lora_model(name: str, folder) -> RewardModel:
    model = reward_model(name, folder)
    model.add_lora(str(folder), r=2, alpha=4)
    # The adapters' B starts at zero, where A has no gradient and a merge would prove nothing.
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_heads_and_outside_modules_are_trained_and_nothing_else(name, tmp_path):
    model = lora_model(name, tmp_path)
    found = gradients(model, name)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == found.keys()
    kinds = {"lora_A", "lora_B", "vectors.quality", "vectors.length"}
    outside = OUTSIDE.get(name, [])
    for kind in kinds | {f"{layer}.modules_to_save.default.weight" for layer in outside}:
        assert any(kind in key for key in trained), kind
    allowed = kinds | {f"{layer}.modules_to_save" for layer in outside}
    assert [key for key in trained if not any(kind in key for kind in allowed)] == []
    assert [key for key, gradient in found.items() if not gradient.abs().max() > 0 and "bias" not in key] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_loaded_and_exported_it_scores_the_same(name, tmp_path):
    base = tmp_path / "base"
    model = lora_model(name, base)
    with torch.no_grad():  # as training would: everything that is trained moves away from the base
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    before = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    expected = scores(model, name)
    model.save_pretrained(tmp_path / "model")
    assert hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest() == before
    assert not (tmp_path / "model" / "model.safetensors").exists()

    again = RewardModel.from_pretrained(tmp_path / "model").eval()
    assert again.is_lora
    for mine, theirs in zip(expected, scores(again, name), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-6)
    assert not any(p.requires_grad for key, p in again.named_parameters() if "lora_" in key)
    onward = RewardModel.from_pretrained(tmp_path / "model", trainable=True)
    assert any(p.requires_grad for key, p in onward.named_parameters() if "lora_" in key)

    report = export_quality_head(again, tmp_path / "exported", sequences=random_sequences(6))
    assert report.max_difference <= 1e-5
    assert again.is_lora  # exporting left the model as it was
    torch.testing.assert_close(scores(again, name)[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_keeps_the_adapters_gradients(name, reentrant, tmp_path):
    model = lora_model(name, tmp_path)
    plain = gradients(model, name)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again = gradients(model, name)
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, rtol=1e-6, atol=1e-6, msg=key)


def test_weights_go_into_a_live_lora_model(tmp_path):
    model = lora_model("llama", tmp_path / "base")
    model.save_pretrained(tmp_path / "model")
    other = reward_model("llama", tmp_path / "base")
    other.add_lora(str(tmp_path / "base"), r=2, alpha=4)
    other.load_weights(tmp_path / "model")
    torch.testing.assert_close(scores(other, "llama")[0], scores(model, "llama")[0], rtol=0, atol=1e-6)


def test_a_layer_that_is_not_there(tmp_path):
    model = reward_model("llama", tmp_path)
    with pytest.raises(ModelError, match="LoRA cannot be added"):
        model.add_lora(str(tmp_path), r=2, alpha=4, target_modules=["no_such_layer"])


def test_training_that_goes_on_from_an_adapter_trains_the_heads_too(tmp_path):
    model = lora_model("llama", tmp_path / "base")
    model.save_pretrained(tmp_path / "saved")
    again = RewardModel.from_pretrained(tmp_path / "saved", trainable=True)
    trained = {key for key, parameter in again.named_parameters() if parameter.requires_grad}
    assert trained == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    for_scoring = RewardModel.from_pretrained(tmp_path / "saved")
    assert not any(parameter.requires_grad for parameter in for_scoring.parameters())


def test_a_base_model_that_has_gone_is_named_beside_the_adapter(tmp_path):
    lora_model("llama", tmp_path / "base").save_pretrained(tmp_path / "saved")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"saved on .*base: the adapter needs its base model"):
        RewardModel.from_pretrained(tmp_path / "saved")
