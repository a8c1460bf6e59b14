"""A DPO run from config to folder; its loss against a hand computation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from odin_rm.core.errors import CheckpointError, ConfigError, DataError, RunInterrupted
from odin_rm.data.demonstrations import EncodedRows
from odin_rm.model.policy import load_policy
from odin_rm.workflows.policy.dpo import DPO_REFUSED, DPORunConfig, _make_trainer, compared_columns, train_dpo
from tests.workflows.conftest import read_metrics, write_rows
from tests.workflows.policies import SMALL, assert_equal_policies, send_signal_at

Dpo = Callable[..., Path]


@pytest.fixture
def dpo(bed: dict[str, Path], tmp_path: Path) -> Dpo:
    def run(name: str = "run", **options: Any) -> Path:
        settings: dict[str, Any] = {"model": str(bed["model"]), "dataset": str(bed["train"])} | SMALL | options
        return train_dpo(DPORunConfig(output_dir=str(tmp_path / name), **settings))

    return run


def log_prob(model: Any, prompt: list[int], response: list[int]) -> float:
    """Of a whole response, token by token, from the logits."""
    logits = model(torch.tensor([prompt + response])).logits[0].double()
    total = 0.0
    for position, token in enumerate(response, start=len(prompt)):
        row = [float(x) for x in logits[position - 1]]
        top = max(row)
        total += row[token] - top - math.log(sum(math.exp(x - top) for x in row))
    return total


@pytest.mark.parametrize("lora_r", [0, 4])
def test_the_loss_of_one_pair_by_hand(bed: dict[str, Path], tmp_path: Path, lora_r: int) -> None:
    if lora_r:
        pytest.importorskip("peft", reason="LoRA needs peft")
    prompt, chosen, rejected, beta = [5, 6, 7], [8, 9, 2], [10, 2], 0.3
    model, tokenizer = load_policy(bed["model"], lora_r=lora_r)
    args = DPORunConfig(output_dir=str(tmp_path / "x"), beta=beta, **SMALL)
    data = Dataset.from_dict(compared_columns(EncodedRows([prompt], [(chosen, rejected)], 0)))
    trainer = _make_trainer(model, args, data, None, tokenizer)
    with torch.no_grad():  # the policy has moved, its reference has not
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.sin(torch.arange(parameter.numel()) + len(name)).view_as(parameter))
        batch = next(iter(trainer.get_train_dataloader()))
        found = float(trainer.compute_loss(trainer.model, batch))
        reference = AutoModelForCausalLM.from_pretrained(bed["model"]).eval()
        policy = trainer.model.eval()
        margin = (log_prob(policy, prompt, chosen) - log_prob(reference, prompt, chosen)) - (
            log_prob(policy, prompt, rejected) - log_prob(reference, prompt, rejected)
        )
    assert abs(margin) > 0.05
    assert found == pytest.approx(math.log(1 + math.exp(-beta * margin)), rel=1e-4)


def test_the_run_folder_and_what_it_learns(dpo: Dpo, capfd: pytest.CaptureFixture[str]) -> None:
    run = dpo(max_steps=12)
    shown = capfd.readouterr()
    figures = r"loss \d\.\d\d  acc \d\.\d\d  margin -?\d\S+  \S+ tokens/s"
    assert re.fullmatch(rf"step \d+/\d+  {figures}  \d:\d\d in all\n", shown.out)
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
    assert steps[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)  # the policy is its reference
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["rewards/margins"] > 0
    load_policy(run / "policy")


def test_beta_counts(dpo: Dpo) -> None:
    weak, strong = (read_metrics(dpo(f"beta{beta}", beta=beta, max_steps=3))[2] for beta in (0.01, 1.0))
    assert weak["loss"] != strong["loss"]


def test_an_interrupted_run_resumes_to_the_same_policy(dpo: Dpo, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dpo("whole", max_steps=8)
    with monkeypatch.context() as patch:
        send_signal_at(patch, 3)
        with pytest.raises(RunInterrupted, match="SIGTERM after step 4"):
            dpo("cut", max_steps=8)
    cut = dpo("cut", max_steps=8, resume_from_checkpoint="true")
    assert_equal_policies(whole, cut)
    losses = [[(r["step"], r["loss"]) for r in read_metrics(run) if "loss" in r] for run in (whole, cut)]
    assert losses[0] == losses[1]
    with pytest.raises(CheckpointError, match=r"beta \(0.1 there, 0.2 here\)"):
        dpo("cut", max_steps=8, resume_from_checkpoint="true", beta=0.2)


@pytest.mark.parametrize("name", sorted(DPO_REFUSED))
def test_fields_without_effect_are_refused(name: str, tmp_path: Path) -> None:
    field = DPORunConfig.__dataclass_fields__[name]
    other: Any = not field.default if isinstance(field.default, bool) else "other"
    with pytest.raises(ConfigError, match=f"--{name}: has no effect in odin-rm dpo"):
        DPORunConfig(output_dir=str(tmp_path), **{name: other})


def test_rows_without_a_comparison_are_refused(dpo: Dpo, tmp_path: Path) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"prompt": "p", "response": "a"}])
    with pytest.raises(DataError, match=r"row 1.*chosen"):
        dpo("bad", dataset=str(bad))
    assert not (tmp_path / "bad").exists()


def test_a_loss_that_does_not_exist_is_one_line(dpo: Dpo, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dpo --help") as caught:
        dpo("bad", loss_type=["exo_pair"])  # TRL wants label smoothing with it
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bad").exists()
