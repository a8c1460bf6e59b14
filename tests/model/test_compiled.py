"""Compiled layers: which they are, and that they compute what the others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from odin_rm.core.errors import ConfigError
from odin_rm.data.trees import build_trees, tree_tensors
from odin_rm.fast.compiled import compile_layers, repeated_layers
from odin_rm.fast.cpu_matmul import _is_right, choose_matmul
from odin_rm.fast.tree_check import tree_support
from odin_rm.model.reward_model import RewardModel
from odin_rm.testbed.tiny import build_model, build_tokenizer


def test_the_longest_list_of_like_modules_is_taken() -> None:
    model = nn.Module()
    model.few = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    model.many = nn.ModuleList([nn.Tanh(), nn.Tanh(), nn.Tanh()])
    model.mixed = nn.ModuleList([nn.Tanh(), nn.Linear(1, 1), nn.Tanh(), nn.Tanh()])
    model.one = nn.ModuleList([nn.ReLU()])
    assert repeated_layers(model) == list(model.many)
    assert repeated_layers(nn.Linear(1, 1)) == []


def test_a_model_without_layers_is_refused() -> None:
    class Flat:
        classifier: Any = type("C", (), {"base_model": nn.Linear(1, 1)})

    with pytest.raises(ConfigError, match="--compile_layers"):
        compile_layers(Flat())


@pytest.mark.slow
def test_scores_and_gradients_of_rows_are_those_of_layers_that_are_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = build_tokenizer(max_length=64)
    build_model(tokenizer, 0, hidden=32, layers=2, heads=2).save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = RewardModel.from_backbone(tmp_path)
    prompt = list(range(5, 17))
    rows = [tree_tensors(build_trees([torch.tensor([*prompt, *tail]).numpy() for tail in tails], min_shared=2))
            for tails in ([[20, 21], [22]], [[23], [24, 25, 26], [27]])]  # fmt: skip

    def figures() -> list[torch.Tensor]:
        found = []
        for row in rows:
            scores = model(**row)
            weight = next(p for n, p in model.named_parameters() if "q_proj" in n)
            found += [scores.quality.detach(), torch.autograd.grad(scores.total().sum(), weight)[0]]
        return found

    plain = figures()
    monkeypatch.setattr("odin_rm.fast.cpu_matmul.MIN_WORK", 1)
    sequences = [torch.tensor([*prompt, 20, 21]).numpy(), torch.tensor([*prompt, 22]).numpy()]
    assert tree_support(model, sequences, 0, device=torch.device("cpu")).layout == "tree"
    choose_matmul(model, "onednn" if _is_right() else "torch")
    assert type(repeated_layers(model.classifier.base_model)[1]) is not type(
        repeated_layers(model.classifier.base_model)[0]
    )  # the last layer is confined to what is read
    assert compile_layers(model) == 2
    for mine, theirs in zip(figures(), plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
