"""``odin-rm reproduce --preset paper``: files that their commands read, and what the command refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from odin_rm.cli.main import main
from odin_rm.cli.reproduce import check_config
from odin_rm.core.errors import ConfigError
from odin_rm.testbed.reproduce_paper import SAMPLES, STEPS_IN_ORDER, paper_files
from odin_rm.workflows.sweep.config import SweepConfig
from odin_rm.workflows.sweep.run import plan_runs


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, written while every connection is refused."""
    folder = tmp_path_factory.mktemp("paper") / "study"
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*args: object) -> None:
            raise AssertionError("something asked for a connection")

        patch.setattr("socket.socket.connect", refuse)
        assert main(["reproduce", "--preset", "paper", "--output", str(folder), "--seed", "7"]) == 0
    return folder


def test_the_papers_settings_stand_in_the_configs(study: Path) -> None:
    def read(name: str) -> dict:
        return yaml.safe_load((study / "configs" / f"{name}.yaml").read_text())

    odin, vanilla = read("reward_odin"), read("reward_vanilla")
    assert (odin["objective"], vanilla["objective"]) == ("odin", "bradley_terry")
    for config in (odin, vanilla):
        assert (config["batch_pairs"], config["num_train_epochs"], config["max_length"]) == (128, 3, 1024)
        assert (config["weight_decay"], config["lr_scheduler_type"], config["bf16"]) == (0.1, "cosine", True)
        assert "vicuna-7b" in config["model"]
        assert "openassistant" in config["dataset"]
    assert "lima" in read("generate")["prompts"]
    space = read("sweep_ppo_vanilla")["random"]["fields"]
    assert [float(x) for x in space["kl_coef"]] == [2.5e-3, 5e-3, 1e-2, 2e-2]
    assert space["clip_epsilon"] == [0.1, 0.2, 0.4]
    assert space["experience_size"] == [32, 64, 256]
    assert space["reward_clip"] == [float("inf"), 2, 4]
    for algorithm in ("ppo", "remax"):
        for arm in ("vanilla", "penalty", "odin"):
            sweep = read(f"sweep_{algorithm}_{arm}")
            assert sweep["random"]["samples"] == SAMPLES
            assert sweep["base"]["algorithm"] == algorithm
            assert sweep["base"]["reward"] == f"runs/reward_{'odin' if arm == 'odin' else 'vanilla'}/model"
            assert ("length_penalty" in sweep["random"]["fields"]) == (arm == "penalty")
            assert ("reward_clip" in sweep["random"]["fields"]) == (arm == "vanilla")
            assert ("clip_epsilon" in sweep["random"]["fields"]) == (algorithm == "ppo")
    assert {read(name)["seed"] for name in ("reward_odin", "dpo", "generate", "sft")} == {7}


def test_the_script_names_every_config_and_stops_where_models_are_missing(study: Path) -> None:
    script = (study / "run.sh").read_text()
    page = (study / "README.md").read_text()
    for path in (study / "configs").iterdir():
        assert path.name in script or path.name in page or "sweep_*.yaml" in script, path.name
    for step in STEPS_IN_ORDER:
        assert f"\n{step}() " in script
    done = subprocess.run(
        ["bash", "run.sh"], cwd=study, capture_output=True, text=True, env=os.environ | {"PATH": os.defpath}
    )
    assert done.returncode == 2
    assert "models/vicuna-7b-v1.5 is missing" in done.stderr
    assert "HF_HUB_OFFLINE=1" in script


def test_the_scripts_table_of_runs_draws_every_effect(study: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(study, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "odin-rm").write_text("#!/bin/sh\n")  # only the script's own work
    (programs / "odin-rm").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    systems = []
    for file in (study / "configs").glob("sweep_*.yaml"):
        sweep = SweepConfig(**(yaml.safe_load(file.read_text()) | {"output": f"runs/{file.stem}"}))
        for k, run in enumerate(plan_runs(sweep)[:5]):
            config = {"reward_clip": math.inf, "length_penalty": 0.0, "clip_epsilon": 0.2, "experience_size": 32}
            place = Path("runs", file.stem, "runs", run.name)
            place.mkdir(parents=True)
            (place / "config.yaml").write_text(yaml.safe_dump(config | run.settings))
            figures = {"mean_tokens": {"value": 200.0 + k}, "win_score": {"value": 60.0 - k}}
            systems.append({"generator": f"{file.stem}_{run.name}", **figures})
    Path("win_rates.json").write_text(json.dumps({"systems": systems}))
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    done = subprocess.run(["bash", "run.sh", "pareto"], capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in Path("runs.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 5
    assert {row["arm"] for row in rows} == {
        f"{a}_{arm}" for a in ("ppo", "remax") for arm in ("vanilla", "penalty", "odin")
    }
    assert all(("clip_epsilon" in row["settings"]) == (row["algorithm"] == "ppo") for row in rows)
    assert main(["pareto", "--config", "configs/effects.yaml", "--bootstrap_samples", "10"]) == 0
    assert {"pareto.json", "pareto.png"} <= {place.name for place in Path("effects").iterdir()}
    assert len(list(Path("effects").glob("*.png"))) >= 6


def test_a_wrong_key_in_any_config_is_found(tmp_path: Path) -> None:
    for file in paper_files(0):
        if file.command == "sweep":
            text = file.text.replace("minibatch_size:", "minibatch_sise:")
            wanted = "minibatch_sise"
        else:
            text, wanted = f"{file.text}\nno_such_field: 1\n", "no_such_field"
        if file.command in ("reward", "generate", "win-rate", "rl") or "ppo_vanilla" in file.place:
            with pytest.raises(ConfigError, match=wanted):
                check_config(str(file.command), text, tmp_path)


def test_a_second_call_is_refused_and_other_bad_flags_too(study: Path, refuse) -> None:
    refuse(["reproduce", "--preset", "paper", "--output", str(study)], "already")
    refuse(["reproduce", "--preset", "papers", "--output", "x"], "--preset")
    refuse(["reproduce", "--output", "x", "--workers", "0"], "--workers: must be at least 1")
    refuse(["reproduce", "--output", "x", "--seed", "-1"], "--seed: must be at least 0")
