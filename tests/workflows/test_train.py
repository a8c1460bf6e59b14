"""A reward run from config to folder: what it writes, refuses, interrupts and resumes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from odin_rm.cli.config import parse_config
from odin_rm.core.errors import CheckpointError, ConfigError, DataError, NumericalError, OutputError, RunInterrupted
from odin_rm.data.load import load_preferences
from odin_rm.model.head_scale import scale_at, unit_deviation
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_tokenizer
from odin_rm.reward.config import REFUSED, RewardConfig
from odin_rm.runs import callbacks
from odin_rm.workflows.reward import run as workflow
from tests.waiting import PATIENCE, wait_until
from tests.workflows.conftest import read_metrics, write_rows

Train = Callable[..., Path]

STEP_FIELDS = {
    "step",
    "loss",
    "ranking_loss",
    "length_loss",
    "orthogonality_loss",
    "accuracy",
    "quality_length_correlation",
    "length_length_correlation",
    "pairs",
    "pairs_per_second",
    "tokens_per_second",
    "learning_rate",
}


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row of ``metrics.jsonl`` without what depends on the clock."""
    return {name: value for name, value in row.items() if not re.search("second|share|flos|memory", name)}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {**load_file(run / "model" / "model.safetensors"), **load_file(run / "model" / "reward_heads.safetensors")}


def assert_equal_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_run_folder_holds_what_the_contract_names(train: Train, bed: dict[str, Path]) -> None:
    run = train(eval_dataset=str(bed["eval"]), save_strategy="epoch")
    assert {p.name for p in run.iterdir()} >= {
        "model",
        "metrics.jsonl",
        "config.yaml",
        "data_report.json",
        "environment.json",
        "checkpoints",
    }
    steps = [row for row in read_metrics(run) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert all(row.keys() >= STEP_FIELDS for row in steps)
    assert all(row["pairs"] == 16 for row in steps)
    for row in steps:
        total = row["ranking_loss"] + row["length_loss"] + row["orthogonality_loss"]
        assert row["loss"] == pytest.approx(total, abs=1e-5)
    before = read_metrics(run)[0]
    assert before.keys() >= {"batch_layout", "tree_attention", "microbatch_tokens", "single_pass_tokens"}
    note = json.loads(next((run / "checkpoints").glob("checkpoint-*/odin_rm_run.json")).read_text(encoding="utf-8"))
    assert note["budget"]["products"] == before["cpu_products"]
    assert before["cpu_products"] in ("torch", "onednn")
    model = RewardModel.from_pretrained(run / "model")
    assert model.info.reward_std is not None
    assert model.info.reward_std > 0
    assert model.info.audit["pairs"] == 40
    assert "accuracy" in (run / "model" / "README.md").read_text(encoding="utf-8")


def test_resolved_config_gives_the_same_run_again(train: Train, tmp_path: Path) -> None:
    first = train("first", length_weight=0.5, max_steps=3)
    again = parse_config(
        RewardConfig, ["--config", str(first / "config.yaml"), "--output", str(tmp_path / "second")], "reward"
    )
    second = workflow.train_reward_model(again)
    assert_equal_weights(first, second)
    resolved = yaml.safe_load((first / "config.yaml").read_text(encoding="utf-8"))
    assert resolved["length_weight"] == 0.5
    assert resolved["orthogonality_weight"] == 1.0


def test_same_seed_same_weights_other_seed_others(train: Train) -> None:
    first, second = train("a", max_steps=3), train("b", max_steps=3)
    assert_equal_weights(first, second)
    other = train("c", max_steps=3, seed=7)
    assert not torch.equal(weights(first)["quality"], weights(other)["quality"])


def test_both_arms_start_from_the_same_quality_vector(configure: Any) -> None:
    from transformers import set_seed

    vectors = []
    for objective in ("odin", "bradley_terry"):
        config = configure(objective=objective)
        set_seed(3)
        vectors.append(workflow.build_model(config, config.model).heads.vectors["quality"].detach())
    assert torch.equal(vectors[0], vectors[1])


class StopAt(TrainerCallback):
    """Sends the process a signal at a step, as Ctrl-C or a scheduler would."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop", [4, 5])
def test_interrupt_saves_and_resume_gives_bit_equal_weights(
    train: Train, monkeypatch: pytest.MonkeyPatch, number: int, stop: int, tmp_path: Path
) -> None:
    """Steps 5 and 6 of 12: in the middle of the first epoch and at its end; between two logs, and at one."""
    whole = train("whole", logging_steps=3)
    original = callbacks.MetricsFile.on_step_begin
    trigger = StopAt(stop, number)
    monkeypatch.setattr(callbacks.MetricsFile, "on_step_begin", trigger.on_step_begin)
    with pytest.raises(RunInterrupted, match="resume_from_checkpoint") as caught:
        train("cut", logging_steps=3)
    assert caught.value.exit_code == 130
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == [f"checkpoint-{stop + 1}"]
    assert not (tmp_path / "cut" / "model").exists()
    monkeypatch.setattr(callbacks.MetricsFile, "on_step_begin", original)
    resumed = train("cut", resume_from_checkpoint="true", logging_steps=3)
    assert_equal_weights(whole, resumed)
    logged, expected = ([without_times(r) for r in read_metrics(run) if "loss" in r] for run in (resumed, whole))
    assert [row["step"] for row in logged] == [3, 6, 9, 12]
    assert logged == expected


def test_kill_and_resume_from_the_last_complete_checkpoint(train: Train, tmp_path: Path) -> None:
    whole = train("whole", save_steps=4, save_strategy="steps")
    cut = train("cut", save_steps=4, save_strategy="steps", save_total_limit=10)
    # As if killed while checkpoint 12 was being written, after logging all steps.
    (cut / "checkpoints" / "checkpoint-12" / "trainer_state.json").unlink()
    resumed = train("cut", save_steps=4, save_strategy="steps", save_total_limit=10, resume_from_checkpoint="true")
    assert_equal_weights(whole, resumed)
    assert [row["step"] for row in read_metrics(resumed) if "loss" in row] == list(range(1, 13))


@pytest.mark.parametrize("options", [{}, {"train": "heads", "learning_rate": 1e-5, "head_learning_rate": 1e-2}])
def test_a_run_killed_behind_its_last_checkpoint_takes_no_further_step(
    train: Train, tmp_path: Path, options: dict[str, Any]
) -> None:
    """In the middle of an epoch, at a rate that does not fall to 0, so that a further step would be seen."""
    given = {"save_steps": 4, "save_strategy": "steps", "max_steps": 8, "lr_scheduler_type": "constant", **options}
    whole = train("whole", logging_steps=3, **given)
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-8"
    resumed = train("cut", logging_steps=3, **given, resume_from_checkpoint=str(checkpoint))
    assert_equal_weights(whole, resumed)
    assert [path.name for path in (resumed / "checkpoints").iterdir()] == []
    assert RewardModel.from_pretrained(resumed / "model").info.training["steps"] == 8


def test_the_mean_loss_of_a_resumed_run_is_of_the_steps_that_it_took(train: Train, tmp_path: Path) -> None:
    """The checkpoint lies between two logs, so it holds the loss of step 4, which is no step of the second run."""
    given: dict[str, Any] = {"save_steps": 4, "save_strategy": "steps", "save_total_limit": 9}
    every = [row["loss"] for row in read_metrics(train("every", max_steps=6, **given)) if "loss" in row]
    train("whole", max_steps=6, logging_steps=3, **given)
    checkpoint = tmp_path / "whole" / "checkpoints" / "checkpoint-4"
    resumed = train("cut", max_steps=6, logging_steps=3, **given, resume_from_checkpoint=str(checkpoint))
    (mean,) = [row["train_loss"] for row in read_metrics(resumed) if "train_loss" in row]
    assert mean == pytest.approx(np.mean(every[4:]), rel=1e-5)


def test_other_texts_of_the_same_lengths_are_other_data(train: Train, bed: dict[str, Path], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in bed["train"].read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["chosen"] = " ".join(reversed(row["chosen"].split()))
    other = write_rows(tmp_path / "other.jsonl", rows)
    given: dict[str, Any] = {"save_steps": 4, "save_strategy": "steps", "max_steps": 4}
    run = train("run", **given)
    checkpoint = str(run / "checkpoints" / "checkpoint-4")
    with pytest.raises(CheckpointError, match="as many pairs, 96, of other texts"):
        train("more", **given, dataset=str(other), resume_from_checkpoint=checkpoint)
    note = Path(checkpoint) / "odin_rm_run.json"
    assert set(json.loads(note.read_text(encoding="utf-8"))["data"]) == {"pairs", "responses", "checksum", "texts"}


def test_heads_at_a_rate_of_0_stay(train: Train, bed: dict[str, Path]) -> None:
    vector = [weights(train(f"r{rate}", head_learning_rate=rate, max_steps=2))["quality"] for rate in (0.0, 1e-3)]
    torch.manual_seed(42)
    start = RewardModel.from_backbone(bed["model"], heads=("quality", "length")).heads.vectors["quality"].detach()
    assert torch.equal(vector[0], start)
    assert not torch.equal(vector[1], start)


def test_a_dial_that_cannot_be_fitted_is_refused_before_the_training(train: Train, tmp_path: Path) -> None:
    same = write_rows(tmp_path / "same.jsonl", [{"prompt": "Why?", "shorter": "So.", "longer": "So."}])
    for options, words in (
        ({"calibrate": "writers"}, "name no two writers"),
        ({"calibrate": "twins", "calibrate_twins": str(tmp_path / "none.jsonl")}, "no such file"),
        ({"calibrate": "twins", "calibrate_twins": str(same)}, "has no twins. Give --calibrate_twins F"),
    ):
        with pytest.raises(DataError, match=words):
            train("run", **options)
        assert not (tmp_path / "run").exists()


def test_checkpoint_of_other_settings_or_data_is_refused(train: Train, bed: dict[str, Path], tmp_path: Path) -> None:
    train("run", save_steps=4, save_strategy="steps")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"length_weight \(1.0 there, 2.0 here\)"):
        train("run", length_weight=2.0, resume_from_checkpoint="true", save_steps=4, save_strategy="steps")
    fewer = write_rows(tmp_path / "fewer.jsonl", [json.loads(x) for x in bed["train"].read_text().splitlines()[:90]])
    with pytest.raises(CheckpointError, match="other data"):
        train("run", dataset=str(fewer), resume_from_checkpoint="true", save_steps=4, save_strategy="steps")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_resume_without_checkpoint_is_refused(train: Train) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train("none", resume_from_checkpoint="true")


def test_other_run_in_the_folder_is_refused_and_untouched(train: Train) -> None:
    run = train(max_steps=1)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(OutputError, match="pass --overwrite to replace"):
        train(max_steps=2)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    again = train(max_steps=2, overwrite_output_dir=True)
    assert [row["step"] for row in read_metrics(again) if "loss" in row] == [1, 2]


def test_bad_data_leaves_no_folder(train: Train, tmp_path: Path) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"prompt": "p", "chosen": "a"}])
    with pytest.raises(DataError, match=r"row 1.*rejected"):
        train("bad", dataset=str(bad))
    assert not (tmp_path / "bad").exists()


def test_skipped_rows_are_counted_and_written(train: Train, bed: dict[str, Path], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in bed["train"].read_text().splitlines()]
    rows.insert(3, {"prompt": "p", "chosen": "same", "rejected": "same"})
    run = train("skip", dataset=str(write_rows(tmp_path / "some.jsonl", rows)), on_bad_row="skip", max_steps=1)
    skipped = [json.loads(line) for line in (run / "skipped_rows.jsonl").read_text().splitlines()]
    assert len(skipped) == 1
    assert 4 in skipped[0].values()


def test_nan_stops_with_step_rows_and_a_saved_batch(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = RewardModel.forward
    calls = {"n": 0}

    def poisoned(self: RewardModel, **inputs: Any) -> Any:
        scores = original(self, **inputs)
        calls["n"] += self.training  # not where the layout is verified
        if calls["n"] < 4:
            return scores
        return type(scores)(scores.quality * float("nan"), scores.length)

    monkeypatch.setattr(RewardModel, "forward", poisoned)
    # One forward pass a step: no memory is measured, and the batch is one micro-batch.
    with pytest.raises(NumericalError, match=r"step 4.*rows \d+") as caught:
        train("nan", batch_layout="padded", microbatch_tokens=10**6)
    assert caught.value.exit_code == 2
    saved = json.loads((tmp_path / "nan" / "bad_batch_step_4.json").read_text())
    assert saved["step"] == 4
    assert len(saved["rows"]) == 16
    assert saved["quality"][0] is None
    assert all(isinstance(ids, list) and ids for ids in saved["input_ids"])


def test_equal_lengths_train_without_nan_and_are_counted(train: Train, tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "chosen": "add water and stir", "rejected": "stir water and add"} for i in range(16)]
    run = train("equal", dataset=str(write_rows(tmp_path / "equal.jsonl", rows)), max_steps=2)
    steps = [row for row in read_metrics(run) if "loss" in row]
    assert [row["degenerate_correlations"] for row in steps] == [2, 2]
    assert all(row["length_loss"] == 0.0 and np.isfinite(row["loss"]) for row in steps)


def test_best_model_by_a_chosen_metric(train: Train, bed: dict[str, Path]) -> None:
    run = train(
        eval_dataset=str(bed["eval"]),
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        save_total_limit=10,
        load_best_model_at_end=True,
        metric_for_best_model="eval_accuracy_length_balanced",
        greater_is_better=True,
        learning_rate=3e-3,
    )
    rows = [row for row in read_metrics(run) if "eval_accuracy_length_balanced" in row]
    best = max(rows, key=lambda row: row["eval_accuracy_length_balanced"])
    saved = load_file(run / "checkpoints" / f"checkpoint-{best['step']}" / "model.safetensors")
    final = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], final[name]) for name in saved)
    assert RewardModel.from_pretrained(run / "model").info.audit["accuracy_length_balanced"]["value"] == pytest.approx(
        best["eval_accuracy_length_balanced"], abs=1e-6
    )


def test_training_goes_on_from_a_saved_reward_model(train: Train) -> None:
    first = train("first", max_steps=2)
    second = train("second", model=str(first), max_steps=1, learning_rate=1e-12)
    for name, tensor in weights(first).items():
        assert torch.allclose(tensor, weights(second)[name], atol=1e-9), name
    with pytest.raises(ConfigError, match="heads"):
        train("third", model=str(first), objective="bradley_terry")


def test_eval_fraction_holds_prompts_out(train: Train) -> None:
    run = train(eval_fraction=0.25, eval_strategy="epoch")
    assert any("eval_accuracy" in row for row in read_metrics(run))
    model = RewardModel.from_pretrained(run / "model")
    assert model.info.reference["held_out"] is True


def test_learning_reduces_the_loss(train: Train) -> None:
    run = train(num_train_epochs=8, learning_rate=3e-3)
    losses = [row["ranking_loss"] for row in read_metrics(run) if "loss" in row]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.05


# By value, setting by setting and without runs: tests/reward/test_wiring.py. Here, that a whole run comes by them.
@pytest.mark.parametrize(
    "change",
    [{"length_weight": 3.0}, {"data_seed": 5}, {"max_length": 45, "overlong": "truncate_prompt_left"}],
    ids=lambda change: next(iter(change)),
)
def test_a_run_comes_by_its_settings(train: Train, change: dict[str, Any]) -> None:
    base, other = train("base", max_steps=2), train("other", **{"max_steps": 2, **change})
    assert not torch.equal(weights(base)["quality"], weights(other)["quality"])
    first, changed = (next(row for row in read_metrics(run) if "loss" in row) for run in (base, other))
    assert (first["ranking_loss"] == changed["ranking_loss"]) == ("length_weight" in change)
    assert first["length_loss"] > 0
    expected = first["ranking_loss"] + 3.0 * first["length_loss"] + first["orthogonality_loss"]
    assert (changed["loss"] == pytest.approx(expected, abs=1e-5)) == ("length_weight" in change)


def test_texts_are_cut_as_asked(configure: Any, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [{}, {"max_length": 45}, {"max_length": 45, "overlong": "truncate_prompt_left"}]
    whole, dropped, cut = (
        workflow.load_data(configure(**options), load_tokenizer(configure().model), tmp_path / "skipped.jsonl")[0]
        for options in asked
    )
    tokens_B2 = whole.sequence_tokens[np.stack([whole.pair_chosen, whole.pair_rejected], axis=1)]
    fit = whole.pair_row[(tokens_B2 <= 45).all(1)].tolist()
    assert 0 < len(fit) < whole.num_pairs == 96
    assert dropped.pair_row.tolist() == fit
    assert set(fit) < set(cut.pair_row.tolist())
    assert cut.sequence_tokens.max() == 45


def test_memory_settings_change_no_weight(train: Train) -> None:
    base = train("base", max_steps=3, microbatch_tokens=10**6)
    for name, change in {"small": {"microbatch_tokens": 200}, "kept": {"single_pass_tokens": 10**6}}.items():
        other = train(name, **{"max_steps": 3, "microbatch_tokens": 200, **change})
        for key, tensor in weights(base).items():
            # Another order of float32 sums, amplified by Adam's first steps; a wrong gradient moves weights by 1e-3.
            assert torch.allclose(tensor, weights(other)[key], atol=2e-5), key


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_fields_without_effect_are_refused(name: str, tmp_path: Path) -> None:
    other: dict[str, Any] = {
        "train_sampling_strategy": "sequential",
        "length_column_name": "x",
        "label_names": ["x"],
        "include_for_metrics": ["loss"],
        "include_num_input_tokens_seen": "all",
        "parallelism_config": object(),
    }
    default = RewardConfig.__dataclass_fields__[name].default
    value = other.get(name, (not default) if isinstance(default, bool) else 3)
    with pytest.raises(ConfigError, match=f"--{name}: has no effect"):
        RewardConfig(output_dir=str(tmp_path), **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "odinn"}, "--objective"),
        ({"batch_pairs": 0}, "--batch_pairs"),
        ({"length_weight": -1.0}, "--length_weight"),
        ({"objective": "bradley_terry", "orthogonality_weight": 1.0}, "length head"),
        ({"objective": "bradley_terry", "head_scale": 2.0}, "--head_scale"),
        ({"lora_alpha": 32}, "--lora_r"),
        ({"length_warmup": 1.0}, "--length_warmup"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardConfig(output_dir=str(tmp_path), **options)


def test_eval_strategy_without_data_is_refused(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eval_dataset"):
        train("x", eval_strategy="epoch")
    assert not (tmp_path / "x").exists()


def test_command_line_sigterm_ends_with_130_and_one_line(bed: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "odin_rm.cli.main", "reward", "--model", str(bed["model"])]
    command += ["--dataset", str(bed["train"]), "--output", str(tmp_path / "run"), "--use_cpu", "true"]
    command += ["--num_train_epochs", "500", "--batch_pairs", "16", "--cache_dir", str(tmp_path / "cache")]
    log = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        wait_until(log.exists, alive=[process])
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors[-2000:]
    assert "Traceback" not in errors
    assert "odin-rm reward" in errors.strip().splitlines()[-1]
    assert any((tmp_path / "run" / "checkpoints").glob("checkpoint-*/trainer_state.json"))


def test_lora_run_is_found_from_any_working_directory(
    configure: Any, bed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bed["model"].parent)
    config = configure("lora", model=bed["model"].name, lora_r=2, max_steps=1)
    run = workflow.train_reward_model(config)
    monkeypatch.chdir(tmp_path)
    model = RewardModel.from_pretrained(run / "model")
    assert model.is_lora
    assert not (run / "model" / "model.safetensors").exists()


HEADS = {"train": "heads", "learning_rate": RewardConfig.__dataclass_fields__["learning_rate"].default}
"""Heads alone, without the rate of a backbone that is not trained."""


def tiny_bert(folder: Path, positions: int) -> str:
    """A BERT of one layer with the testbed's tokenizer."""
    import transformers

    from odin_rm.testbed.tiny import build_tokenizer

    tokenizer = build_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=positions, pad_token_id=tokenizer.pad_token_id, **sizes
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_table_of_positions_is_never_overrun(configure: Any, bed: dict[str, Path], tmp_path: Path) -> None:
    """An encoder with few positions: the default fits it, and asking for more is refused in one line."""
    bert = tiny_bert(tmp_path / "bert", 40)
    run = workflow.train_reward_model(configure("bert_run", model=bert, max_steps=1))
    assert RewardModel.from_pretrained(run / "model").info.encoding["max_length"] == 40
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["max_length"] == 40
    with pytest.raises(ConfigError, match="--max_length: is 41, but the model has 40 positions"):
        workflow.train_reward_model(configure("too_long", model=bert, max_length=41))
    assert not (tmp_path / "too_long").exists()


def test_rewards_on_a_frozen_encoder_begin_with_a_deviation_of_a_half(configure: Any, tmp_path: Path) -> None:
    """The scale is half over the deviation of the features of 128 responses; what is given, or saved, stands."""
    bert = tiny_bert(tmp_path / "bert", 64)
    config = configure("run", model=bert, max_steps=1, **HEADS)
    run = workflow.train_reward_model(config)
    scale = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["head_scale"]
    model = RewardModel.from_pretrained(run / "model")
    assert model.info.head_scale == scale != 1.0
    data = load_preferences(config.dataset, load_tokenizer(bert), workflow.encoding_settings(config))
    drawn = np.sort(np.random.default_rng(0).permutation(data.num_responses)[:128])
    model.eval().reads_feature = True
    ids = [torch.as_tensor(data.input_ids(int(r)).astype(np.int64))[None] for r in drawn]
    with torch.no_grad():
        rows = [model(one, torch.ones_like(one)).feature[0] for one in ids]
    assert scale == scale_at(unit_deviation(torch.stack(rows).numpy()))
    # Going on from it keeps its scale, also on other features; and a scale that is given is taken.
    again = workflow.train_reward_model(configure("again", model=str(run), max_steps=1, **HEADS))
    assert RewardModel.from_pretrained(again / "model").info.head_scale == scale
    given = workflow.train_reward_model(configure("given", model=bert, max_steps=1, **HEADS, head_scale=0.0004))
    assert RewardModel.from_pretrained(given / "model").info.head_scale == 0.0004


def test_decoders_whole_models_and_raw_heads_keep_the_papers_scale(
    configure: Any, train: Train, tmp_path: Path
) -> None:
    bert = tiny_bert(tmp_path / "bert", 64)
    runs = [
        train("llama", max_steps=1),
        train("llama_heads", max_steps=1, **HEADS),
        workflow.train_reward_model(configure("whole", model=bert, max_steps=1)),
        workflow.train_reward_model(configure("raw", model=bert, max_steps=1, **HEADS, objective="bradley_terry")),
    ]
    assert [RewardModel.from_pretrained(run / "model").info.head_scale for run in runs] == [1.0] * 4
