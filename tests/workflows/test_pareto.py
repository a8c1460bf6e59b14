"""``odin-rm pareto`` from folders to files: by hand, against brute force, in any order, on real judgements."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, DataError, OutputError
from odin_rm.evaluation.bootstrap import PromptBootstrap
from odin_rm.evaluation.win_score import interval_levels
from odin_rm.workflows.pareto.run import ParetoConfig, run_pareto
from odin_rm.workflows.win_rate.run import WinRateConfig, run_win_rate
from tests.evaluation.made import ALPACA_EVAL, MADE, PROMPTS
from tests.evaluation.runs_kit import judge_folder, judged_rows, sweep_folder, training_run, write_csv

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca_eval_annotations"
HEADER = "name,arm,algorithm,mean_tokens,score,kl_coef,seed"
TABLE = [
    "a,vanilla,ppo,30,60,0.1,0", "b,vanilla,ppo,40,70,0.1,1", "c,vanilla,remax,50,65,0.2,0",
    "d,odin,ppo,20,65,0.1,0", "e,odin,remax,30,80,0.2,1", "f,odin,ppo,25,50,0.2,0",
]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> str:
    return str(write_csv(tmp_path / "runs.csv", HEADER, *TABLE))


def fronts(folder: Path, *runs: Any, figures: bool = False, **settings: Any) -> dict[str, Any]:
    """The content of ``pareto.json``; figures take most of the time and are drawn only where a test looks at them."""
    output = folder / "out"
    given = {"bootstrap_samples": 100, "grid": 7, "overwrite_output_dir": True} | settings
    config = ParetoConfig(output=str(output), runs=[str(run) for run in runs], **given)
    with nullcontext() if figures else mock.patch("odin_rm.workflows.pareto.run.make_figures", return_value={}):
        run_pareto(config)
    return json.loads((output / "pareto.json").read_text())


def test_a_table_by_hand(table, tmp_path):
    content = fronts(tmp_path, table, matched_length=[40, 35], reference_length=60, reference_score=50)
    vanilla, odin = content["arms"]["vanilla"], content["arms"]["odin"]
    assert [row["name"] for row in vanilla["front"]] == ["a", "b"]
    assert [row["name"] for row in odin["front"]] == ["d", "e"]
    # Above 50 points, up to 60 tokens: 10 tokens at 10 and 20 at 20; 10 at 15 and 30 at 30.
    assert vanilla["hypervolume"]["value"] == pytest.approx(10 * 10 + 20 * 20)
    assert odin["hypervolume"]["value"] == pytest.approx(10 * 15 + 30 * 30)
    assert [row["length"] for row in vanilla["matched"]] == [35, 40]
    assert [row["value"] for row in vanilla["matched"]] == [65, 70]  # half way between 60 and 70, then 70
    (pair,) = content["comparisons"]
    assert (pair["first"], pair["second"]) == ("vanilla", "odin")
    assert pair["hypervolume_difference"]["value"] == pytest.approx(500 - 1050)
    assert [row["value"] for row in pair["matched"]] == [65 - 80, 70 - 80]
    assert content["grid"][0] == 20
    assert content["grid"][-1] == 60
    assert pair["dominance"][0] == 0.0  # only the odin arm is so short
    assert content["resampled"]["unit"] == "runs"
    assert content["reference_point"] | {"length": 60, "score": 50} == content["reference_point"]
    assert content["points"][0]["settings"] == {"kl_coef": 0.1}
    assert (content["length"], content["score"], content["length_unit"]) == (
        "mean response tokens", "win score", "tokens"
    )  # fmt: skip


def test_the_files_of_a_table(table, tmp_path):
    content = fronts(tmp_path, table, figures=True, recipe=["main", "kl"])
    folder = tmp_path / "out"
    for name in ("pareto", "kl", "dominance"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (folder / f"{name}.svg").read_bytes()[:400]
        assert name in content["figures"]
    kl = json.loads((folder / "kl.json").read_text())
    assert [panel["arm"] for panel in kl["panels"]] == ["vanilla", "odin"]
    latex, markdown = (folder / "pareto.tex").read_text(), (folder / "pareto.md").read_text()
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 3
    assert "| vanilla | 3 | 2 | 30 to 40 | 70.0 |" in markdown
    assert "vanilla & 3 & 2 & 30 to 40 & 70.0 &" in latex
    fronts(tmp_path, table)
    assert not (folder / "kl.png").exists()  # of the fronts that were replaced


def test_judgements_resample_prompts_as_by_hand(tmp_path):
    folders = [judge_folder(tmp_path / f"odin-{k}", f"odin-{k}", k, words=15 + 4 * k, gain=0.3 * k) for k in range(3)]
    folders += [judge_folder(tmp_path / "vanilla-0", "vanilla-0", 9, words=21)]
    content = fronts(tmp_path, *folders, arm_pattern=r"^([a-z]+)-", matched_length=[22.5])
    assert content["resampled"] | {"unit": "prompts", "prompts": 24} == content["resampled"]
    assert (content["baseline"], content["judge"], content["length_unit"]) == ("sft", "judge", "words")
    # Resamples are drawn over the prompts in the order of their digests, the same ones for all runs.
    rows = {k: judged_rows(f"odin-{k}", k, words=15 + 4 * k, gain=0.3 * k) for k in range(3)}
    point = content["points"][1]
    wins = np.array([50 + 100 * np.sign(row["preference"] - 1.5) for row in rows[1]])
    assert point["score"]["value"] == pytest.approx(wins.mean())
    weights = np.concatenate(list(PromptBootstrap(np.arange(24), 100, 0).blocks())) / 24
    digests = sorted(range(24), key=lambda k: digest(rows[1][k]["instruction"]))
    low, high = np.quantile(weights @ wins[digests], interval_levels(24))
    assert (point["score"]["low"], point["score"]["high"]) == pytest.approx((low, high))
    baseline = np.mean([len(row["output_1"].split()) for row in rows[0]])
    assert content["lengths"] == {"baseline sft": pytest.approx(baseline)}
    gap = content["comparisons"][0]["matched"][0]
    assert gap["low"] < gap["value"] < gap["high"]
    assert 0 <= gap["dominance"] <= 1


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_neither_the_order_of_runs_nor_of_rows_changes_anything(tmp_path):
    folders = [judge_folder(tmp_path / f"{arm}-{k}", f"{arm}-{k}", k + 5 * (arm == "b"), words=15 + 3 * k)
               for arm in "ab" for k in range(2)]  # fmt: skip
    how = {"arm_pattern": "^(.)", "only": ["a", "b"], "matched_length": [19]}
    one = fronts(tmp_path, *folders, **how)
    for folder in folders:
        path = folder / "annotations.json"
        path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
    other = fronts(tmp_path, *folders[::-1], **how)
    assert one["grid"] == other["grid"]
    for name in "ab":
        assert one["arms"][name]["hypervolume"] == pytest.approx(other["arms"][name]["hypervolume"])
        assert one["arms"][name]["matched"][0] == pytest.approx(other["arms"][name]["matched"][0])
        assert one["arms"][name]["front"] == other["arms"][name]["front"]
    assert one["comparisons"][0]["dominance"] == other["comparisons"][0]["dominance"]


def test_win_rates_by_prompt_give_the_fronts_of_their_annotations(tmp_path):
    folders = [str(judge_folder(tmp_path / name, name, k, words=15 + k)) for k, name in enumerate("abc")]
    rates = tmp_path / "rates.json"
    run_win_rate(WinRateConfig(folders, str(rates), bootstrap_samples=20, per_prompt=True))
    one, other = fronts(tmp_path, *folders), fronts(tmp_path, rates)
    assert one["arms"] == other["arms"]
    assert one["resampled"] == other["resampled"]


def test_training_runs_and_judgements_of_them(tmp_path):
    runs = {f"{reward}_{kl}": {"tokens": [30.0], "quality": [1.0], "kl_coef": kl, "reward": f"runs/{reward}/model"}
            for reward in ("odin", "vanilla") for kl in (0.1, 0.2)}  # fmt: skip
    sweep = sweep_folder(tmp_path / "sweep", runs)
    judged = [judge_folder(tmp_path / "judged" / name, name, k, words=14 + k) for k, name in enumerate(runs)]
    content = fronts(tmp_path, sweep, *judged, arm=["reward"], recipe=["main", "kl"])
    assert list(content["arms"]) == ["odin", "vanilla"]
    assert content["resampled"]["unit"] == "prompts"
    assert {p["algorithm"] for p in content["points"]} == {"ppo"}
    assert content["left_out"] == {"runs of a sweep that are failed": 1}
    quality = fronts(tmp_path, sweep / "runs" / "odin*", y="quality", arm=["kl_coef"])
    assert list(quality["arms"]) == ["0.1", "0.2"]
    assert (quality["judge"], quality["resampled"]["unit"]) == ("odin", "runs")


def test_seeds_are_drawn_together(table, tmp_path):
    by_seed = fronts(tmp_path, table, resample="seeds")
    assert by_seed["resampled"]["unit"] == "seeds"
    # An arm and its copy, run by run with the same seeds: nothing is left of the difference.
    copies = [row.replace("odin", "twin").replace(",", "2,", 1) for row in TABLE if "odin" in row]
    twins = write_csv(tmp_path / "twins.csv", HEADER, *copies)
    for resample, width in (("seeds", 0.0), ("runs", 100.0)):
        content = fronts(tmp_path, table, twins, only=["odin", "twin"], resample=resample)
        gap = content["comparisons"][0]["hypervolume_difference"]
        assert gap["value"] == 0
        assert (gap["high"] - gap["low"] > width) == (resample == "runs")
    write_csv(Path(table), "arm,tokens,score", "a,1,2", "a,2,3")
    with pytest.raises(DataError, match="has no seed"):
        fronts(tmp_path, table, resample="seeds")
    with pytest.raises(DataError, match="not every run is known prompt by prompt"):
        fronts(tmp_path, table, resample="prompts")


def test_marks_stand_aside_and_only_chooses(table, tmp_path):
    content = fronts(tmp_path, table, mark=["vanilla"])
    assert list(content["arms"]) == ["odin"]
    assert [mark["name"] for mark in content["marks"]] == ["a", "b", "c"]
    assert "comparisons: there is one arm" in content["not_computed"]
    assert list(fronts(tmp_path, table, only=["odin", "vanilla"])["arms"]) == ["odin", "vanilla"]
    for flag in ("only", "mark"):
        with pytest.raises(ConfigError, match=rf"--{flag}: there is no arm 'x'. Arms are: vanilla, odin"):
            fronts(tmp_path, table, **{flag: ["x"]})
    with pytest.raises(DataError, match="every arm is a mark"):
        fronts(tmp_path, table, mark=["vanilla", "odin"])


def test_a_front_of_one_point_works_and_says_what_it_lacks(tmp_path):
    path = write_csv(tmp_path / "one.csv", "arm,tokens,score", "a,10,50")
    content = fronts(tmp_path, path)
    assert content["arms"]["a"]["hypervolume"]["value"] is None
    assert content["arms"]["a"]["band"][0]["value"] == 50
    said = " ".join(content["not_computed"])
    for words in ("same length", "front of one run", "needs two of them: a", "there is one arm"):
        assert words in said
    alone = fronts(tmp_path, judge_folder(tmp_path / "judged", "a"))
    assert alone["arms"]["a"]["matched"][0]["low"] is not None  # prompts can be resampled for one run too


def test_prompts_without_a_preference_are_left_out_for_every_run(tmp_path):
    rows = judged_rows("a", 0)
    rows[5]["preference"] = None
    (tmp_path / "a.json").write_text(json.dumps(rows))
    other = judge_folder(tmp_path / "b", "b", 1)
    content = fronts(tmp_path, tmp_path / "a.json", other, on_bad_row="skip")
    assert content["resampled"]["prompts"] == 23
    assert content["left_out"] == {"has no preference": 1, "prompts without a preference for every run": 1}


def test_heads_of_scored_rows_and_of_an_audit(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, 60)
    rows = [
        {"prompt": f"p{k % 20}", "response": "x", "response_tokens": int(n), "quality": float(rng.normal()),
         "length_reward": float(n + rng.normal())}
        for k, n in enumerate(tokens)
    ]  # fmt: skip
    (tmp_path / "odin.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out"
    config = ParetoConfig(output=str(output), recipe=["heads"], scored=[str(tmp_path / "odin.jsonl")])
    assert run_pareto(config) == {}
    panels = json.loads((output / "heads.json").read_text())["panels"]
    assert [(panel["model"], panel["head"], panel["responses"]) for panel in panels] == [
        ("odin", "quality", 60), ("odin", "length", 60)
    ]  # fmt: skip
    quality = np.corrcoef(tokens, [row["quality"] for row in rows])[0, 1]
    assert panels[0]["pearson"]["value"] == pytest.approx(quality)
    assert panels[1]["pearson"]["low"] > 0.95
    assert (output / "heads.svg").exists()
    assert not (output / "pareto.json").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"recipe": ["kl2"]}, "--recipe: is 'kl2'"),
        ({"recipe": ["heads"]}, "--recipe heads: needs --scored"),
        ({"scored": ["a"]}, "--scored: needs --recipe heads"),
        ({"runs": []}, "--runs: names no run"),
        ({"arm": ["a"], "arm_pattern": "b"}, "are given both"),
        ({"arm_pattern": "("}, "no regular expression"),
        ({"grid": 1}, "it is 1"),
        ({"bootstrap_samples": 1}, "it is 1"),
        ({"matched_length": [-1.0]}, "not above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ConfigError) as error:
        ParetoConfig(**({"output": "out", "runs": ["runs.csv"]} | settings))
    assert said in str(error.value)


def test_folders_that_hold_something_else_are_left_alone(table, tmp_path):
    fronts(tmp_path, table)
    with pytest.raises(OutputError, match="already holds fronts"):
        fronts(tmp_path, table, overwrite_output_dir=False)
    training_run(tmp_path / "run", [1.0], [1.0])
    with pytest.raises(OutputError, match="did not write there"):
        run_pareto(ParetoConfig(output=str(tmp_path / "run"), runs=[table]))
    (tmp_path / "run" / ".odin-rm.json").write_text('{"command": "rl"}')
    with pytest.raises(OutputError, match="holds another run"):
        run_pareto(ParetoConfig(output=str(tmp_path / "run"), runs=[table], overwrite_output_dir=True))


def test_on_annotations_of_our_own(tmp_path):
    content = fronts(tmp_path, MADE, x="characters", bootstrap_samples=50)
    assert content["resampled"]["prompts"] == PROMPTS
    shown = {point["name"]: point["score"]["value"] for point in content["points"]}
    expected = {name: 50 + 100 * (wins - losses) / PROMPTS for name, (_, _, wins, losses) in ALPACA_EVAL.items()}
    assert shown == pytest.approx(expected)
    lengths = {point["name"]: point["length"]["value"] for point in content["points"]}
    assert lengths["terse"] < lengths["plain"] < lengths["wordy"]
    rates = fronts(tmp_path, MADE, x="characters", y="win_rate", bootstrap_samples=20)
    shown = {point["name"]: point["score"]["value"] for point in rates["points"]}
    assert shown == pytest.approx({name: figures[0] for name, figures in ALPACA_EVAL.items()}, abs=1e-3)


def test_on_the_public_annotation_files(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"the public annotation files are not in {REAL.name}")
    content = fronts(tmp_path, REAL, x="characters", bootstrap_samples=200)
    assert len(content["arms"]) == 6
    assert content["resampled"]["prompts"] == 805
    points = {point["name"]: point for point in content["points"]}
    assert points["claude-2"]["score"]["value"] == pytest.approx(50 + 100 * (131 - 673) / 805)
    # Characters on the leaderboard, without their decimals.
    lengths = {name: int(point["length"]["value"]) for name, point in points.items()}
    assert (lengths["claude-2"], lengths["FuseChat-Gemma-2-9B-Instruct"], lengths["gpt4_gamed"]) == (1069, 2155, 68)
    rates = fronts(tmp_path, REAL, x="characters", y="win_rate", bootstrap_samples=20)
    shown = {point["name"]: point["score"]["value"] for point in rates["points"]}
    assert shown["alpaca-7b"] == pytest.approx(2.5915, abs=1e-3)  # win rate on the leaderboard
    # In every resample the answers that were cut after a few words are the shortest, and claude-2 scores more.
    pair = next(c for c in content["comparisons"] if (c["first"], c["second"]) == ("claude-2", "gpt4_gamed"))
    assert pair["dominance"][1] == 0.0
    assert pair["dominance"][-1] == 1.0
