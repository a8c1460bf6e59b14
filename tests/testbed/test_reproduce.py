"""The study on the testbed: its plan, its rule by hand, a miniature from end to end, killed and resumed."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from odin_rm.core.errors import OutputError, RunInterrupted
from odin_rm.evaluation.records import Figure
from odin_rm.testbed import reproduce
from odin_rm.testbed.annotator import Annotator
from odin_rm.testbed.experiment import QuickstartConfig
from odin_rm.testbed.phrases import FILLERS, HARMFUL, HELPFUL
from odin_rm.testbed.reproduce import PRESETS, claim, run_reproduce
from odin_rm.testbed.reproduce_conclusions import (
    Fronts,
    front_conclusions,
    independent_difference,
    knob_conclusions,
    length_conclusions,
    magnitude,
    reward_conclusions,
    tuning_conclusions,
    verdict_of,
)
from odin_rm.testbed.reproduce_plan import ARMS, FULL, KNOBS, MINIATURE, Plan
from odin_rm.testbed.reproduce_points import Answers, Point, judge_by_truth, make_point
from odin_rm.testbed.sweep import PolicyRun
from odin_rm.testbed.world import World, count_tokens
from odin_rm.testbed.worlds import WORLDS
from tests.waiting import wait_until

COMMAND = [sys.executable, "-m", "odin_rm.cli.main", "reproduce", "--preset", "miniature"]
RUNS = len(MINIATURE.runs(0))


# ---- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [FULL, MINIATURE])
def test_every_arm_and_every_value_of_a_knob_has_the_same_grid(plan: Plan) -> None:
    runs = plan.runs(3)
    assert len({run.name for run in runs}) == len(runs)
    assert {run.seed for run in runs} == {3}
    grids = [
        {(run.algorithm, run.kl_coef, run.learning_rate) for run in plan.main_runs(3) if run.arm == arm} for arm in ARMS
    ]
    assert all(grid == grids[0] for grid in grids)
    assert len(grids[0]) == 2 * len(plan.kl_coefs) * len(plan.learning_rates)
    for knob in KNOBS:
        levels = plan.knob_runs(knob, "vanilla", 3)
        assert {run.name for level in levels.values() for run in level} <= {run.name for run in runs}
        assert len({len(level) for level in levels.values()}) == 1
        assert all(getattr(run, knob.setting) == value for value, level in levels.items() for run in level)


def test_the_full_plan_by_hand() -> None:
    names = {run.name for run in FULL.runs(0)}
    # Four arms of 12; two further epsilons and two further N for both rewards, two further c, two further alpha, of 3
    # betas each; DPO; gold.
    assert len(names) == 4 * 12 + 3 * (2 * 2 + 2 * 2 + 2 + 2) + 1 + 3
    assert "vanilla_clip_1_remax_beta_0.4_lr_0.00015_seed_0" in names
    assert "odin_ppo_beta_0.2_lr_0.0003_seed_0_n_256" in names
    assert set(FULL.knob_runs(KNOBS[3], "vanilla", 0)) == {0.5, 1.0, 2.0, math.inf}


def test_every_run_is_a_whole_number_of_collections() -> None:
    for size in PRESETS.values():
        responses = size.settings.get("policy_responses", 6400)
        assert all(responses % run.experience_size == 0 for run in size.plan.runs(0))


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_verdicts_by_hand() -> None:
    assert verdict_of(Figure(1.0, 0.1, 2.0)) == "holds"
    assert verdict_of(Figure(1.0, 0.0, 2.0)) == "draw"
    assert verdict_of(Figure(-1.0, -2.0, -0.1)) == "fails"
    assert verdict_of(Figure(-1.0, -2.0, 0.1)) == "draw"
    assert verdict_of(Figure(5.0, why="no interval: one run")) == "draw"
    assert verdict_of(Figure(None, why="undefined")) == "draw"
    assert verdict_of(Figure(-0.01, -0.015, 0.0), bound=-0.02) == "holds"


def test_differences_of_audits_by_hand() -> None:
    one, other = {"value": 0.5, "low": 0.4, "high": 0.7}, {"value": -0.1, "low": -0.3, "high": 0.05}
    assert magnitude(other) == {"value": 0.1, "low": 0.0, "high": 0.3}
    assert magnitude({"value": -0.2, "low": -0.3, "high": -0.1}) == {"value": 0.2, "low": 0.1, "high": 0.3}
    found = independent_difference(one, other)
    assert (found.value, found.low, found.high) == pytest.approx((0.6, 0.35, 1.0))
    assert independent_difference(one, {"value": 0.1, "low": None, "high": None}).low is None


def audit(pearson: float, agreement: float, accuracy: float) -> dict:
    values = {"pearson": pearson, "true_quality_agreement": agreement, "accuracy": accuracy}
    return {name: {"value": v, "low": v - 0.01, "high": v + 0.01} for name, v in values.items()}


def test_what_is_said_of_reward_models() -> None:
    found = reward_conclusions({"vanilla": audit(0.45, 0.90, 0.82), "odin": audit(-0.01, 0.98, 0.76)})
    assert [c.verdict for c in found] == ["holds", "holds", "fails"]
    found = reward_conclusions({"vanilla": audit(0.01, 0.90, 0.70), "odin": audit(-0.45, 0.90, 0.71)})
    assert [c.verdict for c in found] == ["fails", "draw", "holds"]


def point(run: PolicyRun | None, tokens: float, win: float, quality: float) -> Point:
    figures = [Figure(value) for value in (tokens, quality, win, win)]
    return Point(run.name if run else "sft", run.arm if run else "start", run, *figures, {"prompts": 4}, 1.0, ["a"])


def lattice(better: str, margin: float, longer: str) -> dict[str, Point]:
    """Every run of a plan on one line of score against length; one reward's lie higher, one reward's are longer."""
    points = {}
    for run in FULL.runs(0):
        tokens = 26 + 2 * run.kl_coef + (8 if run.reward_model == longer else 0)
        lift = margin if run.reward_model == better else 0.0
        points[run.name] = point(run, tokens, 100 + lift - run.kl_coef, 0.5 + lift / 100)
    return points


@pytest.mark.parametrize(
    ("better", "verdict", "against_all"),
    [("odin", "holds", "holds"), ("vanilla", "fails", "fails"), ("gold", "draw", "draw")],
)
def test_conclusions_on_fronts_that_are_known(better: str, verdict: str, against_all: str) -> None:
    points = lattice(better, margin=30.0, longer="nobody")
    arms = {arm: [points[run.name] for run in FULL.main_runs(0) if run.arm == arm] for arm in ARMS}
    fronts = Fronts(point(None, 26.0, 50.0, 0.1), 21.0, samples=200)
    found = front_conclusions(arms, fronts)
    assert [c.name for c in found] == [
        f"odin_above_{rival}_{a}" for a in ("ppo", "remax") for rival in ("vanilla", "clip", "penalty")
    ]
    assert {c.verdict for c in found} == {verdict}
    assert {verdict_of(c.on_true_quality) for c in found if c.on_true_quality} == {verdict}
    everything, dpo = tuning_conclusions(list(points.values()), arms, fronts)
    assert everything.verdict == against_all
    assert dpo.name == "odin_above_dpo_beta_0.1"
    knobs = knob_conclusions(points, FULL, 0, fronts)
    assert [c.name for c in knobs] == [f"odin_above_best_{knob.name}" for knob in KNOBS]
    assert {c.verdict for c in knobs} == {verdict}
    if better == "odin":
        # Equal areas but for the lift: 30 points of win score over the lengths that both attain.
        area = found[0].figure.value
        assert area == pytest.approx(30 * (42 - 26.2), rel=0.01)


def test_conclusions_on_length_by_hand() -> None:
    fronts = Fronts(point(None, 26.0, 50.0, 0.1), 21.0, samples=200)

    def verdicts(longer: str) -> list[str]:
        points = lattice("nobody", 0.0, longer)
        arms = {arm: [points[run.name] for run in FULL.main_runs(0) if run.arm == arm] for arm in ARMS}
        return [c.verdict for c in length_conclusions(arms, fronts)]

    # Everybody is a little above the start; vanilla is 8 tokens above ODIN, or ODIN above vanilla.
    assert verdicts("vanilla") == ["holds", "holds"] * 2
    assert verdicts("odin") == ["holds", "fails"] * 2


def test_dpo_is_compared_at_its_own_length() -> None:
    fronts = Fronts(point(None, 26.0, 50.0, 0.1), 21.0, samples=200)
    odin = [point(PolicyRun("odin", "ppo", beta), 25 + 10 * beta, 60 + 10 * beta, 0.5) for beta in (0.1, 0.2, 0.4)]
    longer, shorter = point(None, 27.5, 55.0, 0.5), point(None, 25.0, 55.0, 0.5)
    assert fronts.above(odin, longer, "win_score").value == pytest.approx(62 - 55)
    assert fronts.above(odin, shorter, "win_score").value is None


# ---- measuring -------------------------------------------------------------------------------------------------------


def answers(texts: list[str]) -> Answers:
    world = World()
    return Answers(
        [f"p{k}" for k in range(len(texts))],
        texts,
        np.array([count_tokens(text) for text in texts], dtype=float),
        np.array([world.true_quality("", text) for text in texts]),
        np.ones(len(texts)),
    )


def test_win_scores_by_hand() -> None:
    filler = " ".join(FILLERS[:4])
    start = answers([HELPFUL[0], HELPFUL[0], HELPFUL[0], HELPFUL[0]])
    # Better; worse; the same and much longer; the same.
    new = answers([" ".join(HELPFUL[:2]), HARMFUL[0], f"{HELPFUL[0]} {filler}", HELPFUL[0]])
    both = judge_by_truth(new, start)
    assert [item.preference for item in both] == [2.0, 1.0, 1.5, 1.5]
    assert all(item.candidate_first == item.candidate_second for item in both)
    found = make_point(PolicyRun("odin", "ppo"), "x", new, start, Annotator(World()), samples=50, seed=0)
    assert found.value("win_score") == 50 + 100 * (1 - 1) / 4
    assert found.value("biased_win_score") == 50 + 100 * (2 - 1) / 4  # the annotator pays for the fillers
    assert (found.orders["wins"], found.orders["ties"], found.orders["losses"]) == (1, 2, 1)
    assert found.to_json()["win_score"] == 50.0
    assert found.to_json()["settings"]["clip_epsilon"] == 0.2


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_is_taken_once_and_gone_on_with(tmp_path: Path) -> None:
    def take(seed: int, overwrite: bool = False) -> None:
        config = QuickstartConfig(output=str(tmp_path / "out"), seed=seed, sweep="none")
        claim(tmp_path / "out", "miniature", config, MINIATURE.runs(seed), overwrite=overwrite)

    take(0)
    result = tmp_path / "out" / "policies" / "sft" / "result.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    take(0)
    assert result.exists()
    with pytest.raises(OutputError, match="other settings"):
        take(1)
    assert result.exists()
    take(1, overwrite=True)
    assert not result.exists()
    (tmp_path / "out" / "config.yaml").write_text("pairs: 3\n")
    with pytest.raises(OutputError, match="already holds another run"):
        take(1)


class OneProcess:
    """A pool that works in this process, and may be stopped after so many tasks as Ctrl-C would stop it."""

    def __init__(self, most: int) -> None:
        self.most = most

    def submit(self, work: Callable[[Any], Any], task: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.most == 0:
            raise KeyboardInterrupt
        self.most -= 1
        future.set_result(work(task))
        return future


def test_a_miniature_stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    said: list[str] = []

    def study(most: int) -> dict[str, Any]:
        monkeypatch.setattr(reproduce, "worker_pool", lambda workers: nullcontext(OneProcess(most)))
        return run_reproduce("miniature", str(folder), say=said.append)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.raises(RunInterrupted, match=f"2 of {RUNS} policies are done"):
            study(3 + len(WORLDS) + 2)
        stamps = {
            name: (folder / "policies" / name / "result.json").stat().st_mtime_ns for name in finished_runs(folder)
        }
        assert len(stamps) == 2
        study(RUNS - 2)
    finally:
        torch.set_num_threads(threads)
    assert {name: stamp(folder, name) for name in stamps} == stamps
    assert any(line.startswith(f"Training {RUNS - 2} of {RUNS} policies, 2 at a time, from: ") for line in said)
    assert any(line.startswith(f"    {RUNS}/{RUNS}, about 0 min left. ") for line in said)
    check_study(folder)
    # A study that is complete is drawn again and trains nothing.
    study(0)


def stamp(folder: Path, name: str) -> int:
    return (folder / "policies" / name / "result.json").stat().st_mtime_ns


def finished_runs(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "policies").glob("*/result.json")} - {"sft"}


@pytest.mark.slow
def test_a_miniature_killed_twice_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    line = [*COMMAND, "--output", str(folder)]
    stamps: dict[str, int] = {}
    for number, needed in ((signal.SIGKILL, 2), (signal.SIGTERM, 4)):
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as study:
            wait_until(lambda: len(finished_runs(folder)) >= needed, alive=[study])  # noqa: B023
            os.kill(study.pid, number)
            _, said = study.communicate()
        assert study.returncode == (130 if number == signal.SIGTERM else -number), said
        if number == signal.SIGTERM:
            assert re.search(r"\d+ of \d+ policies are done and kept. Run the same command again to go on", said)
        for name in finished_runs(folder):
            stamps.setdefault(name, stamp(folder, name))
    model = (folder / "odin" / "model" / "model.safetensors").stat().st_mtime_ns
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"of {RUNS} policies, 2 at a time" in done.stdout
    # What was done was not done again.
    assert (folder / "odin" / "model" / "model.safetensors").stat().st_mtime_ns == model
    assert {name: stamp(folder, name) for name in stamps} == stamps
    check_study(folder)


def check_study(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary["runs"]) == RUNS
    assert summary["left_out"] == {}
    assert set(summary["worlds"]) == set(WORLDS)
    assert summary["worlds"] == {path.stem: json.loads(path.read_text()) for path in (folder / "worlds").iterdir()}
    assert {run["algorithm"] for run in summary["runs"]} == {"ppo", "remax", "dpo"}
    assert {front["arm"] for front in summary["fronts"]} == set(ARMS)
    assert set(summary["effects"]) == {"beta", "epsilon", "N", "c", "alpha"}
    assert len(summary["conclusions"]) == sum(summary["verdicts"].values()) >= 19
    assert {found["verdict"] for found in summary["conclusions"].values()} <= {"holds", "draw", "fails"}
    wanted = {f"{score}_against_length_{a}" for score in ("win_score", "true_quality") for a in ("ppo", "remax")}
    wanted |= {"effect_of_epsilon", "effect_of_N", "effect_of_c", "effect_of_alpha", "reward_against_length"}
    assert wanted <= set(summary["figures"])
    for name in summary["figures"]:
        assert (folder / f"{name}.png").stat().st_size > 5000
        assert json.loads((folder / "figures" / f"{name}.json").read_text())
    page = (folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", page)
    assert all(found["claim"].split("'")[0][:40] in page for found in summary["conclusions"].values())
