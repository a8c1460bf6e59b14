"""Which layout a model is given, and what happens with models that do not do what their structure promises."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers as tf

from odin_rm.data.batching import collate
from odin_rm.fast.tree_attention import what_layers_asked
from odin_rm.fast.tree_check import TreeSupport, check_layers, tree_support
from odin_rm.fast.tree_kernels import KERNELS
from odin_rm.model.scoring import ColumnClassifier, score_sequences
from tests.model.tree_cases import CAUSAL, PACKED_ENCODERS, branching, model_of, row

CPU = torch.device("cpu")


def support(model, sequences=None, **kwargs):
    return tree_support(model, branching() if sequences is None else sequences, 0, device=CPU, **kwargs)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_families_run_on_trees(name, tmp_path):
    found = support(model_of(name, tmp_path))
    assert (found.layout, found.kernel) == ("tree", "segments")
    assert "equal to 8 sequences one by one" in found.why


@pytest.mark.parametrize("name", PACKED_ENCODERS)
def test_encoders_are_packed(name, tmp_path):
    found = support(model_of(name, tmp_path))
    assert (found.layout, found.kernel) == ("packed", "segments")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma2", "softcap"),
        ("gpt-oss", "s_aux"),
        ("bloom", "from outside"),
        ("deberta-v2", "from outside"),
        ("jamba", "carries a state"),
    ],
)
def test_other_families_are_padded_with_a_reason_in_one_line(name, reason, tmp_path):
    found = support(model_of(name, tmp_path))
    assert (found.layout, found.kernel) == ("padded", None)
    assert found.why.startswith("padded batches: ")
    assert reason in found.why
    assert "\n" not in found.why


@pytest.mark.parametrize(
    "sequences", [[np.array([5])], [np.array([5]), np.array([6, 7])], [np.arange(5, 60)] * 3, [np.full(40, 7)]]
)
def test_any_sequences_will_do(sequences, tmp_path):
    assert support(model_of("llama", tmp_path), sequences).layout == "tree"
    assert support(model_of("gpt2", tmp_path / "other"), sequences).layout == "tree"


def test_the_check_leaves_gradients_and_modes_alone_and_needs_none(tmp_path):
    model = model_of("llama", tmp_path).train()
    model.heads.vectors["quality"].grad = torch.ones(16)
    assert support(model).layout == "tree"
    assert model.training
    assert (model.heads.vectors["quality"].grad == 1).all()
    assert all(p.grad is None for p in model.classifier.base_model.parameters())
    with torch.no_grad():
        assert support(model).layout == "tree"
    model.requires_grad_(False)
    assert support(model).layout == "tree"


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_lora_16_bits_and_autocast_are_checked_as_they_are(reentrant, tmp_path):
    model = model_of("llama", tmp_path).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert support(model).layout == "tree"
    model.add_lora(str(tmp_path), r=2, alpha=4)
    assert support(model).layout == "tree"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert support(model).layout == "tree"
    assert support(model.to(torch.bfloat16)).layout == "tree"


def test_a_kernel_that_is_asked_for_is_checked_and_kept(tmp_path):
    model = model_of("llama", tmp_path)
    assert support(model, kernel="dense").kernel == model.tree_kernel == "dense"
    assert support(model).kernel == "dense"
    found = support(model, kernel="varlen")
    assert found.layout == "padded"
    assert "wants a CUDA device" in found.why


# ---- models that break their promises ------------------------------------------------------------------------------


def test_attention_that_ignores_the_layout_falls_back(tmp_path, monkeypatch):
    """A family that goes through our function but has its own idea of who sees whom: plain causal over the row."""

    def ignores(query, key, value, layout, scale, window):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, key, value, is_causal=True, scale=scale).transpose(1, 2).contiguous()

    model = model_of("llama", tmp_path)
    monkeypatch.setitem(KERNELS, "segments", ignores)
    found = support(model)
    assert (found.layout, found.kernel) == ("padded", None)
    assert found.why.startswith("padded batches: scores differ from those of the sequences one by one by ")


def test_a_layer_with_attention_of_its_own_is_noticed(tmp_path):
    model = model_of("llama", tmp_path)
    last = model.classifier.base_model.layers[-1].self_attn
    forward = last.forward

    def own_attention(*args, **kwargs):
        last.config._attn_implementation_internal = "sdpa"
        return forward(*args, **kwargs)

    last.forward = own_attention
    found = support(model)
    assert found.layout == "padded"
    assert "scores differ" in found.why
    # Also where the sequences at hand happen to give the same scores: one layer has not come by.
    layers = what_layers_asked(model.classifier.base_model)
    with pytest.raises(NotImplementedError, match="1 of 2 layers take their attention from outside"):
        check_layers(layers, model.config)


def test_tokens_that_are_mixed_outside_of_attention_are_noticed(tmp_path):
    """A shift of tokens, as some recurrent models have, leaks from one sequence of a row into the next."""
    model = model_of("llama", tmp_path)
    layer = model.classifier.base_model.layers[0]
    layer.register_forward_hook(
        lambda m, args, out: out + 0.5 * out.roll(1, dims=1) * (torch.arange(out.shape[1]) > 0)[:, None]
    )
    found = support(model)
    assert found.layout == "padded"
    assert "scores differ" in found.why


def test_wrong_gradients_are_noticed(tmp_path, monkeypatch):
    right = KERNELS["segments"]
    monkeypatch.setitem(KERNELS, "segments", lambda q, k, v, *rest: right(q, k.detach(), v, *rest))
    model = model_of("llama", tmp_path)
    found = support(model)
    assert found.layout == "padded"
    assert "gradients differ" in found.why
    with torch.no_grad():
        assert support(model).layout == "tree"


def test_a_window_that_a_layer_keeps_to_itself_is_noticed(tmp_path):
    """The window is wider than the sequences at hand, so that their scores cannot tell."""
    model = model_of("mistral", tmp_path)
    base = model.classifier.base_model
    assert base.config.sliding_window == 4096
    assert support(model).layout == "tree"
    for layer in base.layers:
        layer.self_attn.config = copy.deepcopy(base.config)
        layer.self_attn.config.sliding_window = None
    found = support(model)
    assert found.layout == "padded"
    assert "layer 0 does not say what window it has" in found.why


def test_trees_that_fail_leave_packing_if_that_works(tmp_path):
    model = model_of("gpt2", tmp_path)
    base = model.classifier.base_model
    forward = base.forward

    def no_branches(*args, tree_layout=None, **kwargs):
        if tree_layout is not None and tree_layout.links:
            raise RuntimeError("no branches here\nand more lines")
        return forward(*args, **kwargs) if tree_layout is None else forward(*args, tree_layout=tree_layout, **kwargs)

    base.forward = no_branches
    found = support(model)
    assert (found.layout, found.kernel) == ("packed", "segments")
    assert found.why == "no trees: no branches here"


def test_other_modules_are_padded():
    found = tree_support(torch.nn.Linear(2, 2), branching(), 0, device=CPU)
    assert found.layout == "padded"
    assert "no sequence classifier" in found.why


def test_a_foreign_classifier_runs_on_trees_by_its_own_output_layer(tmp_path):
    torch.manual_seed(0)
    config = model_of("llama", tmp_path).config
    config.num_labels = 3
    model = ColumnClassifier(tf.AutoModelForSequenceClassification.from_config(config).eval(), 2)
    assert support(model).layout == "tree"
    sequences = branching()
    with torch.no_grad():
        plain, found = model(**collate(sequences, 0)).quality, model(**row(sequences)).quality
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


def test_an_encoder_that_counts_positions_without_its_padding_token_does_so_in_rows(tmp_path):
    """RoBERTa's kind: a text may hold the padding token, which is then no position."""
    torch.manual_seed(0)
    config = model_of("roberta", tmp_path).config
    config.num_labels, pad = 1, config.pad_token_id
    classifier = tf.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model = ColumnClassifier(classifier, 0).eval()
    sequences = [np.array(s) for s in ([5, pad, 6, 7, 8], [9, 10, pad, pad, 11], [12, 13, 14], [pad, 15, 16])]
    with torch.no_grad():
        alone = [float(classifier(torch.from_numpy(ids)[None]).logits) for ids in sequences]
        shifted = float(
            classifier(torch.from_numpy(sequences[0])[None], position_ids=pad + torch.arange(1, 6)[None])[0]
        )
    assert abs(alone[0] - shifted) > 1e-3
    for kernel in ("segments", "dense"):
        found, _ = score_sequences(
            model,
            sequences,
            pad_token_id=pad,
            microbatch_tokens=100,
            device=CPU,
            layout=TreeSupport("packed", kernel, "asked"),
        )
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)
