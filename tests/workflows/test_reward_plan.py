"""``odin-rm reward --dry_run``: the plan of a run against the run itself, without weights and without a trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odin_rm.cli import training as command
from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError
from odin_rm.reward import memory
from odin_rm.reward.config import RewardConfig
from odin_rm.workflows.reward.run import plan_run
from tests.workflows.conftest import read_metrics, write_rows


def without_weights(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    (target / "model.safetensors").unlink()
    return target


def test_the_plan_is_what_the_run_then_does(
    configure: Callable[..., RewardConfig], train: Callable[..., Path], bed: dict[str, Path], tmp_path: Path
) -> None:
    options = {"microbatch_tokens": 400, "logging_steps": 1}
    bare = without_weights(bed["model"], tmp_path / "config_only")
    plan = plan_run(configure("planned", model=str(bare), dry_run=True, **options))
    assert not (tmp_path / "planned").exists()
    rows = [row for row in read_metrics(train("run", num_train_epochs=1, **options)) if "loss" in row]

    assert (plan.pairs, plan.slots, plan.responses) == (96, 192, 192)
    assert plan.steps_per_epoch == plan.planned_steps == len(rows) == 6
    assert plan.steps == 12
    assert plan.layout == "tree"
    assert plan.budget.tokens == 400
    assert plan.largest <= 400
    seconds = [row["pairs"] / row["pairs_per_second"] for row in rows]
    computed = [row["distinct_tokens_per_second"] * s for row, s in zip(rows, seconds, strict=True)]
    assert plan.tokens.computed == plan.tokens.distinct == round(sum(computed))
    assert plan.tokens.slots == round(sum(row["token_reuse"] * n for row, n in zip(rows, computed, strict=True)))
    assert plan.micro_batches == pytest.approx(np.mean([row["micro_batches"] for row in rows]))
    assert plan.tokens.padding_share == 0 < plan.tokens.padding_share_padded < 1
    assert plan.tokens.reuse > 1.2
    assert plan.second_pass == 1


def test_padded_batches_and_one_pass(configure: Callable[..., RewardConfig]) -> None:
    plan = plan_run(configure(batch_layout="padded", microbatch_tokens=10**6, max_steps=7))
    assert (plan.layout, plan.steps, plan.second_pass, plan.micro_batches) == ("padded", 7, 0, 1)
    assert plan.tokens.padding_share == plan.tokens.padding_share_padded > 0
    kept = plan_run(configure(microbatch_tokens=400, single_pass_tokens=10**6))
    assert kept.second_pass == 0
    half = plan_run(configure(microbatch_tokens=400, single_pass_tokens=800))
    assert 0.2 < half.second_pass < 0.5
    assert half.memory["activations"] < kept.memory["activations"]
    two_passes = plan_run(configure(microbatch_tokens=400))
    # Kept graphs are those of the whole step, else those of the largest micro-batch.
    share = kept.memory["activations"] / two_passes.memory["activations"]
    assert share > 2
    assert kept.memory["weights"] == two_passes.memory["weights"] == 4 * kept.parameters


def test_memory_by_hand(configure: Callable[..., RewardConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_run(configure(microbatch_tokens=10**6))
    per_token = 4 * 1 * (10 * 32 + 4 * 64)  # one layer of 32, 64 inside
    assert plan.memory["activations"] == plan.largest * per_token
    assert plan.memory["optimiser"] == 2 * plan.memory["gradients"] == 8 * plan.trained
    lora = plan_run(configure(microbatch_tokens=10**6, lora_r=2))
    # q, k, v, o of 32 x 32; gate and up of 32 x 64; down of 64 x 32.
    assert lora.trained == 2 * (4 * 64 + 3 * 96)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    measured = plan_run(configure(microbatch_tokens="auto"))
    assert measured.budget.tokens == (10**6 // 2 - 16 * plan.parameters) // per_token
    assert measured.budget.tokens > 1


def test_the_table_and_the_exit_code(bed: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(bed["model"]), "--dataset", str(bed["train"]), "--output", str(tmp_path / "run")]
    assert main(["reward", *arguments, "--use_cpu", "true", "--cache_dir", str(tmp_path / "c"), "--dry_run"]) == 0
    shown = capsys.readouterr()
    for name in ("prompts (groups)", "distinct responses", "response slots", "token reuse", "padding share", "memory"):
        assert name in shown.out
    assert "Nothing was trained or written." in shown.out
    assert not (tmp_path / "run").exists()


def test_rows_of_the_table(configure: Callable[..., RewardConfig]) -> None:
    rows = dict(command.plan_rows(plan_run(configure(microbatch_tokens=400))))
    assert rows["pairs"] == "96"
    assert rows["response slots"] == "192"
    assert rows["tokens of a micro-batch, at most"] == "400 (as given)"
    assert rows["tokens with a second forward pass"] == "100%"


def test_what_the_run_would_refuse_is_refused(
    configure: Callable[..., RewardConfig], bed: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="eval_strategy"):
        plan_run(configure(eval_strategy="steps", dry_run=True))
    bad = write_rows(tmp_path / "bad.jsonl", [{"prompt": "p", "chosen": "a"}])
    with pytest.raises(ValueError, match="rejected"):
        plan_run(configure(dataset=str(bad), dry_run=True))


def test_a_long_epoch_is_planned_in_part(
    configure: Callable[..., RewardConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odin_rm.workflows.reward.plan.MOST_STEPS", 2)
    plan: Any = plan_run(configure(microbatch_tokens=400))
    assert (plan.planned_steps, plan.steps_per_epoch) == (2, 6)
