"""``odin-rm evaluate``: which runs, what they are called, what is done again, and that pareto reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from odin_rm.core.errors import DataError, OutputError
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World
from odin_rm.workflows.evaluate import run as evaluate_run
from odin_rm.workflows.evaluate.config import EvaluateConfig
from odin_rm.workflows.evaluate.find import find_candidates
from odin_rm.workflows.evaluate.run import run_evaluate
from odin_rm.workflows.pareto.run import ParetoConfig, run_pareto

PROMPTS = World().prompts()[:6]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two policies with different weights."""
    folder = tmp_path_factory.mktemp("tiny")
    return [save_tiny_model(folder / str(seed), seed, hidden=16, layers=1, heads=2) for seed in (0, 1)]


def run_folder(place: Path, policy: Path | None, **settings: Any) -> Path:
    """A run of rl, as far as it matters here."""
    place.mkdir(parents=True)
    (place / "metrics.jsonl").write_text('{"step": 1}\n')
    (place / "config.yaml").write_text(yaml.safe_dump({"algorithm": "ppo", "seed": 3} | settings))
    if policy is not None:
        shutil.copytree(policy, place / "policy")
    return place


@pytest.fixture
def room(tmp_path: Path, tiny: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs under rewards of one name in different folders, one that has no policy yet, and a baseline."""
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "runs" / "a" / "ppo", tiny[0], reward="rewards/1/odin/model", kl_coef=0.1)
    run_folder(tmp_path / "runs" / "b" / "ppo", tiny[1], reward="rewards/2/odin/model", kl_coef=0.2)
    run_folder(tmp_path / "runs" / "stopped", None)
    texts = ["please boil it for a while .", "ask a friend ."]
    rows = [{"instruction": p, "output": texts[k % 2], "generator": "sft"} for k, p in enumerate(PROMPTS)]
    (tmp_path / "baseline.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.fixture
def evaluate(room: Path) -> Callable[..., dict[str, Any]]:
    def run(*runs: str, **changes: Any) -> dict[str, Any]:
        given = {"baseline": "baseline.json", "judge": "gold", "output": "out", "max_new_tokens": 6}
        given |= {"bootstrap_samples": 20, "device": "cpu"}
        return run_evaluate(EvaluateConfig(runs=list(runs or ["runs"]), **(given | changes)))

    return run


def test_which_runs_there_are_and_what_they_are_called(room: Path, tiny: list[Path]) -> None:
    candidates, left_out = find_candidates(["runs"])
    assert [(c.name, c.settings["kl_coef"]) for c in candidates] == [("a/ppo", 0.1), ("b/ppo", 0.2)]
    assert left_out == {"runs without a policy": 1}
    assert candidates[0].policy == Path("runs/a/ppo/policy")
    (alone,), _ = find_candidates(["runs/a"])
    assert alone.name == "ppo"
    (plain,), _ = find_candidates([str(tiny[0])])
    assert plain.policy == tiny[0]
    # One run by several names is one run.
    assert len(find_candidates(["runs/*", "runs/a/ppo", "runs/a/ppo/policy/.."])[0]) == 2


def test_the_runs_of_a_sweep_are_those_that_are_done(room: Path, tiny: list[Path]) -> None:
    rows = []
    for name, status, policy in (("x", "done", tiny[0]), ("y", "failed", None), ("z", "waiting", None)):
        run_folder(room / "sweep" / "runs" / name, policy, kl_coef=9)
        rows.append({"name": name, "status": status, "folder": f"runs/{name}", "varied": {"kl_coef": 0.5}})
    (room / "sweep" / "sweep.json").write_text(json.dumps({"command": "rl", "runs": rows}))
    (found,), left_out = find_candidates(["sweep"])
    assert (found.name, found.settings["kl_coef"], found.settings["seed"]) == ("x", 0.5, 3)
    assert left_out == {"runs of a sweep that are failed": 1, "runs of a sweep that are waiting": 1}


@pytest.mark.parametrize(
    ("place", "said"), [("nowhere", "no such file or folder"), ("no*", "matches nothing"), ("empty", "holds no policy")]
)
def test_places_without_runs_are_refused(room: Path, place: str, said: str) -> None:
    (room / "empty").mkdir()
    with pytest.raises(DataError, match=said):
        find_candidates([place])


def test_figures_are_those_of_the_judgements_and_pareto_goes_on(room: Path, evaluate) -> None:
    content = evaluate()
    assert [row["name"] for row in content["runs"]] == ["a/ppo", "b/ppo"]
    assert content["left_out"] == {"runs without a policy": 1}
    for row in content["runs"]:
        rows = json.loads((room / "out" / row["judged"] / "annotations.json").read_text())
        assert {item["generator_2"] for item in rows} == {row["name"]}
        preferences = [item["preference"] for item in rows]
        wins, losses = sum(p > 1.5 for p in preferences), sum(p < 1.5 for p in preferences)
        # 50 + 100 (wins - losses) / n, as the paper has it.
        assert row["win_score"]["value"] == pytest.approx(50 + 100 * (wins - losses) / len(rows))
        words = [len(item["output_2"].split()) for item in rows]
        assert row["mean_tokens"]["value"] == pytest.approx(sum(words) / len(words))
    assert json.loads((room / "out" / "evaluation.json").read_text())["judge"] == "gold"

    run_pareto(ParetoConfig(output="fronts", runs=["out"], bootstrap_samples=20, grid=3))
    fronts = json.loads((room / "fronts" / "pareto.json").read_text())
    # Two rewards called odin, told apart by their folders.
    assert {point["name"]: point["arm"] for point in fronts["points"]} == {"a/ppo": "1/odin", "b/ppo": "2/odin"}
    assert {point["settings"]["kl_coef"] for point in fronts["points"]} == {0.1, 0.2}
    assert fronts["resampled"]["unit"] == "prompts"
    assert fronts["arms"]["1/odin"]["hypervolume"]["value"] is None


def test_what_is_there_is_not_done_again(room: Path, evaluate, tiny: list[Path], monkeypatch) -> None:
    first = evaluate()
    wrote: list[str] = []
    real = evaluate_run.run_generate
    monkeypatch.setattr(evaluate_run, "run_generate", lambda config: (wrote.append(config.generator), real(config)))
    assert evaluate() == first
    assert wrote == []
    # A policy that was trained anew is written anew, and the other one is not.
    shutil.rmtree(room / "runs" / "b" / "ppo" / "policy")
    shutil.copytree(tiny[0], room / "runs" / "b" / "ppo" / "policy")
    again = evaluate()
    assert wrote == ["b/ppo"]
    assert again["runs"][0] == first["runs"][0]
    with pytest.raises(OutputError, match="holds an evaluation with max_new_tokens 6, not 7"):
        evaluate(max_new_tokens=7)
    evaluate(max_new_tokens=7, overwrite=True)
    assert wrote == ["b/ppo", "a/ppo", "b/ppo"]


def test_a_run_that_fails_is_told_of_and_the_others_go_on(room: Path, evaluate) -> None:
    (room / "runs" / "a" / "ppo" / "policy" / "model.safetensors").write_bytes(b"broken")
    content = evaluate()
    assert [row["status"] for row in content["runs"]] == ["failed", "done"]
    assert content["runs"][0]["error"]
    assert content["left_out"]["runs that failed"] == 1
    (room / "runs" / "b" / "ppo" / "policy" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="no run could be evaluated"):
        evaluate(output="other")


def test_files_of_outputs_are_candidates_too(room: Path, evaluate) -> None:
    rows = json.loads((room / "baseline.json").read_text())
    for name in ("x", "y"):
        (room / f"{name}.json").write_text(json.dumps([row | {"generator": "gpt"} for row in rows]))
    content = evaluate("x.json", "y.json")
    assert [(row["name"], row["win_score"]["value"]) for row in content["runs"]] == [("x", 50.0), ("y", 50.0)]


def test_a_response_without_words_loses_and_counts(room: Path, evaluate) -> None:
    words = ["", " \n", *["please boil it ."] * 4]
    rows = [{"instruction": p, "output": said, "generator": "quiet"} for p, said in zip(PROMPTS, words, strict=True)]
    (room / "quiet.json").write_text(json.dumps(rows))
    report = evaluate("quiet.json")
    assert [row["status"] for row in report["runs"]] == ["done"]
    judged = json.loads((room / "out" / "runs" / "quiet" / "judged" / "annotations.json").read_text())
    assert [row["preference"] for row in judged[:2]] == [1.0, 1.0]
    assert [row.get("empty_output_lost", False) for row in judged] == [True, True, False, False, False, False]
    rates = json.loads((room / "out" / "win_rates.json").read_text())
    rates = rates.get("systems", [rates])[0]
    assert rates["n"] == 6
    assert rates["losses"] >= 2
