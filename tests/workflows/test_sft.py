"""A fine-tuning run from config to folder: what it learns, writes, refuses, interrupts and resumes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from odin_rm.core.errors import CheckpointError, ConfigError, DataError, ModelError, NumericalError, RunInterrupted
from odin_rm.data.demonstrations import EncodedRows
from odin_rm.model.policy import load_policy
from odin_rm.testbed.tiny import build_tokenizer
from odin_rm.workflows.policy.sft import (
    IGNORED,
    SFT_REFUSED,
    DemonstrationTrainer,
    SFTRunConfig,
    labelled_columns,
    train_sft,
)
from tests.families import save_base
from tests.workflows.conftest import read_metrics, write_rows
from tests.workflows.policies import SMALL, assert_equal_policies, send_signal_at

Sft = Callable[..., Path]


@pytest.fixture
def sft(bed: dict[str, Path], tmp_path: Path) -> Sft:
    def run(name: str = "run", **options: Any) -> Path:
        settings: dict[str, Any] = {"model": str(bed["model"]), "dataset": str(bed["train"])} | SMALL | options
        return train_sft(SFTRunConfig(output_dir=str(tmp_path / name), **settings))

    return run


def test_labels_cover_the_response_with_its_end_and_nothing_else():
    columns = labelled_columns(EncodedRows([[5, 6], [7]], [([8, 2],), ([9, 9, 2],)], 0))
    assert columns["input_ids"] == [[5, 6, 8, 2], [7, 9, 9, 2]]
    assert columns["labels"] == [[IGNORED, IGNORED, 8, 2], [IGNORED, 9, 9, 2]]


def test_the_loss_is_that_of_response_and_end_tokens(bed: dict[str, Path], tmp_path: Path) -> None:
    """TRL's loss of a padded batch against log-softmax of each row alone, end token included and prompt left out."""
    model, tokenizer = load_policy(bed["model"])
    rows = EncodedRows([[5, 6, 7], [8]], [([9, 10, 2],), ([11, 2],)], 0)
    from datasets import Dataset

    data = Dataset.from_dict(labelled_columns(rows))
    args = SFTRunConfig(output_dir=str(tmp_path / "x"), **SMALL)
    trainer = DemonstrationTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    found = trainer.compute_loss(trainer.model, batch)
    terms = []
    for prompt, (response,) in zip(rows.prompt_ids, rows.response_ids, strict=True):
        ids = torch.tensor([prompt + response])
        log_probs = AutoModelForCausalLM.from_pretrained(bed["model"])(ids).logits.log_softmax(-1)[0]
        terms += [log_probs[t - 1, ids[0, t]] for t in range(len(prompt), len(prompt) + len(response))]
    assert len(terms) == 5
    assert found.item() == pytest.approx(-torch.stack(terms).mean().item(), rel=1e-5)


def test_the_policy_learns_to_say_it_and_to_end(bed: dict[str, Path], sft: Sft, tmp_path: Path) -> None:
    rows = [{"prompt": "how to repair a bike?", "response": "read the instructions first."}] * 16
    run = sft(dataset=str(write_rows(tmp_path / "one.jsonl", rows)), max_steps=40, learning_rate=1e-2)
    model, tokenizer = load_policy(run / "policy")
    from odin_rm.data.prompts import encode_prompts

    (prompt_ids,), _ = encode_prompts(tokenizer, ["how to repair a bike?"], max_prompt_tokens=64)
    written = model.generate(torch.tensor([prompt_ids]), do_sample=False, max_new_tokens=20)[0, len(prompt_ids) :]
    assert tokenizer.decode(written) == "read the instructions first. <eos>"


def test_the_run_folder(sft: Sft, capfd: pytest.CaptureFixture[str]) -> None:
    run = sft()
    shown = capfd.readouterr()
    assert re.fullmatch(r"step 6/6  loss \d\.\d\d  acc \d\.\d\d  \S+ tokens/s  \d:\d\d in all\n", shown.out)
    assert shown.err == ""
    assert {p.name for p in run.iterdir()} == {
        ".odin-rm.json",
        "checkpoints",
        "config.yaml",
        "data_report.json",
        "environment.json",
        "metrics.jsonl",
        "policy",
    }
    steps = [row for row in read_metrics(run) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 7))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert {"learning_rate", "entropy", "mean_token_accuracy", "num_tokens"} <= set(steps[0])
    assert read_metrics(run)[-1] == {"step": 6, "finished": True, "rows": 96, "overlong_rows": 0}
    assert AutoTokenizer.from_pretrained(run / "policy").pad_token == "<pad>"


def test_the_resolved_config_gives_the_same_policy(sft: Sft) -> None:
    run = sft()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    again = train_sft(SFTRunConfig(**(saved | {"output_dir": str(run.parent / "again"), "disable_tqdm": True})))
    assert_equal_policies(run, again)


def test_an_interrupted_run_resumes_to_the_same_policy(sft: Sft, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sft("whole", max_steps=9)
    with monkeypatch.context() as patch:
        send_signal_at(patch, 4)
        with pytest.raises(RunInterrupted, match=r"SIGTERM after step 5.*resume_from_checkpoint true") as caught:
            sft("cut", max_steps=9)
    assert caught.value.exit_code == 130
    cut = sft("cut", max_steps=9, resume_from_checkpoint="true")
    assert_equal_policies(whole, cut)
    with_loss = [row for row in read_metrics(cut) if "loss" in row]
    assert [row["step"] for row in with_loss] == list(range(1, 10))
    expected = [row["num_tokens"] for row in read_metrics(whole) if "loss" in row]
    assert [row["num_tokens"] for row in with_loss] == expected


def test_a_checkpoint_of_other_settings_or_data_is_refused(sft: Sft, bed: dict[str, Path], tmp_path: Path) -> None:
    sft(save_strategy="steps", save_steps=3)
    with pytest.raises(CheckpointError, match=r"learning_rate \(0.003 there, 0.5 here\)"):
        sft(resume_from_checkpoint="true", learning_rate=0.5)
    fewer = write_rows(tmp_path / "fewer.jsonl", [json.loads(x) for x in bed["train"].read_text().splitlines()[:50]])
    with pytest.raises(CheckpointError, match="other data"):
        sft(resume_from_checkpoint="true", dataset=str(fewer))
    (tmp_path / "run" / "checkpoints" / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt is damaged"):
        sft(resume_from_checkpoint=str(tmp_path / "run" / "checkpoints" / "checkpoint-6"))
    sft(resume_from_checkpoint="true")  # from the one before
    assert [row["step"] for row in read_metrics(tmp_path / "run") if "loss" in row] == list(range(1, 7))


def test_held_out_loss_is_logged(sft: Sft, bed: dict[str, Path]) -> None:
    run = sft(eval_dataset=str(bed["eval"]), eval_strategy="steps", eval_steps=3)
    assert [row["step"] for row in read_metrics(run) if "eval_loss" in row] == [3, 6]
    with pytest.raises(ConfigError, match="eval"):
        sft("none", eval_strategy="steps", eval_steps=3)


@pytest.mark.parametrize("name", sorted(SFT_REFUSED))
def test_fields_without_effect_are_refused(name: str, tmp_path: Path) -> None:
    field = SFTRunConfig.__dataclass_fields__[name]
    other: Any = not field.default if isinstance(field.default, bool) else "something"
    with pytest.raises(ConfigError, match=f"--{name}: has no effect in odin-rm sft"):
        SFTRunConfig(output_dir=str(tmp_path), **{name: other})


@pytest.mark.parametrize(
    "options, error, said",
    [
        ({"model": None}, ConfigError, "--model: is required"),
        ({"dataset": None}, ConfigError, "--dataset: is required"),
        ({"overlong": "cut"}, ConfigError, "--overlong: must be one of drop, error"),
        ({"max_length": 5}, DataError, "No row fits"),
        ({"lora_alpha": 4}, ConfigError, "without LoRA"),
        ({"metric_for_best_model": "accuracy"}, ConfigError, "must be one of loss"),
        ({"optim": "no_such"}, (ConfigError, ValueError), "no_such"),
        ({"model": "nowhere/at/all"}, ModelError, "nowhere/at/all"),
    ],
)
def test_what_cannot_work_leaves_no_folder(sft: Sft, tmp_path: Path, options: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        sft("bad", **options)
    assert not (tmp_path / "bad").exists()


def test_an_encoder_is_no_policy(sft: Sft, tmp_path: Path) -> None:
    save_base("bert", tmp_path / "bert")
    build_tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError):
        sft("bad", model=str(tmp_path / "bert"))
    assert not (tmp_path / "bad").exists()


def test_skipped_rows_are_written(sft: Sft, bed: dict[str, Path], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in bed["train"].read_text().splitlines()]
    rows.insert(3, {"prompt": "p"})
    run = sft(dataset=str(write_rows(tmp_path / "some.jsonl", rows)), on_bad_row="skip", max_steps=1)
    (skipped,) = [json.loads(line) for line in (run / "skipped_rows.jsonl").read_text().splitlines()]
    assert skipped["row"] == 4


def test_a_loss_that_is_not_finite_ends_the_run(sft: Sft, monkeypatch: pytest.MonkeyPatch) -> None:
    original = DemonstrationTrainer.compute_loss

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = original(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 2 else loss

    monkeypatch.setattr(DemonstrationTrainer, "compute_loss", poisoned)
    with pytest.raises(NumericalError, match="step 3: the loss is not finite"):
        sft()


def test_a_lora_policy(sft: Sft) -> None:
    pytest.importorskip("peft", reason="LoRA needs peft")
    whole = sft("whole", lora_r=4)
    model, _ = load_policy(whole / "policy")
    assert sum(p.numel() for p in model.parameters()) > 0
