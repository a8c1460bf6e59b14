"""Runs from anywhere: what each place knows, how it comes together, which arm, and what must not be mixed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.evaluation.records import Figure
from odin_rm.results.contents import HOLDERS, kind_of_folder
from odin_rm.results.reader import Reader
from odin_rm.results.run_records import (
    RunRecord,
    arm_of,
    as_point,
    bring_together,
    on_shared_prompts,
    refuse_mixture,
    reward_arm,
)
from odin_rm.results.runs import START, ReadOptions, read_run_records
from odin_rm.workflows.win_rate.run import WinRateConfig, run_win_rate
from tests.evaluation.runs_kit import judge_folder, judged_rows, sweep_folder, training_run, write_csv


def read(*places: Path | str, length: str = "tokens", score: str = "win_score", **options) -> list[RunRecord]:
    return read_run_records([str(p) for p in places], ReadOptions(length, score, **options)).records


# ---- what each place knows -------------------------------------------------------------------------------------------


def test_judgements_prompt_by_prompt(tmp_path):
    (record,) = read(judge_folder(tmp_path / "judged", "odin"))
    rows = judged_rows("odin", 0)
    preference = np.array([row["preference"] for row in rows])
    assert (record.name, record.baseline, record.judge, record.n) == ("odin", "sft", "judge", 24)
    assert record.scores["win_score"].value == pytest.approx(50 + 100 * np.sign(preference - 1.5).mean())
    assert record.scores["win_rate"].value == pytest.approx(100 * (preference - 1).mean())
    assert record.lengths["tokens"].value == np.mean([len(row["output_2"].split()) for row in rows])
    assert record.lengths["characters"].value == np.mean([len(row["output_2"]) for row in rows])
    assert record.baseline_lengths["tokens"] == np.mean([len(row["output_1"].split()) for row in rows])
    assert record.token_unit == "words"


def test_annotation_files_alone_and_in_a_folder(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps(judged_rows(name, 0)))
    assert [r.name for r in read(tmp_path)] == [r.name for r in read(tmp_path / "a.json", tmp_path / "b.json")]
    assert [r.name for r in read(tmp_path / "[ab].json")] == ["a", "b"]


def test_win_rates_hold_what_annotations_held(tmp_path):
    files = [str(judge_folder(tmp_path / name, name, k)) for k, name in enumerate("ab")]
    settings = {"bootstrap_samples": 20, "overwrite_output": True}
    run_win_rate(WinRateConfig(files, str(tmp_path / "rates.json"), per_prompt=True, **settings))
    ours, theirs = read(*files), read(tmp_path / "rates.json")
    assert [r.name for r in theirs] == ["a", "b"]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.baseline, one.judge, one.prompt_set, one.n) == (
            other.baseline, other.judge, other.prompt_set, other.n
        )  # fmt: skip
        # The same prompts in another order.
        there = other.per_prompt.only(one.per_prompt.prompts)
        np.testing.assert_allclose(there.preference_P, one.per_prompt.preference_P)
        np.testing.assert_allclose(there.lengths["tokens"], one.per_prompt.lengths["tokens"])
        assert one.scores["win_score"].value == pytest.approx(other.scores["win_score"].value)
    run_win_rate(WinRateConfig(files, str(tmp_path / "rates.json"), **settings))
    means = read(tmp_path / "rates.json")
    assert means[0].per_prompt is None
    assert means[0].scores["win_score"].low < means[0].scores["win_score"].value < means[0].scores["win_score"].high


def test_a_training_run_is_the_mean_of_its_last_tenth(tmp_path):
    run = training_run(tmp_path / "run", list(range(20)), [k / 10 for k in range(20)], kl_coef=0.1, seed=3)
    (record,) = read(run, score="quality")
    assert (record.lengths["tokens"].value, record.scores["quality"].value) == pytest.approx((18.5, 1.85))
    assert (record.name, record.algorithm, record.seed, record.settings["kl_coef"]) == ("run", "ppo", 3, 0.1)
    assert record.token_unit == "tokens"
    # On the testbed the truth is known besides.
    measured = {"mean_tokens": 31.5, "true_quality": 0.8, "win_score": 77.0}
    (run / "result.json").write_text(json.dumps({"measured": measured}))
    (record,) = read(run, score="win_score")
    assert record.lengths["tokens"].value == 31.5
    assert (record.scores["win_score"].value, record.scores["true_quality"].value) == (77.0, 0.8)
    assert record.baseline == START


def test_a_sweep_gives_the_runs_that_are_done(tmp_path):
    sweep = sweep_folder(
        tmp_path / "s", {f"kl={kl}": {"tokens": [9.0], "quality": [kl], "kl_coef": kl} for kl in (1, 2)}
    )
    found = read_run_records([str(sweep)], ReadOptions(score="quality"))
    assert [(r.name, r.settings["kl_coef"]) for r in found.records] == [("kl=1", 1), ("kl=2", 2)]
    assert dict(found.left_out) == {"runs of a sweep that are failed": 1}


def test_an_experiment_of_the_testbed(tmp_path):
    runs = [
        {
            "reward_model": "vanilla", "algorithm": "remax",
            "mean_tokens": 40.0, "true_quality": 0.7, "win_score": 60.0,
            "settings": {"kl_coef": 0.1, "length_penalty": 0.02, "seed": 1},
        },
        {
            "name": "x", "arm": "odin", "algorithm": "ppo", "mean_tokens": 30.0, "true_quality": 0.9, "win_score": 80.0,
            "intervals": {n: {"value": v, "low": v - 1, "high": v + 1} for n, v in
                          (("mean_tokens", 30.0), ("true_quality", 0.9), ("win_score", 80.0))},
        },
    ]  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps({"runs": runs}))
    first, second = read(tmp_path)
    assert (first.arm, first.seed, first.scores["true_quality"].value) == ("vanilla + penalty 0.02", 1, 0.7)
    assert (second.name, second.arm) == ("x", "odin")
    assert second.scores["win_score"] == Figure(80.0, 79.0, 81.0)


def test_a_table_with_everything(tmp_path):
    header = "name,arm,algorithm,mean_tokens,win_score,win_score_low,win_score_high,n,seed,kl_coef,baseline,judge"
    path = write_csv(
        tmp_path / "t.csv", header, "a,odin,ppo,100.5,60,55,66,300,2,0.01,sft,gpt", "b,odin,,120,61,,,,,,,"
    )
    first, second = read(path)
    assert first == RunRecord(
        "a", f"{path}, row 1", "odin", "ppo", 2, 300, {"kl_coef": 0.01}, {"tokens": Figure(100.5)},
        scores={"win_score": Figure(60.0, 55.0, 66.0)}, baseline="sft", judge="gpt",
    )  # fmt: skip
    assert (second.seed, second.settings, second.scores["win_score"]) == (None, {}, Figure(61.0))


def test_a_table_with_the_least(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"arm": "a", "length": 10, "score": 5, "settings": {"kl_coef": 1}}, {"arm": "a", "length": 12, "score": 6}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read(path, length="characters", score="win_rate")
    assert (first.name, second.name) == ("a 1", "a 2")
    assert (first.lengths, first.scores) == ({"characters": Figure(10.0)}, {"win_rate": Figure(5.0)})
    assert first.settings == {"kl_coef": 1}


def test_standard_errors_of_a_table_become_intervals_and_a_leaderboard_is_read_as_it_is(tmp_path):
    path = write_csv(
        tmp_path / "board.csv", ",win_rate,avg_length,n_total", "gpt,50.0,2049,805", "claude,40.1,1800,805"
    )
    first, second = read(path, length="characters", score="win_rate")
    assert (first.name, first.n, first.lengths["characters"].value) == ("gpt", 805, 2049)
    path = write_csv(tmp_path / "t.csv", "arm,tokens,score,score_standard_error", "a,10,50,2")
    (record,) = read(path)
    assert (record.scores["win_score"].low, record.scores["win_score"].high) == pytest.approx((46.08, 53.92), abs=1e-3)


# ---- one record per run ----------------------------------------------------------------------------------------------


def test_settings_of_a_run_join_its_judgements_by_name(tmp_path):
    judged = judge_folder(tmp_path / "judged", "run_1")
    run = training_run(tmp_path / "run_1", [50.0], [1.0], kl_coef=0.3)
    table = write_csv(tmp_path / "t.csv", "name,arm,tokens,batch", "run_1,mine,,32")
    (record,) = bring_together(read(judged, run, table), "tokens", "win_score")
    assert (record.algorithm, record.settings["kl_coef"], record.settings["batch"]) == ("ppo", 0.3, 32)
    assert record.lengths["tokens"].value < 30  # of the answers that were judged
    assert arm_of(record) == "odin"


def test_runs_of_one_name_take_the_name_of_their_folder(tmp_path):
    folders = [judge_folder(tmp_path / f"seed_{k}", "policy", k) for k in range(2)]
    runs = bring_together(read(*folders), "tokens", "win_score")
    assert [run.name for run in runs] == ["seed_0/policy", "seed_1/policy"]


def test_what_lacks_a_score_or_a_length_is_refused_and_says_what_it_has(tmp_path):
    run = training_run(tmp_path / "run", [50.0], [1.0])
    with pytest.raises(DataError, match=r"no win_score \(scores it has: quality\).*Or pass --y quality"):
        bring_together(read(run), "tokens", "win_score")
    with pytest.raises(DataError, match=r"no mean length in characters \(it has tokens\).*--x tokens"):
        bring_together(read(run), "characters", "quality")
    with pytest.raises(DataError, match="there is no run"):
        bring_together([], "tokens", "quality")


# ---- arms ------------------------------------------------------------------------------------------------------------


def record(name: str = "run_7", **fields) -> RunRecord:
    return RunRecord(name, fields.pop("where", "runs/odin_seed_1"), **fields)


@pytest.mark.parametrize(
    ("settings", "arm"),
    [
        ({"reward": "runs/odin/model"}, "odin"),
        ({"reward": "gold", "reward_clip": math.inf, "length_penalty": 0.0}, "gold"),
        ({"reward": "a/vanilla", "reward_clip": 2, "length_penalty": 0.001}, "vanilla + clip 2 + penalty 0.001"),
        ({"reward_model": "odin", "reward_clip": "4"}, "odin + clip 4"),
        ({"kl_coef": 1}, ""),
    ],
)
def test_the_arm_of_a_training_run_is_its_reward_with_mitigations(settings, arm):
    assert reward_arm(settings) == arm
    assert arm_of(record(settings=settings)) == arm or (arm == "" and arm_of(record(settings=settings)) == "run_7")


def test_arms_by_fields_and_by_pattern():
    one = record(settings={"reward": "runs/odin/model", "kl_coef": 0.1}, algorithm="ppo", arm="said")
    assert arm_of(one) == "said"
    assert arm_of(one, ["reward", "algorithm", "kl_coef"]) == "odin, ppo, 0.1"
    assert arm_of(one, pattern=r"odin|vanilla") == "odin"
    assert arm_of(one, pattern=r"(\w+)_seed") == "odin"
    with pytest.raises(ConfigError, match=r"run 'run_7' .* has no 'klcoef'. Known there: algorithm, arm, kl_coef"):
        arm_of(one, ["klcoef"])
    with pytest.raises(ConfigError, match="not found"):
        arm_of(one, pattern="vanilla")


# ---- what must not be mixed ------------------------------------------------------------------------------------------


def refused(first: RunRecord, second: RunRecord, score: str = "win_score", prompts="same") -> str:
    with pytest.raises(DataError) as error:
        refuse_mixture([first, second], "tokens", score, prompts)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"baseline": "gpt"}, "the baseline is 'gpt', but 'sft' in a"),
        ({"judge": "claude"}, "the judge is 'claude', but 'gpt-4' in a"),
        ({"judge_settings": {"template": "b"}}, "the judge has another template than in a"),
        ({"token_unit": "words"}, "lengths are in 'words', but 'tokens' in a"),
        ({"prompt_set": "2"}, "judged on other prompts than a"),
    ],
)
def test_different_baselines_judges_units_and_prompts_are_refused(change, said):
    first = RunRecord("a", "a", baseline="sft", judge="gpt-4", judge_settings={"template": "a"}, prompt_set="1")
    refuse_mixture([first, replace(first, name="b")], "tokens", "win_score", "same")
    assert said in refused(first, replace(first, name="b", where="b", **change))


def test_rewards_of_different_models_have_no_common_unit():
    first = RunRecord("a", "a", settings={"reward": "odin"})
    other = RunRecord("b", "b", settings={"reward": "vanilla"})
    assert "no common unit" in refused(first, other, "quality")
    refuse_mixture([first, other], "tokens", "true_quality", "same")


def test_a_baseline_with_two_answers_is_refused(tmp_path):
    one, other = judge_folder(tmp_path / "a", "a"), judge_folder(tmp_path / "b", "b", output_1="something else")
    assert "gives other answers than in" in refused(*read(one, other))


def test_other_prompts_are_counted_or_left_out(tmp_path):
    records = read(judge_folder(tmp_path / "a", "a"), judge_folder(tmp_path / "b", "b", n=20))
    said = refused(*records)
    assert "(0 only here, 4 only there)" in said
    assert "--prompts shared" in said
    refuse_mixture(records, "tokens", "win_score", "shared")
    shared = on_shared_prompts(records)
    assert [r.n for r in shared] == [20, 20]
    assert shared[0].per_prompt.prompts == shared[1].per_prompt.prompts
    preference = np.array([row["preference"] for row in judged_rows("a", 0)[:20]])
    assert shared[0].scores["win_rate"].value == pytest.approx(100 * (preference - 1).mean())


def test_no_shared_prompt_is_refused(tmp_path):
    records = read(judge_folder(tmp_path / "a", "a"), judge_folder(tmp_path / "b", "b"))
    alone = replace(records[1], per_prompt=records[1].per_prompt.only(records[1].per_prompt.prompts[:1]))
    other = replace(records[0], per_prompt=records[0].per_prompt.only(records[0].per_prompt.prompts[1:]))
    with pytest.raises(DataError, match="no prompt is judged for all runs"):
        on_shared_prompts([alone, other])


# ---- bad places ------------------------------------------------------------------------------------------------------


def bad_places(folder: Path) -> dict[str, Path | str]:
    (folder / "empty").mkdir()
    stopped = folder / "stopped"
    stopped.mkdir()
    (stopped / "cache.sqlite").write_bytes(b"")
    gone = sweep_folder(folder / "gone", {})
    rows = [{"name": "a", "status": "done", "folder": "runs/a"}]
    (gone / "sweep.json").write_text(json.dumps({"runs": [row | {"varied": {}} for row in rows]}))
    foreign = sweep_folder(folder / "foreign", {})
    (foreign / "sweep.json").write_text(json.dumps({"runs": rows}))
    (folder / "rates.json").write_text('{"systems": [1]}')
    (folder / "other.json").write_text('{"a": 1}')
    (folder / "cut.json").write_text('{"runs": [')
    return {
        "no such file": folder / "none.csv",
        "matches nothing": folder / "none*",
        "the folder holds no run": folder / "empty",
        "the judgements are not complete": stopped,
        "the folder of a run that is done is missing": gone,
        "sweep.json: is not what odin-rm writes (KeyError: 'varied')": foreign,
        "rates.json: is not what odin-rm writes": folder / "rates.json",
        "holds no run": folder / "other.json",
        "is not valid JSON": folder / "cut.json",
        "row 1: names neither a run nor its arm": write_csv(folder / "a.csv", "tokens,score", "1,2"),
        "row 2: 'tokens' is 'many', not a number": write_csv(folder / "b.csv", "arm,tokens,score", "a,1,2", "a,many,2"),
        "row 1: 'seed' is 1.5, not a whole number": write_csv(folder / "c.csv", "arm,tokens,score,seed", "a,1,2,1.5"),
        "row 1: has neither a mean length nor a score": write_csv(folder / "d.csv", "arm,speed", "a,1"),
    }


def test_places_without_usable_runs_are_refused(tmp_path):
    for said, place in bad_places(tmp_path).items():
        with pytest.raises(DataError) as error:
            read(place)
        assert said in str(error.value), said


def test_a_place_given_twice_and_a_missing_preference_are_refused(tmp_path):
    folder = judge_folder(tmp_path / "a", "a")
    with pytest.raises(DataError, match="given twice"):
        read(folder, tmp_path / "*")
    rows = judged_rows("b", 0)
    rows[3]["preference"] = None
    (tmp_path / "b.json").write_text(json.dumps(rows))
    with pytest.raises(RowError, match="has no preference"):
        read(tmp_path / "b.json")
    (held,) = read(tmp_path / "b.json", on_bad_row="skip")
    assert (len(held.per_prompt.prompts), len(held.per_prompt.judged)) == (23, 24)


def test_a_run_that_failed_is_no_point():
    failed = RunRecord("a", "a", lengths={"tokens": Figure(float("nan"))}, scores={"win_score": Figure(1.0)})
    with pytest.raises(DataError, match="tokens of the run is not a number"):
        as_point(failed, "a", "tokens", "win_score")


# ---- one reader for every command ------------------------------------------------------------------------------------


def test_a_log_whose_last_line_is_cut_off_is_read_up_to_there(tmp_path):
    place = training_run(tmp_path / "run", [10.0, 20.0], [0.1, 0.2])
    with (place / "metrics.jsonl").open("a") as log:
        log.write('{"step": 2, "mean_resp')
    found = read_run_records([str(place)], ReadOptions())
    assert found.records[0].lengths["tokens"].value == 20.0
    assert found.left_out == {"last lines of logs that are cut off": 1}


def test_pareto_and_report_call_the_arm_of_a_run_alike(tmp_path):
    given = {"a": {"tokens": [9.0], "quality": [0.1], "reward_clip": 4.0}, "b": {"tokens": [8.0], "quality": [0.2]}}
    place = sweep_folder(tmp_path / "sweep", given)
    records = read_run_records([str(place)], ReadOptions()).records
    (sweep,) = Reader().read(place, "sweep")
    assert [point.arm for point in sweep.points] == [record.arm for record in records] == ["odin + clip 4", "odin"]
    assert [point.mean_length for point in sweep.points] == [9.0, 8.0]


def test_a_report_reads_an_evaluation_with_its_judgements_and_win_rates(tmp_path):
    folder = tmp_path / "evaluated"
    judge_folder(folder / "judged" / "ppo", "ppo", n=3)
    runs = [
        {"name": "ppo", "status": "done", "judged": "judged/ppo", "settings": {"seed": 1}},
        {"name": "remax", "status": "failed", "judged": "", "settings": {}},
    ]
    (folder / "evaluation.json").write_text(json.dumps({"runs": runs}))
    (folder / "win_rates.json").write_text(json.dumps({"systems": [{"generator": "ppo", "win_rate": 40.0}]}))
    reader = Reader()
    judged, rates, _ = reader.read(folder, "all")
    assert (judged.name, len(judged.pairs), judged.candidate) == ("ppo", 3, "ppo")
    assert rates.systems == [{"generator": "ppo", "win_rate": 40.0}]
    assert reader.notes == ["all: remax is failed."]
    (record,) = read_run_records([str(folder)], ReadOptions()).records
    assert (record.name, record.seed, record.n) == ("ppo", 1, 3)


@pytest.mark.parametrize("kind", list(HOLDERS))
def test_both_readers_know_a_folder_by_the_same_files(tmp_path, kind):
    for number, name in enumerate(HOLDERS[kind]):
        place = tmp_path / str(number)
        place.mkdir()
        (place / (name if "." in name else f"{name}.jsonl")).write_text("{}")
        (place / "config.yaml").write_text("{}")
        assert kind_of_folder(place) == kind
