"""``odin-rm quickstart`` end to end on a tiny budget, and its settings."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError, RunInterrupted
from odin_rm.evaluation.audit import CONTRACT_FIGURES
from odin_rm.model.reward_model import RewardModel
from odin_rm.testbed import experiment
from odin_rm.testbed.annotator import AnnotatorSettings
from odin_rm.testbed.experiment import ARMS, QuickstartConfig, run_quickstart, write_data
from odin_rm.testbed.world import WorldSettings

BUDGET = ["--pairs", "200", "--held_out_pairs", "100", "--epochs", "1", "--bootstrap_samples", "50", "--hidden", "32",
          "--sweep", "none"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    assert main(["quickstart", "--output", str(folder), "--seed", "5", *BUDGET]) == 0
    return folder


def test_summary_has_the_promised_shape(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["seed"] == 5
    assert summary["runs"] == []  # with --sweep none; tests/testbed/test_rl_experiment.py has some
    assert summary["seconds"] > 0
    assert summary["left_out"] == {}
    assert list(summary["worlds"]) == ["good_writers_write_more"]
    truth = summary["worlds"]["good_writers_write_more"]["the truth"]
    assert truth["true_quality_agreement"]["value"] == 1
    assert truth["pearson"]["value"] > 0.2  # there, good answers are longer
    assert set(summary["reward_models"]) == {"vanilla", "odin"}
    for audit in summary["reward_models"].values():
        assert audit["pairs"] == 100
        assert audit["length_unit"] == "response tokens"
        for name in (*CONTRACT_FIGURES, "true_quality_agreement"):
            figure = audit[name]
            assert {"value", "low", "high"} <= set(figure)
            assert figure["value"] is not None or figure["why"]
        agreement = audit["true_quality_agreement"]
        assert 0 <= agreement["low"] <= agreement["value"] <= agreement["high"] <= 1


def test_report_is_one_self_contained_page(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "vanilla" in page
    assert "odin" in page.lower()
    assert "Where good answers are longer" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", page)
    assert list(finished.rglob("*.png"))


def test_run_folders_are_those_of_odin_rm_reward(finished: Path) -> None:
    for name in ARMS:
        for part in ("config.yaml", "environment.json", "metrics.jsonl", "model", "audit.json"):
            assert (finished / name / part).exists(), (name, part)
    assert RewardModel.from_pretrained(finished / "odin" / "model").has_length_head
    assert not RewardModel.from_pretrained(finished / "vanilla" / "model").has_length_head


def test_data_files_are_complete(finished: Path) -> None:
    counts = {path.stem: len(path.read_text().splitlines()) for path in (finished / "data").glob("*.jsonl")}
    assert counts == {"train": 200, "held_out": 100, "ranked": 20, "sft": 200, "prompts": 20}


def test_another_run_is_refused_and_left_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert main(["quickstart", "--output", str(finished), *BUDGET]) == 2
    error = capsys.readouterr().err.strip()
    assert "--overwrite" in error
    assert len(error.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def config(folder: Path, **knobs: object) -> QuickstartConfig:
    small = {"pairs": 40, "held_out_pairs": 20, "epochs": 1, "bootstrap_samples": 10, "hidden": 16, "layers": 1,
             "sweep": "none"}  # fmt: skip
    return QuickstartConfig(output=str(folder), **(small | knobs))  # type: ignore[arg-type]


def test_both_arms_start_from_the_same_weights_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def stop_before_training(run: object) -> Path:
        from transformers import set_seed

        from odin_rm.workflows.reward.run import build_model

        set_seed(run.seed)  # type: ignore[attr-defined]
        seen[run.objective] = (run, build_model(run, run.model).state_dict())  # type: ignore[attr-defined, arg-type]
        return tmp_path

    monkeypatch.setattr(experiment, "train_reward_model", stop_before_training)
    monkeypatch.setattr(experiment, "audit_arm", lambda *args: experiment.Arm(tmp_path, None, None))  # type: ignore[arg-type]
    monkeypatch.setattr(experiment, "write_story", lambda *args: None)
    monkeypatch.setattr(experiment, "summary", lambda *args: {})
    run_quickstart(config(tmp_path / "out"), say=lambda line: None)
    (vanilla, plain), (odin, disentangled) = seen["bradley_terry"], seen["odin"]
    shared = [name for name in plain if name in disentangled]
    assert len(shared) > 5
    assert any("quality" in name for name in shared)
    assert all(torch.equal(plain[name], disentangled[name]) for name in shared)
    different = {
        f.name for f in dataclasses.fields(vanilla) if f.init and getattr(vanilla, f.name) != getattr(odin, f.name)
    }
    # What follows from the objective, and where the results go.
    assert different <= {
        "objective", "output_dir", "length_weight", "orthogonality_weight", "normalise_heads", "logging_dir", "run_name"
    }  # fmt: skip


def test_equal_seeds_give_equal_models_and_other_seeds_do_not(tmp_path: Path) -> None:
    def quality(folder: str, seed: int) -> list[float]:
        story = run_quickstart(config(tmp_path / folder, seed=seed), say=lambda line: None)
        return [float(value) for arm in story.arms.values() for value in arm.scored.quality]

    first = quality("a", 0)
    assert quality("b", 0) == first
    assert quality("c", 1) != first


def test_overwriting_replaces_the_run(tmp_path: Path) -> None:
    run_quickstart(config(tmp_path / "out"), say=lambda line: None)
    again = config(tmp_path / "out", seed=7, overwrite_output_dir=True)
    run_quickstart(again, say=lambda line: None)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["seed"] == 7


def test_interruption_ends_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raises(error: BaseException):
        def train(run: object) -> Path:
            raise error

        return train

    for number, error in enumerate((RunInterrupted("stopped by SIGINT"), KeyboardInterrupt())):
        monkeypatch.setattr(experiment, "train_reward_model", raises(error))
        assert main(["quickstart", "--output", str(tmp_path / str(number)), *BUDGET]) == 130
        assert not (tmp_path / str(number) / "summary.json").exists()
        message = capsys.readouterr().err
        assert "interrupted" in message
        assert "--resume_from_checkpoint" not in message  # that is a flag of odin-rm reward


def test_world_and_annotator_knobs_are_fields_and_reach_the_data(tmp_path: Path) -> None:
    names = {f.name for f in dataclasses.fields(QuickstartConfig)}
    for settings in (WorldSettings, AnnotatorSettings):
        assert {f.name for f in dataclasses.fields(settings)} <= names
    assert all(f.metadata.get("help") for f in dataclasses.fields(QuickstartConfig))
    facts = write_data(config(tmp_path, pairs=400, length_bias=1.0, length_mean=40.0), tmp_path / "biased")
    plain = write_data(config(tmp_path, pairs=400), tmp_path / "plain")
    assert facts["train"]["prefers_longer"] > plain["train"]["prefers_longer"] + 0.2
    assert facts["train"]["mean_tokens"] > plain["train"]["mean_tokens"] + 10


@pytest.mark.parametrize(
    ("knobs", "flag"),
    [
        ({"pairs": 0}, "--pairs"),
        ({"epochs": 0.0}, "--epochs"),
        ({"hidden": 12}, "--hidden"),
        ({"topics": 99}, "--topics"),
        ({"temperature": -1.0}, "--temperature"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path: Path, knobs: dict, flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        config(tmp_path, **knobs)
    with pytest.raises(ConfigError, match="--output"):
        QuickstartConfig()


def test_the_reward_story_comes_first_and_full_adds_the_policies(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert QuickstartConfig(output=output).sweep == "none"
    assert QuickstartConfig(output=output, full=True).sweep == "small"
    assert QuickstartConfig(output=output, full=True, sweep="full").sweep == "full"
    assert QuickstartConfig(output=output, sweep="small").sweep == "small"
