"""The quickstart's policies: real runs on a tiny budget, what is measured, and what is not done twice."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from odin_rm.core.errors import NumericalError, OdinError
from odin_rm.reports import Text
from odin_rm.rl.records import Rollout
from odin_rm.testbed import experiment, rl_experiment
from odin_rm.testbed.experiment import QuickstartConfig, run_quickstart
from odin_rm.testbed.rl_experiment import (
    PolicyTask,
    forget_results,
    measure_policy,
    policy_config,
    run_task,
    train_policies,
)
from odin_rm.testbed.rl_figures import Measured, PolicyResult
from odin_rm.testbed.rl_story import policy_section
from odin_rm.testbed.sweep import PolicyRun, SweepSettings
from odin_rm.testbed.world import World, WorldSettings
from tests.waiting import wait_until

RUNS = [PolicyRun("odin", "ppo", 0.05, 1e-3), PolicyRun("length_only", "remax", 0.1, 1e-3)]
SMALL = SweepSettings(sweep="small", sft_steps=8, policy_responses=64, max_new_tokens=16)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quickstart with two policies, both trained in processes of their own."""
    folder = tmp_path_factory.mktemp("policies") / "out"
    config = QuickstartConfig(
        output=str(folder), pairs=80, held_out_pairs=20, epochs=1, bootstrap_samples=10, hidden=16, layers=1,
        **{f.name: getattr(SMALL, f.name) for f in dataclasses.fields(SMALL)},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "sweep_runs", lambda sweep, seed: RUNS)
        run_quickstart(config, say=lambda line: None)
    return folder


def test_summary_and_page_tell_of_each_run(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert [(r["reward_model"], r["algorithm"]) for r in summary["runs"]] == [("odin", "ppo"), ("length_only", "remax")]
    for entry in summary["runs"]:
        assert 0 < entry["mean_tokens"] <= 16
        assert -2 <= entry["true_quality"] <= 1
        assert -50 <= entry["win_score"] <= 150
    assert [r["settings"]["kl_coef"] for r in summary["runs"]] == [0.05, 0.1]
    page = (finished / "report.html").read_text()
    assert "What policies make of the rewards" in page
    assert (finished / "true_quality_against_length.png").exists()


def test_run_folders_are_those_of_odin_rm(finished: Path) -> None:
    for name in ("sft", *(run.name for run in RUNS)):
        place = finished / "policies" / name
        for part in ("policy", "metrics.jsonl", "config.yaml", "environment.json", "result.json", "responses.jsonl"):
            assert (place / part).exists(), (name, part)
    assert not (finished / "policies" / RUNS[0].name / "checkpoints").exists()


def test_a_finished_run_is_not_repeated_and_other_settings_are(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    said: list[str] = []

    def pretend(pool: object, work: object, tasks: list[PolicyTask]):
        for task in tasks:
            asked.append(task.run.name)
            future: Future[PolicyResult] = Future()
            if task.run.seed == 1:
                future.set_exception(NumericalError("the loss is not finite"))
            else:
                future.set_result(PolicyResult(task.run, Measured(9.0, 0.5, 50.0, 1.0, [])))
            yield task, future

    monkeypatch.setattr(rl_experiment, "as_done", pretend)
    monkeypatch.setattr(rl_experiment, "train_sft", lambda config: pytest.fail("the start was trained again"))
    again = train_policies(finished, RUNS, SMALL, World(), 0, said.append)
    assert asked == []
    summary = json.loads((finished / "summary.json").read_text())
    assert [r.measured.true_quality for r in again.results] == [r["true_quality"] for r in summary["runs"]]

    longer, other = dataclasses.replace(SMALL, policy_responses=128), dataclasses.replace(RUNS[0], seed=1)
    policies = train_policies(finished, [RUNS[0], other], longer, World(), 0, said.append)
    assert asked == [RUNS[0].name, other.name]
    # A run that failed on its numbers is told of and left out.
    assert [result.run for result in policies.results] == [RUNS[0]]
    assert policies.left_out == {other.name: "the loss is not finite"}
    assert said[-2:] == [
        f"    1/2, about 0 min left. {RUNS[0].name}: 9.0 tokens, true quality 0.50",
        f"    2/2, about 0 min left. {other.name}: left out. the loss is not finite",
    ]
    (told,) = [b.text for b in policy_section(policies, {}, []).blocks if isinstance(b, Text) and "Left out" in b.text]
    assert told == f"Left out: {other.name}. the loss is not finite"


def test_a_new_start_forgets_results(tmp_path: Path) -> None:
    for name in ("sft", "odin_ppo"):
        (tmp_path / "policies" / name).mkdir(parents=True)
        (tmp_path / "policies" / name / "result.json").write_text("{}")
    forget_results(tmp_path)
    assert list(tmp_path.rglob("result.json")) == []


def test_a_run_gives_the_same_in_this_process(finished: Path, tmp_path: Path) -> None:
    for name in ("data", "odin", "initial_model"):
        (tmp_path / name).symlink_to(finished / name)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "sft").symlink_to(finished / "policies" / "sft")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in RUNS:
            run_task(PolicyTask(tmp_path, run, SMALL, WorldSettings()))
            here, there = (folder / "policies" / run.name / "result.json" for folder in (tmp_path, finished))
            assert json.loads(here.read_text()) == json.loads(there.read_text())
    finally:
        torch.set_num_threads(threads)


def test_policies_have_learnt_something_of_their_own(finished: Path) -> None:
    weights = {
        name: (finished / "policies" / name / "policy" / "model.safetensors").read_bytes()
        for name in ("sft", *(run.name for run in RUNS))
    }
    assert len(set(weights.values())) == 3


def test_an_error_ends_the_sweep_and_its_processes(finished: Path, tmp_path: Path) -> None:
    for name in ("data", "policies"):
        (tmp_path / name).symlink_to(finished / name)
    missing = PolicyRun("vanilla", "remax", seed=7)
    with pytest.raises(OdinError, match="vanilla"):
        train_policies(tmp_path, [missing], SMALL, World(), 0, say=lambda line: None)
    for child in multiprocessing.active_children():
        child.join(timeout=30)
    assert multiprocessing.active_children() == []
    assert not (finished / "policies" / missing.name / "result.json").exists()


def task(run: PolicyRun, folder: Path = Path("x")) -> PolicyTask:
    return PolicyTask(folder, run, SweepSettings(), WorldSettings())


def test_every_setting_of_a_run_reaches_the_command() -> None:
    knobs = {"length_penalty": 0.03, "reward_clip": 1.5, "clip_epsilon": 0.3, "experience_size": 128}
    run = PolicyRun("vanilla", "ppo", 0.07, 2e-4, seed=4, **knobs)
    config = policy_config(task(run))
    for name, value in run.settings.items():
        assert getattr(config, name) == value, name
    assert config.reward == str(Path("x") / "vanilla" / "model")
    assert policy_config(task(PolicyRun("gold", "remax"))).reward == "gold"
    assert config.max_steps * config.minibatch_size == 6400
    assert policy_config(task(PolicyRun("odin", "remax"))).max_steps * 64 == 6400


def test_what_was_asked_holds_all_that_decides_a_result() -> None:
    one = task(PolicyRun("odin", "ppo"))
    assert json.loads(json.dumps(one.asked)) == one.asked
    changed = [
        dataclasses.replace(one, run=PolicyRun("odin", "ppo", reward_clip=2.0)),
        dataclasses.replace(one, settings=SweepSettings(policy_responses=640)),
        dataclasses.replace(one, settings=SweepSettings(max_new_tokens=32)),
        dataclasses.replace(one, world=WorldSettings(saturation=3)),
    ]
    assert all(other.asked != one.asked for other in changed)
    assert dataclasses.replace(one, settings=SweepSettings(workers=1)).asked == one.asked


def test_measurement_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from odin_rm.testbed.phrases import HARMFUL, HELPFUL

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"p{k}"}) + "\n" for k in range(4)))
    texts = [" ".join(HELPFUL[:4]), " ".join(HELPFUL[:2]), HARMFUL[0], ""]
    rollouts = [Rollout([1], list(range(n)), ended, text) for text, n, ended in zip(
        texts, (21, 11, 5, 8), (True, True, True, False), strict=True
    )]  # fmt: skip
    monkeypatch.setattr(rl_experiment, "_write", lambda *args: rollouts)
    start = np.array([0.5, 0.5, 0.0, 0.25])
    policy = tmp_path / "run" / "policy"
    policy.mkdir(parents=True)
    measured, quality = measure_policy(policy, tmp_path, SMALL, World(), 0, start)
    assert quality.tolist() == [1.0, 0.5, -0.25, 0.0]
    assert measured.mean_tokens == (20 + 10 + 4 + 8) / 4
    assert measured.true_quality == pytest.approx(1.25 / 4)
    assert measured.win_score == 50 + 100 * (1 - 2) / 4  # one won, two lost, one tie
    assert measured.ended_share == 0.75
    (row, *_) = [json.loads(line) for line in (policy.parent / "responses.jsonl").read_text().splitlines()]
    assert row == {"prompt": "p0", "response": texts[0], "response_tokens": 20, "ended": True, "true_quality": 1.0}
    assert measure_policy(policy, tmp_path, SMALL, World(), 0, None)[0].win_score == 50


def test_command_lines_can_be_repeated(finished: Path) -> None:
    saved = yaml.safe_load((finished / "policies" / RUNS[1].name / "config.yaml").read_text())
    assert (saved["algorithm"], saved["reward"], saved["kl_coef"]) == ("remax", "length_only", 0.1)
    assert saved["reward_clip"] in (math.inf, None)


def test_a_worker_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os, threading\n"
        "from odin_rm.testbed.rl_experiment import _begin_worker\n"
        "def work(pipe):\n"
        "    _begin_worker()\n"
        "    pipe.send(os.getpid())\n"
        "    threading.Event().wait()\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    mine, theirs = context.Pipe()\n"
        "    context.Process(target=work, args=(theirs,)).start()\n"
        "    print(mine.recv(), flush=True)\n"
        "    threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.kill()
    wait_until(lambda: not running(worker))
    assert not running(worker)


def running(process: int) -> bool:
    """Whether a process is there and is not merely waiting to be reaped."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"
