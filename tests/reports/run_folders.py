"""Small run folders and results as the commands write them, made by hand: what a report is tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from odin_rm.evaluation.audit import audit_preferences
from tests.evaluation.simulate import simulated

HOSTILE = (
    "</script><script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "]]><!-- <b>bold</b> &amp; {{ 7 * 7 }} {% raw %} %{y} $\\alpha$",
    "javascript:alert(1) http://example.org/\u2028\u202e\x00 end",
)
ENVIRONMENT = {"python": "3.12.1", "cpu_cores": 2, "packages": {"torch": "2.13.0", "numpy": "2.4.6"}, "device": "cpu"}


def write_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_run(folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any], *, finished: bool = True) -> Path:
    write_lines(
        folder / "metrics.jsonl", [*rows, *([{"step": rows[-1]["step"], "finished": True}] if finished else [])]
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    write_json(folder / "environment.json", ENVIRONMENT)
    return folder


def rl_run(folder: Path, *, drift: float = 1.0, texts: tuple[str, ...] = ("one two", "three"), **settings: Any) -> Path:
    """Four steps with a look before and after; each response grows by ``drift`` tokens and 0.5 quality a step."""
    rows: list[dict[str, Any]] = []
    samples = []
    for step in range(5):
        if step:
            rows.append(
                {"step": step, "samples_seen": 4 * step, "mean_response_tokens": 10.0 + drift * step,
                 "mean_quality_reward": 0.5 * step, "mean_length_reward": 0.1 * step, "kl_to_reference": 0.2 * step,
                 "ended_share": 1.0, "entropy": 1.0, "loss": 0.3}
            )  # fmt: skip
        if step % 4 == 0:
            look = {"mean_tokens": 10.0 + drift * step, "quality": 0.5 * step, "kl": 0.2 * step, "quality_error": 0.1}
            rows.append({"step": step, **{f"watch_{name}": value for name, value in look.items()}})
            samples += [
                {"step": step, "prompt": f"Question {k}: {text}", "response": f"{text} at step {step}",
                 "response_tokens": 10 + k + int(drift * step), "ended": True, "quality": k + 0.5 * step,
                 "length_reward": 0.1 * k, "held_out": None}
                for k, text in enumerate(texts)
            ]  # fmt: skip
    write_lines(folder / "samples.jsonl", samples)
    return write_run(folder, rows, {"algorithm": "ppo", "reward": "runs/odin/model", "kl_coef": 0.1, **settings})


def reward_run(folder: Path, **settings: Any) -> Path:
    rows = [
        {"step": 10 * k, "loss": 0.7 - 0.1 * k, "ranking_loss": 0.7 - 0.1 * k, "accuracy": 0.5 + 0.1 * k,
         "quality_length_correlation": 0.3 / k, "length_length_correlation": None}
        for k in (1, 2, 3)
    ]  # fmt: skip
    rows.append({"step": 30, "eval_loss": 0.45, "eval_accuracy": 0.75, "eval_pearson": 0.125})
    return write_run(folder, rows, {"objective": "odin", "learning_rate": 1e-5, **settings})


def audit_file(folder: Path, name: str = "odin", pay_for_length: float = 0.0) -> Path:
    result = audit_preferences(simulated(pay_for_length=pay_for_length), bootstrap_samples=20).to_json()
    return write_json(folder / "audit.json", {**result, "name": name})


def outputs_file(path: Path, texts: dict[str, str], tokens: int = 7) -> Path:
    rows = [{"instruction": q, "output": a, "output_tokens": tokens, "generator": path.stem} for q, a in texts.items()]
    return write_json(path, rows)


def judged_folder(folder: Path, preferences: tuple[Any, ...] = (2.0, 2.0, 1.5, 1.0)) -> Path:
    rows = [
        {"instruction": f"q{k}", "output_1": "base", "output_2": "candidate answer", "generator_1": "sft",
         "generator_2": "ppo", "annotator": "fake-judge", "preference": value}
        for k, value in enumerate(preferences)
    ]  # fmt: skip
    write_json(folder / "annotations.json", rows)
    sides = {"candidate": {"generator": "ppo"}, "baseline": {"generator": "sft"}}
    content = {"judge": {"name": "fake-judge"}, **sides, "disagreement": 0.25, "first_place_preference": 0.625}
    write_json(folder / "judge.json", content)
    return folder


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 1, "high": value + 1, "standard_error": 0.5}


def win_rates_file(path: Path) -> Path:
    systems = [
        {"generator": name, "baseline": "sft", "n": 40, "win_rate": figure(60.0 + k), "win_score": figure(70.0 + k),
         "lc_win_rate": {"length_only": figure(55.0), "difficulty": None, "joint": figure(54.0)},
         "mean_tokens": figure(120.0), "mean_characters": figure(640.0)}
        for k, name in enumerate(("ppo", "remax"))
    ]  # fmt: skip
    tests = {"difference": figure(-1.0), "sign_test": 0.5, "permutation_test": 0.25, "bootstrap_test": 0.125}
    comparison = {"first": "ppo", "second": "remax", "n": 40, "win_rate": tests, "win_score": tests}
    return write_json(path, {"baseline": "sft", "systems": systems, "comparisons": [comparison]})


def sweep_folder(folder: Path) -> Path:
    rl_run(folder / "runs" / "a", kl_coef=0.1)
    rows = [
        {"name": "a", "status": "done", "varied": {"kl_coef": 0.1}, "folder": "runs/a", "seconds": 3.0, "error": None},
        {"name": "b", "status": "failed", "varied": {"kl_coef": 9.0}, "folder": "runs/b", "seconds": 1.0,
         "error": "odin-rm rl: error: --kl_coef: is too large"},
    ]  # fmt: skip
    write_json(folder / "sweep.json", {"command": "rl", "done": 1, "failed": 1, "waiting": 0, "runs": rows})
    return folder


def points_file(path: Path) -> Path:
    points = [
        {"name": f"{arm}-{k}", "arm": arm, "algorithm": "ppo", "settings": {"kl_coef": 0.1 * k},
         "length": {"value": 20.0 + 10 * k + shift},
         "score": {"value": 50.0 + 5 * k + shift, "low": 40.0, "high": 80.0}}
        for arm, shift in (("odin", 0.0), ("vanilla", 7.0))
        for k in (1, 2, 3)
    ]  # fmt: skip
    marks = [{"name": "start", "arm": "start", "length": {"value": 22.0}, "score": {"value": 50.0}}]
    return write_json(path, {"length": "mean response tokens", "score": "win score", "points": points, "marks": marks})


def pareto_file(path: Path) -> Path:
    """The points above with fronts, their bands and a comparison, as ``odin-rm pareto`` writes them."""
    points_file(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    grid = [25.0, 45.0]

    def arm(values: list[float | None]) -> dict[str, Any]:
        band = [{"length": x, **(figure(v) if v is not None else {"value": None, "low": None, "high": None})}
                for x, v in zip(grid, values, strict=True)]  # fmt: skip
        front = [{"name": "r", "length": 30.0, "score": 55.0}]
        return {"runs": 3, "front": front, "hypervolume": figure(12.5), "band": band, "matched": band[1:]}

    pair = {"first": "odin", "second": "vanilla", "hypervolume_difference": figure(2.5), "dominance": [None, 0.75],
            "matched": [{"length": 45.0, **figure(3.0), "dominance": 0.75}]}  # fmt: skip
    content |= {"grid": grid, "arms": {"odin": arm([None, 60.0]), "vanilla": arm([None, 57.0])}, "comparisons": [pair],
                "lengths": {"baseline sft": 33.0}, "y": "win_score", "length_unit": "tokens"}  # fmt: skip
    return write_json(path, content)
