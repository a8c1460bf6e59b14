"""Where a reward is read: by hand, by an independent gather, and whatever the pad id or the company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as tf

from odin_rm.data.batching import collate
from odin_rm.data.tokenise import EncodingSettings, encode_response
from odin_rm.fast.layout import choose_layout
from odin_rm.model.pad_token import OWN_PAD, closing_ids, ensure_sound_pad_token
from odin_rm.model.reading import forget_earlier, last_token_read, set_pad_id, stock_skip_id, up_to_reading
from odin_rm.model.scoring import ColumnClassifier, score_sequences
from tests.model.tree_cases import model_of
from tests.model.words import build_tokenizer

CPU = torch.device("cpu")
PLAIN = EncodingSettings()


def classifier(pad: int | None, **rope) -> ColumnClassifier:
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=pad,
        **rope,
    )
    model = tf.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return ColumnClassifier(model, 0).eval()


@torch.no_grad()
def stock(model: ColumnClassifier, ids) -> float:
    forget_earlier(model.classifier)
    return float(model.classifier(input_ids=torch.as_tensor(np.asarray(ids), dtype=torch.int64)[None]).logits[0, 0])


@torch.no_grad()
def state_at(model: ColumnClassifier, ids, position: int) -> float:
    states = model.classifier.model(torch.as_tensor(np.asarray(ids), dtype=torch.int64)[None]).last_hidden_state
    return float(model.classifier.score(states)[0, position, 0])


@pytest.mark.parametrize(
    ("ids", "skip", "expected"),
    [
        ([5, 6, 7], None, [5, 6, 7]),
        ([5, 6, 7], 9, [5, 6, 7]),
        ([5, 2, 6, 2, 2], 2, [5, 2, 6]),
        ([2, 2], 2, [2]),
        ([], 2, []),
    ],
)
def test_a_sequence_is_read_up_to_its_last_token_that_is_not_skipped(ids, skip, expected):
    assert up_to_reading(np.array(ids, dtype=np.int64), skip).tolist() == expected


def test_minus_one_and_none_skip_nothing():
    config = tf.LlamaConfig(pad_token_id=None)
    assert stock_skip_id(config) is None
    config.pad_token_id = -1
    assert stock_skip_id(config) is None
    set_pad_id(config, 3)
    assert stock_skip_id(config) == 3


@pytest.mark.parametrize("pad", [0, 2, None])
def test_within_the_block_stock_reads_the_last_real_token_of_each_row(pad):
    model = classifier(pad)
    rows = [[5, 6, 2], [7, 8, 9, 10, 0], [11]]
    inputs = collate([np.array(r) for r in rows], 1)
    with (
        last_token_read(model.classifier.config, inputs["input_ids"], inputs["attention_mask"]) as ids,
        torch.no_grad(),
    ):
        found = model.classifier(input_ids=ids, attention_mask=inputs["attention_mask"]).logits[:, 0]
    assert model.classifier.config.pad_token_id == pad
    expected = [state_at(model, r, len(r) - 1) for r in rows]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_of_ours_reads_the_last_token_even_where_it_is_the_pad_id(side, tmp_path):
    model = model_of("llama", tmp_path)
    rows = [np.array([5, 6, 7, 0]), np.array([8, 9]), np.array([10, 11, 12, 13, 14, 0])]
    assert model.config.pad_token_id == 0
    inputs = collate(rows, 0, side)
    with torch.no_grad():
        found = model(inputs["input_ids"], inputs["attention_mask"]).quality
        base = model.classifier.model
        expected = [float(model.heads(base(torch.from_numpy(r)[None]).last_hidden_state[0, -1:])[0, 0]) for r in rows]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["tree", "packed", "padded", "single"])
@pytest.mark.parametrize("pad", [0, 2, None, -1, 500])
def test_somebodys_decoder_is_read_where_stock_reads_it_in_every_layout(pad, layout):
    model = classifier(0)
    model.classifier.config.pad_token_id = pad
    draw = np.random.default_rng(0)
    trunk = draw.integers(5, 64, 290)
    ids = [np.append(trunk[:n], [2]) for n in (290, 40, 7)] + [np.append(trunk[:30], draw.integers(5, 64, 9))]
    expected = [stock(model, one) for one in ids]
    support = choose_layout(model, ids, 0, requested=layout, device=CPU)
    found, _ = score_sequences(
        model,
        ids,
        pad_token_id=2 if pad == 2 else 0,
        microbatch_tokens=5000,
        device=CPU,
        layout=support,
    )
    assert support.layout == layout
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    if pad == 2:  # the token before the end, as the config says
        assert expected[0] == pytest.approx(state_at(model, ids[0], 289), abs=1e-6)
        assert abs(expected[0] - state_at(model, ids[0], 290)) > 1e-3


def test_dynamic_positions_forget_what_was_scored_before_and_beside():
    rope = {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, 64, n) for n in (200, 100, 20, 150)]
    alone = [stock(classifier(0, max_position_embeddings=64, **rope), one) for one in ids]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        model = classifier(0, max_position_embeddings=64, **rope)
        found, _ = score_sequences(model, [ids[i] for i in order], pad_token_id=0, microbatch_tokens=5000, device=CPU)
        np.testing.assert_allclose(found, [alone[i] for i in order], rtol=0, atol=1e-6)
    assert choose_layout(model, ids, 0, device=CPU).layout == "single"


def test_a_model_whose_scores_depend_on_their_neighbours_runs_one_by_one():
    """Fourier mixing goes over padding as over text."""
    torch.manual_seed(0)
    config = tf.FNetConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_labels=1, pad_token_id=0
    )
    network = tf.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model = ColumnClassifier(network, 0).eval()
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, 64, n) for n in (40, 7, 21)]
    support = choose_layout(model, ids, 0, device=CPU)
    assert support.layout == "single"
    assert support.why.startswith("one sequence at a time: scores in padded batches differ from those of the sequences")
    found, _ = score_sequences(model, ids, pad_token_id=0, microbatch_tokens=5000, device=CPU)
    np.testing.assert_allclose(found, [stock(model, one) for one in ids], rtol=0, atol=1e-6)


# ---- the pad token of models that we train --------------------------------------------------------------------------


def pad_of(tokenizer, **config) -> tuple[str, int]:
    settings = tf.LlamaConfig(**config)
    number = ensure_sound_pad_token(tokenizer, settings, PLAIN)
    assert settings.pad_token_id == number == tokenizer.pad_token_id
    return tokenizer.pad_token, number


def test_a_sound_pad_token_stays():
    assert pad_of(build_tokenizer("llama")) == ("<pad>", 0)


def test_the_end_token_is_replaced_by_one_that_the_vocabulary_has():
    tokenizer = build_tokenizer("llama", pad=False)
    tokenizer.pad_token = "<eos>"
    assert pad_of(tokenizer, pad_token_id=2) == ("<pad>", 0)


def test_the_configs_pad_token_is_taken_before_another():
    tokenizer = build_tokenizer("llama", pad=False)
    assert pad_of(tokenizer, pad_token_id=1) == ("<bos>", 1)


def test_a_vocabulary_without_any_gets_one_of_its_own():
    tokenizer = build_tokenizer("gpt2", pad=False)
    vocabulary = len(tokenizer)
    backend = tokenizer.backend_tokenizer
    # GPT-2 has one special token for all purposes.
    only = tf.PreTrainedTokenizerFast(tokenizer_object=_without(backend, "<pad>"), eos_token="<eos>", bos_token="<eos>")
    name, number = pad_of(only)
    assert (name, number) == (OWN_PAD, vocabulary - 1)
    assert only("<|pad|>", add_special_tokens=False)["input_ids"] == [number]


def _without(backend, token: str):
    import json

    from tokenizers import Tokenizer

    content = json.loads(backend.to_str())
    vocabulary = [t for t, _ in sorted(content["model"]["vocab"].items(), key=lambda item: item[1]) if t != token]
    content["model"]["vocab"] = {t: i for i, t in enumerate(vocabulary)}
    content["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(content))


def test_what_a_template_ends_with_is_closing():
    tokenizer = build_tokenizer("llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} yes{% endfor %}"
    yes = tokenizer("yes", add_special_tokens=False)["input_ids"][0]
    assert closing_ids(tokenizer, PLAIN) == {yes, tokenizer.eos_token_id}


def test_new_rows_of_the_embedding_are_zeros_and_change_no_score(tmp_path):
    model = model_of("llama", tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = model(ids, torch.ones_like(ids)).quality
        state = torch.random.get_rng_state()
        model.grow_vocabulary(70)
        assert torch.equal(state, torch.random.get_rng_state())
        after = model(ids, torch.ones_like(ids)).quality
    embedding = model.classifier.get_input_embeddings()
    assert embedding.num_embeddings == 70
    assert not embedding.weight[64:].any()
    assert torch.equal(before, after)
    assert model.info.vocabulary == 70


def test_a_lora_model_with_a_pad_token_of_its_own_scores_the_same_once_it_is_loaded(tmp_path):
    """Its base has a row less than it was trained with."""
    model = model_of("llama", tmp_path / "base")
    model.grow_vocabulary(65)
    torch.manual_seed(3)
    model.add_lora(str(tmp_path / "base"), r=2, alpha=4)
    ids = torch.tensor([[5, 6, 7, 64], [8, 9, 64, 64]])
    mask = (ids != 64).long()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter))
        expected = model.eval()(ids, mask).quality
        model.save_pretrained(tmp_path / "saved")
        loaded = type(model).from_pretrained(tmp_path / "saved").eval()
        found = loaded(ids, mask).quality
    assert loaded.classifier.get_input_embeddings().num_embeddings == 65
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-6)


# ---- where a text ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "beyond"),
    [
        ("{% for m in messages %}<bos>{{ m['content'] }}<eos>\n.{% endfor %}", "."),
        ("{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}", ""),
        ("{% for m in messages %}{{ m['content'] }} yes{% endfor %}", ""),
        ("{% for m in messages %}{{ m['content'] }}<eos> . <pad>{% endfor %}", ".<pad>"),
    ],
)
def test_the_end_of_the_turn_is_the_first_special_token_after_the_response(template, beyond):
    tokenizer = build_tokenizer("llama")
    tokenizer.chat_template = template
    whole = encode_response(tokenizer, "Why?", "No.", EncodingSettings(read_at="end")).input_ids
    turn = encode_response(tokenizer, "Why?", "No.", EncodingSettings(read_at="end_of_turn")).input_ids
    rest = tokenizer(beyond, add_special_tokens=False)["input_ids"]
    assert turn + rest == whole
    assert bool(rest) == (len(turn) < len(whole))


def test_before_the_pad_token_as_old_padded_batches_read():
    tokenizer = build_tokenizer("llama")
    tokenizer.pad_token = "<eos>"
    end = encode_response(tokenizer, "Why?", "No.", EncodingSettings(read_at="end")).input_ids
    before = encode_response(tokenizer, "Why?", "No.", EncodingSettings(read_at="before_pad")).input_ids
    assert end == [*before, 2]
