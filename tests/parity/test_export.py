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
from odin_rm.model import export, export_proof
from odin_rm.model.backbone import ensure_pad_token
from odin_rm.model.export import export_quality_head
from odin_rm.model.parity_texts import PARITY_TEXTS
from odin_rm.model.reward_model import RewardModel
from tests.families import DECODER, FAMILIES, SPECIAL, VOCABULARY, random_sequences
from tests.model.test_reward_model import batch, scores
from tests.model.words import DECODERS, TEXTS, build_tokenizer, reward_model

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


def test_a_models_own_chat_template_goes_out_with_its_text(tmp_path):
    model, tokenizer = reward_model("llama", tmp_path / "base"), build_tokenizer("llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '<eos>' }}{% endfor %}"
    kwargs = {"sequences": random_sequences(2), "tokenizer": tokenizer}
    export_quality_head(model, tmp_path / "own", **kwargs)
    own = tf.AutoTokenizer.from_pretrained(tmp_path / "own")
    assert own.apply_chat_template(CHATS[1], tokenize=False) == "user Why?<eos>assistant No.<eos>"
    # Trained on the plain template in spite of it, the model is exported with the plain one.
    model.info = model.info.with_(encoding={"chat_template": "plain"})
    assert export_quality_head(model, tmp_path / "plain", **kwargs).chat_template
    plain = tf.AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert "Human:" in plain.apply_chat_template(CHATS[0], tokenize=False)
    assert tokenizer.chat_template.startswith("{% for m")  # the caller's tokenizer is left alone


def test_query_and_document_score_as_the_conversation_does(exported):
    """As vLLM's /score and /rerank do it: the template, then the tokenizer with its special tokens."""
    _, model, tokenizer, folder, report = exported
    assert report.pairs == "both"
    stock = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    reader = tf.AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt, response in TEXTS:
        pair = [{"role": "query", "content": prompt}, {"role": "document", "content": response}]
        inputs = reader(reader.apply_chat_template(pair, tokenize=False), return_tensors="pt")
        with torch.no_grad():
            found.append(float(stock(**inputs).logits[0, 0]))
    assert found == pytest.approx(text_scores(model, tokenizer, SETTINGS), abs=1e-5)


def test_a_cross_encoder_scores_pairs_and_conversations_as_we_do(exported):
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", minversion="6.0", reason="needs sentence-transformers 6"
    )
    _, model, tokenizer, folder, _ = exported
    scorer = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    expected = text_scores(model, tokenizer, SETTINGS)
    assert scorer.predict(TEXTS).tolist() == pytest.approx(expected, abs=1e-5)
    assert scorer.predict(CHATS).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_report_says_each_way_of_reading(exported):
    name, _, _, _, report = exported
    ways = {"one by one", "padded on the right"}
    if name in DECODERS:
        ways |= {"at the last token"}
    if name in DECODERS and name not in ("gpt2", "opt"):  # their positions count columns
        ways |= {"padded on the left"}
    assert set(report.differences) == ways
    assert report.max_difference == max(report.differences.values())
    assert ("padded on the left" in ways) == (report.left_out == ())
    turns = name in ("llama", "qwen3", "mistral", "gemma", "modernbert")
    assert (report.rotary is not None) == turns
    assert report.rotary is None or report.rotary < 1e-6


def test_the_files_say_what_other_tools_read(exported):
    name, _, _, folder, _ = exported
    config = json.loads((folder / "config.json").read_text())
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert config["problem_type"] == "regression"
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    assert "mean" not in config
    reader = json.loads((folder / "tokenizer_config.json").read_text())
    assert reader["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert reader["model_input_names"] == ["input_ids", "attention_mask"]
    if name in ("llama", "qwen3", "mistral", "gemma"):
        assert config["rope_theta"] == 10_000.0
        assert "rope_scaling" not in config
    # SGLang's class for Qwen3 has a bias; transformers never sees the file.
    bias = folder / "score_bias.safetensors"
    assert bias.is_file() == (name == "qwen3")
    if bias.is_file():
        assert {key: value.tolist() for key, value in load_file(bias).items()} == {"score.bias": [0.0]}


def test_special_tokens_have_the_name_that_both_releases_know(tmp_path):
    """transformers 4 stops at a list of extra_special_tokens."""
    model, tokenizer = reward_model("llama", tmp_path / "base"), build_tokenizer("llama")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model.grow_vocabulary(len(tokenizer))
    export_quality_head(model, tmp_path / "out", tokenizer=tokenizer)
    reader = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert reader["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert "extra_special_tokens" not in reader
    again = tf.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert {"<|im_start|>", "<|im_end|>"} <= set(again.all_special_tokens)
    assert again("yes<|im_end|>")["input_ids"] == tokenizer("yes<|im_end|>")["input_ids"]


def test_mean_and_deviation_are_there_for_openrlhf_and_leave_with_the_next_training(tmp_path):
    model = reward_model("llama", tmp_path / "base")
    model.info = model.info.with_(reward_mean=0.5, reward_std=2.0)
    export_quality_head(model, tmp_path / "out", sequences=random_sequences(2))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["mean"], config["std"]) == (0.5, 2.0)
    RewardModel.from_backbone(tmp_path / "out").save_pretrained(tmp_path / "next")
    assert "mean" not in json.loads((tmp_path / "next" / "config.json").read_text())


def test_the_card_has_the_call_of_each_tool_and_a_score_that_is_true(exported):
    name, model, tokenizer, folder, _ = exported
    card = (folder / "README.md").read_text()
    ids = encode_responses(tokenizer, ["What is 2 + 2?"], ["It is 4."], SETTINGS)[0].input_ids
    with torch.no_grad():
        score = float(model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)).quality)
    assert f"score:     {score:.4f}" in card
    both = ["### transformers", "### TRL", "### sentence-transformers", "### vLLM", "### RewardBench"]
    decoder, encoder = ["### SGLang", "### verl", "### OpenRLHF"], ["### Text Embeddings Inference"]
    for heading in [*both, *decoder, *encoder]:
        assert (heading in card) == (heading in both or heading in (decoder if name in DECODERS else encoder)), heading
    for line in card.splitlines():
        if " -d '" in line:
            json.loads(line.split(" -d '")[1].removesuffix("'"))
    assert "--chat-template exported/chat_template.jinja" in card


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


ENDED = [[*ids, 2] for ids in random_sequences(4)]  # as real texts end


def nothing_left(folder) -> bool:
    return sorted(path.name for path in folder.iterdir()) == ["base"]


def test_a_text_that_is_read_before_its_last_token_is_refused(tmp_path, monkeypatch):
    """The check of the pad token aside, the scores show it too."""
    model = reward_model("llama", tmp_path / "base", head_scale=2.0)
    model.config.pad_token_id = 2
    monkeypatch.setattr(export_proof, "_check_token_read", lambda *arguments: None)
    with pytest.raises(ExportError, match="scores differently one by one"):
        export_quality_head(model, tmp_path / "out", sequences=ENDED)
    assert nothing_left(tmp_path)


def test_a_pad_token_that_ends_texts_is_refused(tmp_path):
    """Stock decoders skip it, other tools do not."""
    model, tokenizer = reward_model("llama", tmp_path / "base", head_scale=2.0), build_tokenizer("llama")
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.eos_token_id
    for kwargs in ({"sequences": ENDED}, {"tokenizer": tokenizer}):
        with pytest.raises(ExportError, match="texts end with the pad token, which classifiers skip"):
            export_quality_head(model, tmp_path / "out", **kwargs)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("configured", [None, 3])
def test_a_tokenizer_that_pads_with_another_token_than_the_config_says_is_refused(configured, tmp_path):
    model, tokenizer = reward_model("llama", tmp_path / "base", head_scale=2.0), build_tokenizer("llama")
    model.config.pad_token_id = configured
    with pytest.raises(ExportError, match=f"config.json has the pad id {configured}, the tokenizer pads with 0"):
        export_quality_head(model, tmp_path / "out", tokenizer=tokenizer)
    assert nothing_left(tmp_path)


def damaged(monkeypatch, change) -> None:
    honest = export.complete_config

    def complete(folder, info):
        honest(folder, info)
        path = folder / "config.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    monkeypatch.setattr(export, "complete_config", complete)


def test_rotary_positions_that_transformers_4_would_get_wrong_are_refused(tmp_path, monkeypatch):
    model = reward_model("llama", tmp_path / "base")
    damaged(monkeypatch, lambda config: config | {"rope_theta": 5e5})
    with pytest.raises(ExportError, match="transformers 4 would compute other rotary positions"):
        export_quality_head(model, tmp_path / "out", sequences=random_sequences(2))
    assert nothing_left(tmp_path)


def test_rotary_positions_that_transformers_5_gets_wrong_are_refused(tmp_path, monkeypatch):
    model = reward_model("llama", tmp_path / "base", head_scale=2.0)
    damaged(monkeypatch, lambda config: config | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    with pytest.raises(ExportError, match="scores differently"):
        export_quality_head(model, tmp_path / "out", sequences=random_sequences(6))
    assert nothing_left(tmp_path)


def test_a_classifier_that_reads_another_token_in_a_padded_row_is_refused(tmp_path, monkeypatch):
    """Left and right are looked at by themselves: one by one such a classifier is right."""
    model = reward_model("llama", tmp_path / "base", head_scale=2.0)
    honest = tf.LlamaForSequenceClassification.forward

    def first_column(self, input_ids=None, attention_mask=None, **kwargs):
        if side == "left":  # no mask: padding on the left is read as text
            padded = input_ids.shape[0] > 1 and not attention_mask[:, 0].all()
            return honest(self, input_ids=input_ids, attention_mask=None if padded else attention_mask, **kwargs)
        lengths = attention_mask.sum(-1) if attention_mask[:, 0].all() else None
        if lengths is not None and len(lengths) > 1:  # one token too early
            attention_mask = attention_mask.clone()
            input_ids = input_ids.clone()
            input_ids[torch.arange(len(lengths)), lengths - 1] = self.config.pad_token_id
        return honest(self, input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    for side in ("left", "right"):
        with monkeypatch.context() as patched:
            patched.setattr(export, "load_classifier", swapped_forward(first_column))
            with pytest.raises(ExportError, match=f"scores differently padded on the {side}"):
                export_quality_head(model, tmp_path / "out", sequences=random_sequences(6))
        assert nothing_left(tmp_path)


def swapped_forward(forward):
    def load(folder, **kwargs):
        stock = tf.AutoModelForSequenceClassification.from_pretrained(folder, **kwargs)
        stock.forward = forward.__get__(stock)
        return stock

    return load


def test_texts_that_depend_on_their_neighbours_are_scored_alone_and_it_is_said(tmp_path):
    scaled = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    shape = {"vocab_size": VOCABULARY, **SPECIAL, **DECODER, "max_position_embeddings": 16}
    config = tf.LlamaConfig(**shape, rope_parameters=scaled)
    torch.manual_seed(0)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    model = RewardModel.from_backbone(tmp_path / "base").eval()
    report = export_quality_head(model, tmp_path / "out", sequences=random_sequences(8))
    assert set(report.differences) == {"one by one", "at the last token"}
    (sentence,) = report.left_out
    assert sentence.startswith("One text at a time: its rotary positions (dynamic)")
    assert sentence in (tmp_path / "out" / "README.md").read_text()


def test_a_tokenizer_that_transformers_would_load_as_another_is_refused(tmp_path, monkeypatch):
    model, tokenizer = reward_model("llama", tmp_path / "base"), build_tokenizer("llama")
    other = build_tokenizer("llama")
    other.chat_template = "{{ messages[0]['content'] }}"
    monkeypatch.setattr(export.AutoTokenizer, "from_pretrained", lambda folder: other)
    with pytest.raises(ExportError, match="reads texts differently"):
        export_quality_head(model, tmp_path / "out", tokenizer=tokenizer)
    assert nothing_left(tmp_path)


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
    with pytest.raises(OutputError, match="which odin-rm did not write there"):
        export_quality_head(reward_model("llama", tmp_path / "base"), tmp_path / "out", sequences=random_sequences(2))
    assert (tmp_path / "out" / "mine.txt").read_text() == "x"
