"""``odin-rm reward --train heads`` from config to folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from odin_rm.core.errors import CheckpointError, ConfigError
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_scorer, score_texts
from odin_rm.reward.config import RewardConfig
from odin_rm.workflows.export.config import ExportConfig
from odin_rm.workflows.export.run import run_export
from tests.workflows.conftest import read_metrics
from tests.workflows.test_train import assert_equal_weights

Train = Callable[..., Path]
HEADS: dict[str, Any] = {"train": "heads", "learning_rate": 1e-5}


def test_the_folder_is_the_backbone_with_trained_heads(train: Train, bed: dict[str, Path], tmp_path: Path) -> None:
    run = train(**HEADS, eval_dataset=str(bed["eval"]), eval_strategy="epoch")
    torch.manual_seed(42)
    untrained = RewardModel.from_backbone(bed["model"])
    model = RewardModel.from_pretrained(run / "model")
    assert model.info.training["train"] == "heads"
    assert model.info.training["head_learning_rate"] == 1e-3
    for name, tensor in untrained.classifier.base_model.state_dict().items():
        assert torch.equal(model.classifier.base_model.state_dict()[name], tensor), name
    moved = model.heads.vectors["quality"] - untrained.heads.vectors["quality"]
    assert 1e-3 < float(moved.detach().abs().max()) < 0.1
    held_out = [row["eval_accuracy"] for row in read_metrics(run) if "eval_accuracy" in row]
    assert len(held_out) == 2
    # An ordinary folder: scored as another one, exported with the same quality scores.
    prompts, responses = ["How do I bake bread?"] * 2, ["Measure twice.", "As experts often say, it depends."]
    scores = score_texts(load_scorer(run / "model"), prompts, responses)
    run_export(ExportConfig(model=str(run / "model"), output=str(tmp_path / "stock")))
    exported = score_texts(load_scorer(tmp_path / "stock"), prompts, responses)
    torch.testing.assert_close(torch.tensor(exported[0]), torch.tensor(scores[0]), rtol=0, atol=1e-5)


def test_a_resumed_run_gives_the_bytes_of_a_whole_one(train: Train, tmp_path: Path) -> None:
    whole = train("whole", **HEADS, save_steps=4, save_strategy="steps", save_total_limit=10)
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-4"
    assert not (checkpoint / "model.safetensors").exists(), "the backbone has not changed"
    resumed = train(
        "cut", **HEADS, save_steps=4, save_strategy="steps", save_total_limit=10, resume_from_checkpoint=str(checkpoint)
    )
    assert_equal_weights(whole, resumed)
    with pytest.raises(CheckpointError, match="train"):
        train("other", resume_from_checkpoint=str(checkpoint), learning_rate=1e-5, head_learning_rate=1e-3)


def test_heads_do_not_go_on_with_features_of_another_backbone(
    train: Train, bed: dict[str, Path], tmp_path: Path
) -> None:
    given: dict[str, Any] = {**HEADS, "save_steps": 4, "save_strategy": "steps", "max_steps": 4}
    folder = shutil.copytree(bed["model"], tmp_path / "model")
    run = train("run", **given, model=str(folder))
    checkpoint = str(run / "checkpoints" / "checkpoint-4")
    train("same", **given, model=str(folder), resume_from_checkpoint=checkpoint)
    tensors = {name: 1.01 * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="heads for other features"):
        train("other", **given, model=str(folder), resume_from_checkpoint=checkpoint)
    assert not (tmp_path / "other").exists()


def test_features_are_computed_once(train: Train, tmp_path: Path) -> None:
    train("first", **HEADS)
    (file,) = (tmp_path / "cache").glob("*/features.npy")
    made = file.stat().st_mtime_ns
    run = train("second", **HEADS, objective="bradley_terry")
    assert [one.stat().st_mtime_ns for one in (tmp_path / "cache").glob("*/features.npy")] == [made]
    assert set(load_file(run / "model" / "reward_heads.safetensors")) == {"quality"}


def test_matched_reads_any_attribute_and_goes_on_from_its_checkpoint(train: Train, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **HEADS,
        "objective": "matched",
        "match_attributes": "response_tokens,list_items=0.5,tests.workflows.test_train_heads:stops",
        "match_tau": 1.0,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": 10,
    }
    whole = train("whole", **options)
    rows = [row for row in read_metrics(whole) if "loss" in row]
    assert all(row["match_weight"] > 0 and row["curve_doubling"] != 0 for row in rows)
    assert len({row["quality_list_items_correlation"] for row in rows}) > 1
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-4"
    curve = load_file(checkpoint / "objective_state.safetensors")["curve"]
    assert len(curve) > 3
    assert_equal_weights(whole, train("cut", **options, resume_from_checkpoint=str(checkpoint)))
    last = [
        tmp_path / name / "checkpoints" / "checkpoint-12" / "objective_state.safetensors" for name in ("whole", "cut")
    ]
    assert last[0].read_bytes() == last[1].read_bytes()
    with pytest.raises(ConfigError, match="characterz"):
        train("unknown", **options | {"match_attributes": "characterz"})


def stops(text: str) -> float:
    """A user's own attribute."""
    return float(text.count("."))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"learning_rate": 1e-4}, "use --head_learning_rate"),
        ({"weight_decay": 0.1}, "never applied to the heads"),
        ({"lora_r": 4}, "backbone is not trained"),
        ({"gradient_checkpointing": True}, "no graph"),
        ({"dry_run": True}, "computed once"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    option: dict[str, Any], words: str, configure: Callable[..., RewardConfig]
) -> None:
    with pytest.raises(ConfigError, match="(?i)" + words):
        configure(**HEADS | option)
