"""The exported quality head: equal scores through every door of transformers, and a refusal where they differ."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file

from odin_rm.core.errors import ExportError, OutputError
from odin_rm.core.types import LENGTH, QUALITY
from odin_rm.data.tokenise import EncodingSettings, encode_responses
from odin_rm.model.backbone import ensure_pad_token
from odin_rm.model.export import export_quality_head
from odin_rm.model.parity_texts import PARITY_TEXTS
from odin_rm.model.reward_model import RewardModel
from tests.families import FAMILIES, random_sequences
from tests.model.test_reward_model import batch, scores
from tests.model.words import TEXTS, build_tokenizer, reward_model

SETTINGS = EncodingSettings(max_length=50)
CHATS = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in TEXTS]


def text_scores(model: RewardModel, tokenizer, settings: EncodingSettings) -> list[float]:
    encoded = encode_responses(tokenizer, *map(list, zip(*TEXTS, strict=True)), settings)
    found = []
    with torch.no_grad():
        for one in encoded:
            ids = torch.tensor([one.input_ids])
            found.append(float(model(ids, torch.ones_like(ids)).quality))
    return found


@pytest.fixture(params=FAMILIES)
def exported(request, tmp_path):
    name = request.param
    model, tokenizer = reward_model(name, tmp_path / "base", head_scale=2.0), build_tokenizer(name)
    ensure_pad_token(tokenizer, model.config)
    model.info = model.info.with_(encoding=vars(SETTINGS))
    report = export_quality_head(model, tmp_path / "out", sequences=random_sequences(8), tokenizer=tokenizer)
    return name, model, tokenizer, tmp_path / "out", report


def test_export_is_a_stock_classifier_with_equal_scores(exported):
    name, model, tokenizer, folder, report = exported
    assert report.sequences == 8 + len(PARITY_TEXTS)
    assert report.max_difference <= 1e-5
    assert report.chat_template
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= files
    assert not files & {"odin_rm.json", "reward_heads.safetensors", "adapter_config.json"}

    stock, loading = tf.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert [kind for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if loading[kind]] == []
    with torch.no_grad():
        logits = stock.eval()(**batch(name)).logits
    torch.testing.assert_close(logits, scores(model, name)[0][:, None], rtol=0, atol=1e-5)
    assert not any(LENGTH in key for key in load_file(folder / "model.safetensors"))


def test_the_pipeline_gives_the_same_scores(exported):
    _, model, tokenizer, folder, _ = exported
    score = tf.pipeline("text-classification", model=str(folder), function_to_apply="none", device="cpu")
    texts = [score.tokenizer.apply_chat_template(chat, tokenize=False) for chat in CHATS]
    found = [row["score"] for row in score(texts, add_special_tokens=False)]
    assert found == pytest.approx(text_scores(model, tokenizer, SETTINGS), abs=1e-5)
    batched = [row["score"] for row in score(texts, add_special_tokens=False, batch_size=4)]
    assert batched == pytest.approx(found, abs=1e-5)
    # A pipeline that was told nothing squashes one label by a sigmoid, unless the config says regression.
    untold = tf.pipeline("text-classification", model=str(folder), device="cpu")
    assert [row["score"] for row in untold(texts, add_special_tokens=False)] == pytest.approx(found, abs=1e-6)


def test_the_tokenizer_renders_the_ids_of_the_training(exported):
    _, _, tokenizer, folder, _ = exported
    stock = tf.AutoTokenizer.from_pretrained(folder)
    assert stock.padding_side == "right"
    assert stock.pad_token_id == tokenizer.pad_token_id
    assert stock.model_max_length == 50
    rows = [
        *TEXTS,
        ("Human: Why?\n\nAssistant: No.\n\nHuman: What?", "Rice."),
        ([{"role": "system", "content": "cook"}, {"role": "user", "content": "What?"}], " rice."),
        ([{"role": m, "content": t} for m, t in [("user", "why"), ("assistant", "no"), ("user", "how?")]], "yes"),
    ]
    for prompt, response in rows:
        chat = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        ids = stock.apply_chat_template([*chat, {"role": "assistant", "content": response}], return_dict=False)
        assert list(ids) == encode_responses(tokenizer, [prompt], [response], SETTINGS)[0].input_ids


def test_a_models_own_chat_template_goes_out_unchanged(tmp_path):
    model, tokenizer = reward_model("llama", tmp_path / "base"), build_tokenizer("llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '<eos>' }}{% endfor %}"
    kwargs = {"sequences": random_sequences(2), "tokenizer": tokenizer}
    export_quality_head(model, tmp_path / "own", **kwargs)
    assert tf.AutoTokenizer.from_pretrained(tmp_path / "own").chat_template == tokenizer.chat_template
    # Trained on the plain template in spite of it, the model is exported with the plain one.
    model.info = model.info.with_(encoding={"chat_template": "plain"})
    assert export_quality_head(model, tmp_path / "plain", **kwargs).chat_template
    plain = tf.AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert "Human:" in plain.apply_chat_template(CHATS[0], tokenize=False)
    assert tokenizer.chat_template.startswith("{% for m")  # the caller's tokenizer is left alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_half_precision_is_written_and_within_its_own_tolerance(name, dtype, tmp_path):
    model = reward_model(name, tmp_path / "base")
    report = export_quality_head(model, tmp_path / "out", sequences=random_sequences(6), dtype=dtype)
    assert 0 < report.max_difference <= report.tolerance
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {dtype}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


# ---- refusals --------------------------------------------------------------------------------------------------------


def wrong_normalisation(model: RewardModel) -> dict[str, torch.Tensor]:
    raw = model.heads.vectors[QUALITY].detach()
    return {model.output_layer + ".weight": (raw / raw.norm())[None]}  # the mean was not taken off


def without_normalisation(model: RewardModel) -> dict[str, torch.Tensor]:
    return {model.output_layer + ".weight": model.heads.vectors[QUALITY].detach()[None]}


def length_head(model: RewardModel) -> dict[str, torch.Tensor]:
    return {model.output_layer + ".weight": model.heads.effective(LENGTH).detach()[None]}


def not_a_number(model: RewardModel) -> dict[str, torch.Tensor]:
    return {model.output_layer + ".weight": torch.full((1, model.heads.in_features), torch.nan)}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mutation", [wrong_normalisation, without_normalisation, length_head, not_a_number])
def test_a_wrong_head_is_refused_and_nothing_is_left(mutation, name, tmp_path, monkeypatch):
    model = reward_model(name, tmp_path / "base", head_scale=2.0)
    with torch.no_grad():
        model.heads.vectors[QUALITY].add_(0.02)  # a mean that the normalisation has to take off
    honest = RewardModel.quality_state_dict
    monkeypatch.setattr(RewardModel, "quality_state_dict", lambda self: honest(self) | mutation(self))
    with pytest.raises(ExportError, match="scores differently"):
        export_quality_head(model, tmp_path / "out", sequences=random_sequences(6))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_diverged_model_is_refused(tmp_path):
    model = reward_model("llama", tmp_path / "base")
    with torch.no_grad():
        model.heads.vectors[QUALITY][0] = torch.nan
    with pytest.raises(ExportError, match="not finite"):
        export_quality_head(model, tmp_path / "out", sequences=random_sequences(2))
    assert not (tmp_path / "out").exists()


def test_an_export_without_a_comparison_is_refused(tmp_path):
    with pytest.raises(ExportError, match="nothing to compare"):
        export_quality_head(reward_model("llama", tmp_path / "base"), tmp_path / "out", sequences=[])


def test_a_full_folder_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        export_quality_head(reward_model("llama", tmp_path / "base"), tmp_path / "out", sequences=random_sequences(2))
    assert (tmp_path / "out" / "mine.txt").read_text() == "x"
