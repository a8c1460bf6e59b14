"""Rows of trees inside whole models: scores and gradients of tree, packed and padded passes are the same."""

from __future__ import annotations

import copy
import json
import threading

import pytest
import torch

from odin_rm.fast.tree_attention import IMPLEMENTATION, attend, tree_implementation, what_layers_asked
from odin_rm.model.reward_model import RewardModel
from tests.model.tree_cases import (
    CAUSAL,
    PACKED_ENCODERS,
    WINDOWED,
    branching,
    model_of,
    outcome,
    padded,
    row,
    weighted,
)

TOLERANCE = 1e-5
"""Of a score, and of a gradient relative to the largest, in float32."""


def check_equal(found, expected, tolerance=TOLERANCE):
    scores, gradients = found.differences(expected)
    assert scores < tolerance
    assert gradients < tolerance


@pytest.mark.parametrize("kernel", ["segments", "dense"])
@pytest.mark.parametrize("name", CAUSAL)
def test_tree_packed_and_plain_passes_of_causal_families_agree(name, kernel, tmp_path):
    model = model_of(name, tmp_path)
    sequences = branching()
    plain = outcome(model, padded(sequences, model))
    assert float(plain.scores_HR.std()) > 0.1
    model.tree_kernel = kernel
    check_equal(outcome(model, row(sequences)), plain)
    check_equal(outcome(model, row(sequences, share=False)), plain)
    alone = [model(**padded([s], model)).quality for s in sequences]
    torch.testing.assert_close(plain.scores_HR[0], torch.cat(alone).detach(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", ["backbone", "mean"])
@pytest.mark.parametrize("kernel", ["segments", "dense"])
@pytest.mark.parametrize("name", PACKED_ENCODERS)
def test_packed_and_padded_passes_of_encoders_agree(name, kernel, pooling, tmp_path):
    model = model_of(name, tmp_path, pooling=pooling)
    sequences = branching()
    plain = outcome(model, padded(sequences, model))
    model.tree_kernel = kernel
    check_equal(outcome(model, row(sequences, share=False)), plain)
    with pytest.raises(ValueError, match="only a causal model"):
        model(**row(sequences))


def test_the_mean_of_a_path_is_the_mean_of_its_sequence(tmp_path):
    model = model_of("llama", tmp_path, pooling="mean")
    sequences = branching()
    plain = outcome(model, padded(sequences, model))
    check_equal(outcome(model, row(sequences)), plain)
    check_equal(outcome(model, row(sequences, share=False)), plain)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "modernbert"])
def test_flex_attention_scores_the_same(name, tmp_path):
    model = model_of(name, tmp_path)
    sequences = branching()
    with torch.no_grad():
        plain = model(**padded(sequences, model)).quality
        model.tree_kernel = "flex"
        found = model(**row(sequences, share=name != "modernbert")).quality
    torch.testing.assert_close(found, plain, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_shorter_than_the_sequences_and_matter(name, tmp_path):
    """The families with windows are no empty test: without the window they give other scores."""
    model = model_of(name, tmp_path)
    sequences = branching()
    with torch.no_grad():
        found = model(**row(sequences)).quality
        assert {asked.window for _, asked in what_layers_asked(model)} >= {8}
        for module, _ in what_layers_asked(model):
            module.sliding_window = None
            module.config.sliding_window = None
        without = model(**row(sequences)).quality
    assert float((found - without).abs().max()) > 0.01


def test_the_order_of_the_sequences_changes_nothing(tmp_path):
    model = model_of("llama", tmp_path)
    sequences = branching()
    shuffled = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model(**row(sequences)).quality
        again = model(**row([sequences[i] for i in shuffled])).quality
    assert (again == found[shuffled]).all()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3-window", "modernbert"])
def test_16_bits_differ_from_the_exact_scores_no_more_than_padded_batches_do(name, tmp_path):
    """bf16: the row's error is at most twice the padded batch's and a rounding step of the largest score."""
    model = model_of(name, tmp_path)
    sequences, share = branching(), name != "modernbert"
    with torch.no_grad():
        exact = model(**padded(sequences, model)).quality
        model = model.to(torch.bfloat16)
        low = model(**padded(sequences, model)).quality
        found = model(**row(sequences, share=share)).quality
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model.float()(**row(sequences, share=share)).quality
    assert found.dtype == mixed.dtype == torch.float32
    allowed = 2 * float((low - exact).abs().max()) + 2**-8 * float(exact.abs().max())
    assert allowed < 0.1 * float(exact.abs().max())
    assert float((found - exact).abs().max()) < allowed
    assert float((mixed - exact).abs().max()) < allowed


def test_lora_adapters_get_the_same_gradients(tmp_path):
    model = model_of("llama", tmp_path)
    model.add_lora(str(tmp_path), r=4, alpha=8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    sequences = branching()
    plain = outcome(model, padded(sequences, model))
    assert any("lora_A" in name for name in plain.gradients)
    check_equal(outcome(model, row(sequences)), plain)


# ---- gradient checkpointing, several rows at once ------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3-window", "bert"])
def test_layers_that_are_computed_again_find_their_layout(name, reentrant, tmp_path):
    model = model_of(name, tmp_path)
    sequences, share = branching(), name != "bert"
    plain = outcome(model, padded(sequences, model))
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:  # such checkpoints differentiate only what comes from a tensor with a gradient
        model.classifier.enable_input_require_grads()
    calls = count_attention(model)
    first = outcome(model, row(sequences, share=share))
    assert len(calls) == 2 * len(what_layers_asked(model))
    check_equal(first, plain)
    # Another model's check may have left no hooks yet; the second pass runs with them from the start.
    check_equal(outcome(model, row(sequences, share=share)), plain)
    assert model.config._attn_implementation == "sdpa"


def count_attention(model: RewardModel) -> list[str]:
    calls: list[str] = []
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.register_forward_pre_hook(lambda *args: calls.append("attention"))
    return calls


@pytest.mark.parametrize("checkpointing", [False, True])
def test_graphs_of_two_rows_and_a_padded_batch_are_differentiated_in_any_order(checkpointing, tmp_path):
    model = model_of("llama", tmp_path)
    batches = [branching(0), branching(1)[:5], branching(2)]
    expected = [outcome(model, padded(sequences, model)) for sequences in batches]
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    given = [row(batches[0]), padded(batches[1], model), row(batches[2], share=False)]
    losses = [weighted(model, inputs)[0] for inputs in given]
    for number in (1, 0, 2):
        model.zero_grad()
        # As on an accelerator, where backward passes run in a thread of their own.
        thread = threading.Thread(target=losses[number].backward)
        thread.start()
        thread.join()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        apart = max(float((gradients[n] - g).abs().max()) for n, g in expected[number].gradients.items())
        assert apart < TOLERANCE * max(float(g.abs().max()) for g in expected[number].gradients.values())


# ---- the model stays what it was -----------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_padded_batches_and_saved_folders_are_as_before(name, attention, tmp_path):
    model = model_of(name, tmp_path / "base", attn_implementation=attention)
    sequences = branching()
    before = outcome(model, padded(sequences, model))
    model(**row(sequences, share=name != "bert"))
    after = outcome(model, padded(sequences, model))
    assert (after.scores_HR == before.scores_HR).all()
    assert all((after.gradients[n] == g).all() for n, g in before.gradients.items())
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {attention}
    model.save_pretrained(tmp_path / "model")
    assert IMPLEMENTATION not in (tmp_path / "model" / "config.json").read_text()
    assert "odin_rm" not in json.dumps(model.config.to_dict())
    again = RewardModel.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(again(**row(sequences, share=name != "bert")).quality, after.scores_HR[0])


def test_a_copy_of_a_model_that_ran_rows_runs_them_too(tmp_path):
    model = model_of("llama", tmp_path).train()
    sequences = branching()
    expected = outcome(model, row(sequences))
    twin = copy.deepcopy(model)
    twin.gradient_checkpointing_enable({"use_reentrant": False})
    check_equal(outcome(twin, row(sequences)), expected)
    assert twin.config._attn_implementation == model.config._attn_implementation == "sdpa"


def test_an_error_inside_leaves_the_model_as_it_was(tmp_path):
    model = model_of("llama", tmp_path)
    sequences = branching()
    model(**row(sequences))
    model.tree_kernel = "varlen"
    with pytest.raises(NotImplementedError, match="wants a CUDA device"):
        model(**row(sequences))
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {"sdpa"}
    with tree_implementation(model), pytest.raises(NotImplementedError, match="wants a CUDA device"):
        model(**row(sequences))
    assert model.config._attn_implementation == "sdpa"


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gemma2", "asks for softcap"),
        ("gpt-oss", "asks for s_aux"),
        ("bloom", "do not take their attention from outside"),
        ("deberta-v2", "do not take their attention from outside"),
        ("jamba", "carries a state from token to token"),
        ("llama-dynamic", "depend on the longest sequence"),
    ],
)
def test_models_that_would_give_other_scores_are_refused(name, message, tmp_path):
    model = model_of(name, tmp_path)
    for share in (True, False):
        if share or name != "deberta-v2":
            with pytest.raises(NotImplementedError, match=message):
                model(**row(branching(), share=share))


def test_dropout_is_refused_where_it_would_be_drawn(tmp_path):
    model = model_of("llama", tmp_path).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    with pytest.raises(NotImplementedError, match="asks for dropout"):
        model(**row(branching()))


def test_a_call_without_a_layout_or_with_another_meaning_is_refused(tmp_path):
    model = model_of("llama", tmp_path)
    model(**row(branching()))
    layer = what_layers_asked(model)[0][0]
    x = torch.zeros(1, 2, 3, 8)
    with pytest.raises(NotImplementedError, match="does not hand the layout on"):
        attend(layer, x, x, x, None)
    with tree_implementation(model), pytest.raises(NotImplementedError, match="does not hand the layout on"):
        model.classifier(input_ids=torch.tensor([[5, 6]]))


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_row_with_other_tensors_is_refused(change, tmp_path):
    model = model_of("llama", tmp_path)
    inputs = row(branching())
    if change == "missing":
        del inputs["response_end"]
    else:
        inputs["token_type_ids"] = inputs["input_ids"]
    with pytest.raises(TypeError, match="a row is input_ids, position_ids"):
        model(**inputs)
