"""The reward model: round trips on disk, precision, attention, gradient checkpointing, the stock view of its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers as tf
import yaml
from safetensors.torch import load_file

from odin_rm.core.errors import ModelError
from odin_rm.data.batching import collate
from odin_rm.model.heads import normalise_head
from odin_rm.model.info import INFO_FILE, RewardModelInfo
from odin_rm.model.reward_model import HEADS_FILE, RewardModel
from tests.families import FAMILIES, family_configs, random_sequences
from tests.model.words import DECODERS, build_tokenizer, reward_model


def batch(name: str) -> dict[str, torch.Tensor]:
    arrays = [np.asarray(s) for s in random_sequences(6)]
    return collate(arrays, family_configs()[name].pad_token_id)


def scores(model: RewardModel, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        found = model(**batch(name))
    return found.quality, found.length


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_and_loaded_it_scores_the_same(name, tmp_path):
    model = reward_model(name, tmp_path / "base", head_scale=2.0)
    model.info = model.info.with_(reward_mean=0.25, reward_std=1.5, objective="odin")
    model.save_pretrained(tmp_path / "model")
    again = RewardModel.from_pretrained(tmp_path / "model").eval()
    for mine, theirs in zip(scores(model, name), scores(again, name), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert again.info == model.info
    assert sorted(load_file(tmp_path / "model" / HEADS_FILE)) == ["length", "quality"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_folder_is_a_stock_classifier_of_quality_never_of_length(name, tmp_path):
    model = reward_model(name, tmp_path / "base", head_scale=2.0)
    model.save_pretrained(tmp_path / "model")
    stock, report = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert stock.config.num_labels == 1
    assert stock.config.id2label == {0: "quality"}
    with torch.no_grad():
        logits = stock.eval()(**batch(name)).logits
    quality, length = scores(model, name)
    assert logits.shape == (6, 1)
    torch.testing.assert_close(logits[:, 0], quality, rtol=0, atol=1e-5)
    assert (logits[:, 0] - length).abs().max() > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_quality_is_the_normalised_head_on_the_stock_classifiers_feature(name, tmp_path):
    """Against the architecture's own code: a hook reads what its own last linear layer gets."""
    model = reward_model(name, tmp_path / "base", head_scale=3.0)
    model.save_pretrained(tmp_path / "model")
    stock = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    features = []
    stock.get_submodule(model.output_layer).register_forward_hook(lambda m, args, out: features.append(args[0]))
    inputs = batch(name)
    with torch.no_grad():
        stock(**inputs)
    feature = features[0]
    if feature.dim() == 3:  # causal models apply the layer to every token and pick the last real one
        feature = feature[torch.arange(6), inputs["attention_mask"].sum(-1) - 1]
    for which, found in zip(("quality", "length"), scores(model, name), strict=True):
        expected = feature @ (3.0 * normalise_head(model.heads.vectors[which].detach()))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_eager_and_sdpa_attention_agree(name, tmp_path):
    reward_model(name, tmp_path / "base").save_pretrained(tmp_path / "model")
    found = {}
    for attention in ("eager", "sdpa"):
        if name == "deberta-v2" and attention == "sdpa":  # transformers has none for it
            with pytest.raises(ModelError, match="sdpa"):
                RewardModel.from_pretrained(tmp_path / "model", attn_implementation=attention)
            return
        model = RewardModel.from_pretrained(tmp_path / "model", attn_implementation=attention).eval()
        assert model.config._attn_implementation == attention
        found[attention] = scores(model, name)[0]
    torch.testing.assert_close(found["eager"], found["sdpa"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_autocast_gives_float32_rewards_near_the_exact_ones(name, tmp_path):
    model = reward_model(name, tmp_path / "base")
    exact = scores(model, name)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**batch(name))
        assert found.quality.dtype == found.length.dtype == torch.float32
        found.total().sum().backward()
    spread = float(exact.std())
    assert float((found.quality.detach() - exact).abs().max()) < 0.1 * spread + 0.02 * float(exact.abs().max())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.heads.vectors["quality"].grad.dtype == torch.float32


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bf16_model_keeps_its_heads_and_rewards_in_float32(name, tmp_path):
    reward_model(name, tmp_path / "base").save_pretrained(tmp_path / "model")
    model = RewardModel.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).eval()
    quality, length = scores(model, name)
    assert quality.dtype == length.dtype == torch.float32
    assert {p.dtype for p in model.heads.parameters()} == {torch.float32}
    assert torch.bfloat16 in {p.dtype for p in model.parameters()}


def gradients(model: RewardModel, name: str) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    found = model(**batch(name))
    (found.quality * torch.arange(6.0) + found.length).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_changes_no_gradient(name, tmp_path):
    model = reward_model(name, tmp_path / "base")
    plain = gradients(model, name)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    again = gradients(model, name)
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "modernbert"])
def test_dropout_is_off_in_training_and_back_in_the_saved_config(name, tmp_path):
    config = family_configs()[name]
    rates = [key for key in vars(config) if "drop" in key and isinstance(getattr(config, key), float)]
    for key in rates:
        setattr(config, key, 0.25)
    tf.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "base")
    model = RewardModel.from_backbone(tmp_path / "base").train()
    assert rates
    assert all(getattr(model.config, key) == 0 for key in rates)
    first, second = model(**batch(name)).quality, model(**batch(name)).quality
    assert torch.equal(first, second)
    model.save_pretrained(tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert {key: saved[key] for key in rates} == dict.fromkeys(rates, 0.25)
    assert all(getattr(model.config, key) == 0 for key in rates)  # saving did not switch it on again


def test_sharded_weights_load(tmp_path):
    model = reward_model("llama", tmp_path / "base")
    model.save_pretrained(tmp_path / "model")
    stock = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    stock.save_pretrained(tmp_path / "model", max_shard_size="4KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    again = RewardModel.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(scores(model, "llama")[0], scores(again, "llama")[0], rtol=0, atol=1e-6)


def test_weights_go_into_a_live_model_in_place(tmp_path):
    model = reward_model("bert", tmp_path / "base")
    model.save_pretrained(tmp_path / "model")
    torch.manual_seed(9)
    other = RewardModel.from_backbone(tmp_path / "base").eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.allclose(scores(other, "bert")[0], scores(model, "bert")[0])
    other.load_weights(tmp_path / "model")
    torch.testing.assert_close(scores(other, "bert")[0], scores(model, "bert")[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_causal_families_have_what_ppo_code_reaches_for(name, tmp_path):
    reward_model(name, tmp_path / "base").save_pretrained(tmp_path / "model")
    stock = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    backbone = getattr(stock, stock.base_model_prefix)
    hidden = backbone(**batch(name)).last_hidden_state
    assert stock.score(hidden).shape == (*hidden.shape[:2], 1)


# ---- what is missing, and the hub ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file, damage, message",
    [
        (HEADS_FILE, None, "heads are missing"),
        (HEADS_FILE, b"junk", "cannot read the heads"),
        (INFO_FILE, None, "not a reward model saved by odin-rm"),
        (INFO_FILE, b"{", "cannot read the reward model's description"),
        (INFO_FILE, b'{"format_version": 99}', "format 99"),
        ("model.safetensors", None, "no weights"),
        ("config.json", None, r"no config\.json"),
    ],
)
def test_a_damaged_folder_is_one_line(file, damage, message, tmp_path):
    reward_model("llama", tmp_path / "base").save_pretrained(tmp_path / "model")
    if damage is None:
        (tmp_path / "model" / file).unlink()
    else:
        (tmp_path / "model" / file).write_bytes(damage)
    with pytest.raises(ModelError, match=message) as error:
        RewardModel.from_pretrained(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_heads_of_another_kind_of_model_are_refused(tmp_path):
    reward_model("llama", tmp_path / "a").save_pretrained(tmp_path / "two")
    model = RewardModel.from_backbone(tmp_path / "a", heads=["quality"])
    with pytest.raises(ModelError, match=r"expected the heads \('quality',\)"):
        model.load_heads(tmp_path / "two")


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def test_the_card_holds_the_audit(tmp_path):
    model = reward_model("llama", tmp_path / "base")
    audit = {"pairs": 120, "dataset": "val.jsonl", "pearson": figure(-0.031), "accuracy": figure(0.692)}
    undefined = {"kendall": {"value": None, "low": None, "high": None, "why": "constant"}}
    model.info = model.info.with_(audit=audit | undefined, training={"model": "org/base", "learning_rate": 1e-5})
    model.save_pretrained(tmp_path / "model", tokenizer=build_tokenizer("llama"))
    text = (tmp_path / "model" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == "org/base"
    assert front["pipeline_tag"] == "text-classification"
    assert "| pearson | -0.031 | -0.131 | 0.069 |" in text
    assert "| accuracy | 0.692 | 0.592 | 0.792 |" in text
    assert "kendall" not in text
    assert "val.jsonl: 120 pairs" in text
    assert "| learning_rate | 1e-05 |" in text


def test_the_folder_says_what_transformers_4_and_other_tools_read(tmp_path):
    model = reward_model("llama", tmp_path / "base")
    model.info = model.info.with_(reward_mean=0.25, reward_std=1.5)
    model.save_pretrained(tmp_path / "model", tokenizer=build_tokenizer("llama"))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    expected = {"rope_theta": 10_000.0, "torch_dtype": "float32", "mean": 0.25, "std": 1.5, "pad_token_id": 0}
    assert {name: config[name] for name in expected} == expected
    assert config["rope_parameters"]["rope_theta"] == 10_000.0
    assert config["sentence_transformers"]["activation_fn"] == "torch.nn.modules.linear.Identity"
    reader = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert reader["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert reader["model_input_names"] == ["input_ids", "attention_mask"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "odin-rm export --model this-folder --output exported" in card
    assert "vLLM, verl, OpenRLHF" in card


def test_push_to_hub_uploads_the_folder(tmp_path, monkeypatch):
    import huggingface_hub

    seen = {}

    class Api:
        def create_repo(self, repo_id, private=None, exist_ok=False):
            seen["created"] = (repo_id, private, exist_ok)
            return type("Url", (), {"repo_id": f"me/{repo_id}"})()

        def upload_folder(self, *, repo_id, folder_path, **kwargs):
            seen["uploaded"] = repo_id
            seen["files"] = {p.name for p in __import__("pathlib").Path(folder_path).iterdir()}
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model = reward_model("llama", tmp_path / "base")
    assert model.push_to_hub("odin", tokenizer=build_tokenizer("llama"), private=True) == "https://hub/commit"
    assert seen["created"] == ("odin", True, True)
    assert seen["uploaded"] == "me/odin"
    assert seen["files"] >= {"model.safetensors", "config.json", HEADS_FILE, INFO_FILE, "README.md", "tokenizer.json"}


def test_unknown_fields_of_a_description_are_ignored_and_known_ones_kept(tmp_path):
    info = RewardModelInfo(heads=("quality",), reward_std=2.0)
    info.save(tmp_path)
    content = json.loads((tmp_path / INFO_FILE).read_text()) | {"from_the_future": 1}
    (tmp_path / INFO_FILE).write_text(json.dumps(content))
    assert RewardModelInfo.load(tmp_path) == info
