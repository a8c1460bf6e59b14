"""A last layer that computes what is read: the same scores and gradients, on a fraction of the rows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from odin_rm.fast.compiled import repeated_layers
from odin_rm.fast.last_layer import read_all, read_by, read_only_ends, tokens_to_read
from odin_rm.fast.tree_attention import what_layers_asked
from odin_rm.fast.tree_check import tree_support
from odin_rm.fast.tree_kernels import KERNELS, attend_read
from tests.model.test_tree_layout import FORESTS, inputs, layout_of, with_gradients
from tests.model.tree_cases import CAUSAL, branching, model_of, outcome, padded, row

CPU = torch.device("cpu")


def long_branches() -> list[np.ndarray]:
    """The sequences of other tests after more of their own, so that few tokens are read; two are alike."""
    generator = np.random.default_rng(3)
    start = generator.integers(5, 60, 20)
    found = [np.concatenate([start, sequence]) for sequence in branching()]
    return [*found, found[0], generator.integers(5, 60, 60)]


def confine(model):
    """The model after one row, confined as the check at the start does."""
    model(**row(long_branches()))
    base = model.classifier.base_model
    return read_only_ends(repeated_layers(base), [module for module, _ in what_layers_asked(base)])


@pytest.mark.parametrize("name", CAUSAL)
def test_scores_and_all_gradients_stay_the_same(name, tmp_path):
    """Repeated sequences, one that begins another, windows and grouped heads among them."""
    model = model_of(name, tmp_path)
    whole = outcome(model, row(long_branches()))
    assert confine(model)
    scores, gradients = outcome(model, row(long_branches())).differences(whole)
    assert scores < 1e-5
    assert gradients < 1e-5
    # Padded batches, and rows of which most is read, are computed as ever.
    crowded = [np.arange(5, 5 + n) % 60 for n in (1, 2, 3)]
    fresh = model_of(name, tmp_path)
    for batch in (padded(long_branches(), model), row(crowded)):
        torch.testing.assert_close(model(**batch).quality, fresh(**batch).quality, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt-neox"])
def test_only_rows_that_are_read_are_computed(name, tmp_path):
    model = model_of(name, tmp_path)
    batch = row(long_branches())
    ends = len(torch.unique(batch["response_end"]))
    seen: list[int] = []
    before = [type(m) for m in repeated_layers(model.classifier.base_model)[-1].modules()]
    assert confine(model)
    last = repeated_layers(model.classifier.base_model)[-1]
    inside = next(
        m for n, m in last.named_modules() if n.split(".")[-1] in ("gate_proj", "c_fc", "fc1", "dense_h_to_4h")
    )
    inside.forward = lambda x: seen.append(x.shape[-2]) or type(inside).forward(inside, x)
    model(**batch)
    assert [type(m) for m in last.modules()] != before
    if name != "opt":  # whose first layer is itself the part that is confined
        assert seen == [ends]
    read_all(model)
    assert [type(m) for m in last.modules()] == before
    seen.clear()
    model(**batch)
    assert seen == [batch["input_ids"].shape[1]]


def test_the_check_at_the_start_confines_and_is_verified(tmp_path, monkeypatch):
    model = model_of("llama", tmp_path)
    assert tree_support(model, long_branches(), 0, device=CPU).layout == "tree"
    attention = what_layers_asked(model.classifier.base_model)[-1][0]
    assert hasattr(attention, "_odin_rm_parts")
    assert copy.deepcopy(model)(**row(long_branches())).quality.shape == (13,)
    # Twice is once.
    assert tree_support(model, long_branches(), 0, device=CPU).layout == "tree"

    def wrong(query, key, value, layout, scale, window):
        return attend_read(query, key, value, layout, 2.0, window)

    other = model_of("llama", tmp_path)
    monkeypatch.setattr("odin_rm.fast.tree_attention.attend_read", wrong)
    assert tree_support(other, long_branches(), 0, device=CPU).layout == "tree"
    assert not hasattr(what_layers_asked(other.classifier.base_model)[-1][0], "_odin_rm_parts")


def test_a_pass_that_was_broken_off_leaves_nothing_behind(tmp_path, monkeypatch):
    model = model_of("llama", tmp_path)
    confine(model)
    sequences, longer = [long_branches()[-1]], [np.concatenate(long_branches()[-2:])]
    expected = model(**padded(longer, model)).quality
    last = repeated_layers(model.classifier.base_model)[-1]

    def full(*args):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(last.self_attn.o_proj, "forward", full)
        with pytest.raises(torch.OutOfMemoryError):
            model(**row(sequences))
    # It reads another token than the row would have.
    torch.testing.assert_close(model(**padded(longer, model)).quality, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_compute_it_anew(reentrant, tmp_path):
    model = model_of("llama", tmp_path).train()
    whole = outcome(model, row(long_branches()))
    confine(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.classifier.base_model.get_input_embeddings().weight.requires_grad_(True)
    scores, gradients = outcome(model, row(long_branches())).differences(whole)
    assert max(scores, gradients) < 1e-5


def test_means_need_every_state(tmp_path):
    model = model_of("llama", tmp_path, pooling="mean")
    whole = outcome(model, row(long_branches()))
    assert confine(model)
    scores, gradients = outcome(model, row(long_branches())).differences(whole)
    assert max(scores, gradients) == 0


def test_encoders_are_not_tried_and_nothing_is_said(tmp_path, caplog):
    model = model_of("bert", tmp_path)
    kinds = [type(module) for module in model.modules()]
    with caplog.at_level("INFO", logger="odin_rm"):
        assert tree_support(model, long_branches(), 0, device=CPU).layout == "packed"
    assert not caplog.records
    assert [type(module) for module in model.modules()] == kinds


def test_what_is_not_known_is_left_alone():
    layer, attention = nn.Module(), nn.Module()
    layer.self_attn = attention
    assert read_only_ends([], []) is False
    assert read_only_ends([layer], []) is False
    assert read_only_ends([layer], [nn.Module()]) is False
    assert read_only_ends([layer], [attention]) is False  # no feed-forward part
    layer.mlp = nn.Module()
    layer.mlp.experts = nn.ModuleList([nn.Linear(2, 2)])
    assert read_only_ends([layer], [attention]) is False


def test_tokens_that_are_read_by_hand():
    assert tokens_to_read(torch.tensor([9, 3, 9]), 10).tolist() == [3, 9]
    assert tokens_to_read(torch.tensor([9, 3, 5]), 12).tolist() == [3, 5, 9]
    assert tokens_to_read(torch.tensor([9, 3, 5]), 11) is None
    assert read_by(nn.Linear(1, 1), layout_of(FORESTS[0])[1], CPU) is None


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize("forest", FORESTS)
def test_few_queries_attend_as_all_do(forest, heads, window):
    _, layout = layout_of(forest)
    read = torch.arange(0, layout.tokens, 2)
    some = layout_of(forest)[1]
    object.__setattr__(some, "read", read)
    tensors = inputs(layout, *heads)
    found = with_gradients(lambda *x: attend_read(*x, some, 0.3, window), tensors)
    keep = torch.zeros(layout.tokens, dtype=torch.float64)
    keep[read] = 1
    expected = with_gradients(lambda *x: KERNELS["dense"](*x, layout, 0.3, window) * keep[None, :, None, None], tensors)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
