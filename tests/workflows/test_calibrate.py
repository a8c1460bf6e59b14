"""``odin-rm calibrate`` on a trained tiny model: the file, every command that applies it, folding, stored scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError, DataError, OutputError
from odin_rm.core.files import RowWriter, read_rows
from odin_rm.evaluation.association import pearson_within_prompt
from odin_rm.judging.scored import RewardModelJudge, RewardModelSettings
from odin_rm.model.scoring import load_scorer, score_texts
from odin_rm.reward.config import RewardConfig
from odin_rm.rl.sources.model import ModelSource
from odin_rm.testbed.annotator import Annotator, make_preferences
from odin_rm.testbed.phrases import FILLERS
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World, WorldSettings
from odin_rm.workflows.calibrate.config import CalibrateConfig
from odin_rm.workflows.calibrate.run import run_calibrate
from odin_rm.workflows.reward.run import train_reward_model


def write(path: Path, rows) -> str:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    """A vanilla model that pays for length, its data, and verbosity twins of the testbed."""
    folder = tmp_path_factory.mktemp("dial")
    world = World(WorldSettings())
    annotator = Annotator(world)
    train = write(folder / "train.jsonl", make_preferences(world, annotator, 200, 0))
    rows = make_preferences(world, annotator, 120, 1, split="test")
    dataset = write(folder / "eval.jsonl", rows)
    twins = []
    for k, row in enumerate(rows):
        filler = "".join(f" {FILLERS[(k + i) % len(FILLERS)]}" for i in range(1 + k % 4))
        twins.append({"prompt": row["prompt"], "shorter": row["chosen"], "longer": row["chosen"] + filler})
    model = save_tiny_model(folder / "base", 0, hidden=32, layers=1, heads=2)
    config = RewardConfig(
        output_dir=str(folder / "run"), model=str(model), dataset=train, objective="bradley_terry", batch_pairs=32,
        learning_rate=3e-3, num_train_epochs=6, cache_dir=str(folder / "cache"), use_cpu=True, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    run = train_reward_model(config)
    return {"model": str(run / "model"), "eval": dataset, "twins": write(folder / "twins.jsonl", twins), "train": train,
            "base": str(model)}  # fmt: skip


@pytest.fixture
def model(made, tmp_path) -> Path:
    shutil.copytree(made["model"], tmp_path / "model")
    return tmp_path / "model"


def calibrate(made, model, **settings):
    options = {"dataset": made["eval"], "bootstrap_samples": 50, **settings}
    return next(iter(run_calibrate(CalibrateConfig(model=str(model), **options)).values()))


def longer_wins(scorer, rows) -> float:
    prompts = [row["prompt"] for row in rows]
    sides = [score_texts(scorer, prompts, [row[name] for row in rows])[0] for name in ("shorter", "longer")]
    return float((0.5 * (np.sign(sides[1] - sides[0]) + 1)).mean())


def test_twins_are_won_half_after_it_and_the_file_says_all(made, model):
    rows = [row for _, row in read_rows(made["twins"])]
    assert longer_wins(load_scorer(model), rows) > 0.75
    content = calibrate(made, model, anchor="twins", twins=made["twins"])
    stored = json.loads((model / "calibration.json").read_text())
    assert stored == json.loads(json.dumps(content))
    assert {"curve", "kappa", "anchor", "range", "model", "fitted_on", "held_out", "warnings"} <= set(stored)
    assert stored["kappa"]["low"] <= stored["kappa"]["value"] <= stored["kappa"]["high"]
    assert stored["fitted_on"]["pairs"] == 120
    assert longer_wins(load_scorer(model), rows) == pytest.approx(0.5, abs=1 / 120)
    figures = stored["held_out"]["methods"]
    assert figures["dial"]["more_wins"]["all"]["value"] == pytest.approx(0.5, abs=0.1)
    assert set(figures) == {"none", "dial", "zero", "loess", "penalty"}
    assert {"within", "pooled", "bits", "bits_change", "accuracy", "flips_sign"} <= set(figures["dial"])


def test_zero_is_what_the_audit_then_measures(made, model, tmp_path):
    calibrate(made, model, anchor="zero")
    audits = {}
    for name, flags in (("with", []), ("without", ["--calibration", "none"])):
        out = tmp_path / name
        done = main(["audit", "--model", str(model), "--dataset", made["eval"], "--output", str(out),
                     "--bootstrap_samples", "20", *flags])  # fmt: skip
        assert done == 0
        audits[name] = json.loads((out / "audit.json").read_text())
    assert audits["without"]["pearson_within_prompt"]["value"] > 0.3
    # A pair of a prompt whose texts are longer than the window is in neither.
    assert audits["with"]["pearson_within_prompt"]["value"] == pytest.approx(0, abs=1e-6)
    assert audits["with"]["data_report"]["calibration"]["kappa"] == 1
    assert "calibration" not in audits["without"]["data_report"]


def test_every_command_that_scores_applies_it_by_value(made, model, tmp_path, capsys):
    calibrate(made, model, anchor="zero", output=str(tmp_path / "elsewhere"))
    file = tmp_path / "elsewhere" / "calibration.json"
    rows = [row for _, row in read_rows(made["eval"])][:20]
    prompts, responses = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    plain = score_texts(load_scorer(model), prompts, responses)[0]
    shutil.copy(file, model / "calibration.json")
    wanted = score_texts(load_scorer(model), prompts, responses)[0]
    assert np.abs(wanted - plain).max() > 0.05
    # score, with the model's own beside it
    source = write(
        tmp_path / "in.jsonl", [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True)]
    )
    assert main(["score", "--model", str(model), "--input", source, "--output", str(tmp_path / "out.jsonl")]) == 0
    scored = [row for _, row in read_rows(tmp_path / "out.jsonl")]
    assert [row["quality"] for row in scored] == pytest.approx(wanted, abs=1e-5)
    assert [row["quality_uncalibrated"] for row in scored] == pytest.approx(plain, abs=1e-5)
    # rl, by value and by the statistics that rewards are standardised with
    from odin_rm.rl.records import RewardRequest

    rewards = ModelSource.load(str(model), device="cpu", microbatch_tokens=4096)
    request = RewardRequest(prompts, responses, response_ids=[[1]] * 20, response_tokens=np.ones(20, dtype=int))
    assert rewards.judge(request).quality == pytest.approx(wanted, abs=1e-5)
    assert rewards.reward_std == json.loads(file.read_text())["calibrated_reward"]["std"]
    off = ModelSource.load(str(model), device="cpu", microbatch_tokens=4096, calibration="none")
    assert off.judge(request).quality == pytest.approx(plain, abs=1e-5)
    # judge: other scores, and so another memory
    judge, other = (RewardModelJudge(RewardModelSettings(str(model), calibration=c)) for c in (None, "none"))
    judge.prepare([])
    assert judge.scores(prompts, responses) == pytest.approx(wanted, abs=1e-5)
    assert judge.identity() != other.identity()
    # best-of-n
    many = write(tmp_path / "many.jsonl", [{"prompt": p, "responses": [a, b]} for p, a, b in zip(
        prompts, responses, [row["rejected"] for row in rows], strict=True)])  # fmt: skip
    assert main(["best-of-n", "--model", str(model), "--input", many, "--output", str(tmp_path / "bon"),
                 "--bootstrap_samples", "10"]) == 0  # fmt: skip
    assert json.loads((tmp_path / "bon" / "best_of_n.json").read_text())["data_report"]["calibration"]["file"]
    # probe
    assert main(["probe", "--model", str(model), "--dataset", made["eval"], "--output", str(tmp_path / "probe"),
                 "--responses", "60", "--edits", "append_closing", "--bootstrap_samples", "10"]) == 0  # fmt: skip
    assert json.loads((tmp_path / "probe" / "probe.json").read_text())["calibration"]["anchor"] == "zero"


def test_the_server_applies_it_and_asks_for_the_response(made, model):
    from odin_rm.serve.reward.dialects.records import Item, Problem
    from odin_rm.serve.reward.models import served

    calibrate(made, model, anchor="zero")
    row = next(row for _, row in read_rows(made["eval"]))
    wanted = score_texts(load_scorer(model), [row["prompt"]], [row["chosen"]])[0]
    plain = score_texts(load_scorer(model, calibration="none"), [row["prompt"]], [row["chosen"]])[0]
    one = served("m", str(model), load_scorer(model), max_length=None, overlong=None)
    encoded = one.encode(Item("x", prompt=row["prompt"], response=row["chosen"]))
    assert encoded.taken_off == pytest.approx(plain - wanted, abs=1e-5)
    assert one.score([encoded.ids])[0] == pytest.approx(plain, abs=1e-5)
    with pytest.raises(Problem, match="send prompt and response apart"):
        one.encode(Item("x", ids=(1, 2, 3)))


def test_several_attributes_and_the_audit_counts_them_in_the_text(made, model, tmp_path):
    content = calibrate(
        made, model, anchor="interventions", attributes=["response_tokens", "exclamations"], responses=80,
        edits=["append_closing", "restate_last", "suffix_compliment"],
    )  # fmt: skip
    assert [one["attribute"] for one in content["curve"]] == ["response_tokens", "exclamations"]
    assert content["kappa"]["value"] == 1
    out = tmp_path / "audit"
    assert main(["audit", "--model", str(model), "--dataset", made["eval"], "--output", str(out),
                 "--bootstrap_samples", "20"]) == 0  # fmt: skip
    rows = [row for _, row in read_rows(made["eval"])]
    scorer = load_scorer(model)
    sides = [score_texts(scorer, [r["prompt"] for r in rows], [r[s] for r in rows])[0] for s in ("chosen", "rejected")]
    accuracy = (0.5 * (np.sign(sides[0] - sides[1]) + 1)).mean()
    assert json.loads((out / "audit.json").read_text())["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    # What the dial alone needs is counted all the same, and not shown.
    fewer = tmp_path / "fewer"
    assert main(["audit", "--model", str(model), "--dataset", made["eval"], "--output", str(fewer),
                 "--attributes", "words", "--bootstrap_samples", "20"]) == 0  # fmt: skip
    audited = json.loads((fewer / "audit.json").read_text())
    assert audited["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    assert set(audited["attributes"]) == {"response_tokens", "words"}


def test_writers_come_from_the_rows(made, model, tmp_path):
    rows = [row for _, row in read_rows(made["eval"])]
    named = [row | {"chosen_model": f"m{k % 4}", "rejected_model": f"m{(k + 1) % 4}"} for k, row in enumerate(rows)]
    content = calibrate(made, model, anchor="writers", dataset=write(tmp_path / "named.jsonl", named))
    assert content["fitted_on"]["writers"] == 4
    assert abs(content["held_out"]["methods"]["none"]["given_writer"]) <= 1
    with pytest.raises(DataError, match="name no two writers"):
        calibrate(made, model, anchor="writers", overwrite_output=True)


# ---- folding --------------------------------------------------------------------------------------------------------


def test_a_folded_model_is_stock_and_its_scores_are_the_formula(made, model, tmp_path, capsys):
    folder = tmp_path / "folded"
    assert main(["calibrate", "--model", str(model), "--dataset", made["eval"], "--anchor", "twins", "--twins",
                 made["twins"], "--fold", "--output", str(folder), "--bootstrap_samples", "20"]) == 0  # fmt: skip
    content = json.loads((folder / "folded.json").read_text())
    assert content["parity"]["largest_difference"] < 1e-4
    assert not (folder / "calibration.json").exists()
    rows = [row for _, row in read_rows(made["twins"])]
    before, after = longer_wins(load_scorer(model), rows), longer_wins(load_scorer(folder), rows)
    assert abs(after - 0.5) < abs(before - 0.5) - 0.1
    # The mean effect of the twins is exactly out of the head.
    sides = [score_texts(load_scorer(folder), [r["prompt"] for r in rows], [r[s] for r in rows])[0] for s in
             ("shorter", "longer")]  # fmt: skip
    assert (sides[1] - sides[0]).mean() == pytest.approx(0, abs=1e-4)
    # Stock transformers and an export read the same numbers.
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    assert stock.config.num_labels == 1
    assert main(["export", "--model", str(folder), "--output", str(tmp_path / "exported")]) == 0
    exported, folded = (
        score_texts(load_scorer(place), [r["prompt"] for r in rows], [r["longer"] for r in rows])[0]
        for place in (tmp_path / "exported", folder)
    )
    assert exported == pytest.approx(folded, abs=1e-4)
    # Somebody's classifier is folded in the same way: the export of the model.
    assert main(["export", "--model", str(model), "--output", str(tmp_path / "theirs")]) == 0
    assert main(["calibrate", "--model", str(tmp_path / "theirs"), "--dataset", made["eval"], "--anchor", "twins",
                 "--twins", made["twins"], "--fold", "--output", str(tmp_path / "theirs_folded"),
                 "--bootstrap_samples", "20"]) == 0  # fmt: skip
    theirs = score_texts(load_scorer(tmp_path / "theirs_folded"), [r["prompt"] for r in rows],
                         [r["longer"] for r in rows])[0]  # fmt: skip
    assert theirs == pytest.approx(folded, abs=1e-3)


def test_an_export_says_that_it_does_not_carry_the_dial(made, model, tmp_path, caplog):
    calibrate(made, model, anchor="zero")
    assert main(["export", "--model", str(model), "--output", str(tmp_path / "exported")]) == 0
    assert any("does not carry the calibration" in line for line in caplog.messages)
    assert not (tmp_path / "exported" / "calibration.json").exists()


# ---- stored scores --------------------------------------------------------------------------------------------------


def stored(tmp_path, models=("a",)):
    rng = np.random.default_rng(0)
    rows, pairs = [], []
    for name in models:
        for p in range(60):
            for _ in range(4):
                tokens = int(rng.integers(10, 400))
                score = 0.01 * tokens + p % 5 + rng.normal()
                rows.append({"prompt_id": str(p), "model": name, "score": score, "response_tokens": tokens,
                             "attributes": {"response_tokens": tokens}, "writer": f"w{rng.integers(3)}"})  # fmt: skip
            short = int(rng.integers(10, 200))
            for k, tokens in enumerate((short, short + int(rng.integers(20, 150)))):
                pairs.append({"prompt_id": f"t{p}", "model": name, "score": 0.005 * tokens + 0.1 * rng.normal() * k,
                              "attributes": {"response_tokens": tokens}})  # fmt: skip
    return write(tmp_path / "scores.jsonl", rows), write(tmp_path / "pairs.jsonl", pairs)


def test_stored_scores_are_calibrated_and_can_be_audited_again(tmp_path, capsys):
    scores, pairs = stored(tmp_path)
    out = tmp_path / "out"
    assert main(["calibrate", "--scores", scores, "--twins", pairs, "--anchor", "twins", "--output", str(out)]) == 0
    content = json.loads((out / "calibration.json").read_text())
    assert content["kappa"]["low"] < 0.5 < content["kappa"]["high"]
    assert "next: odin-rm audit --scores" in capsys.readouterr().out
    rows = [row for _, row in read_rows(out / "scores.jsonl")]
    assert len(rows) == 240
    own = {k: row["score_uncalibrated"] for k, row in enumerate(rows)}
    assert list(own.values()) == [row["score"] for _, row in read_rows(scores)]
    assert {row["writer"] for row in rows} == {"w0", "w1", "w2"}
    again = tmp_path / "again"
    assert main(["calibrate", "--scores", str(out / "scores.jsonl"), "--anchor", "zero", "--output", str(again)]) == 0
    zero = [row for _, row in read_rows(again / "scores.jsonl")]
    tokens = np.array([row["attributes"]["response_tokens"] for row in zero])
    prompt = np.array([int(row["prompt_id"]) for row in zero])
    within = pearson_within_prompt(np.array([row["score"] for row in zero]), tokens, prompt).value
    assert within == pytest.approx(0, abs=1e-9)


def test_several_models_of_a_file_have_a_folder_each(tmp_path):
    scores, pairs = stored(tmp_path, ("a/x", "b"))
    found = run_calibrate(CalibrateConfig(scores=scores, twins=pairs, anchor="twins", output=str(tmp_path / "o"),
                                          bootstrap_samples=20))  # fmt: skip
    assert sorted(found) == [str(tmp_path / "o" / name / "calibration.json") for name in ("a-x", "b")]
    writers = run_calibrate(CalibrateConfig(scores=scores, anchor="writers", output=str(tmp_path / "w"),
                                            bootstrap_samples=20))  # fmt: skip
    assert all(content["fitted_on"]["writers"] == 3 for content in writers.values())


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_settings_that_cannot_work(made, model, tmp_path):
    scores, _ = stored(tmp_path)
    bad = [
        ({"anchor": "twins", "scores": scores, "output": "o"}, "needs scored pairs"),
        ({"anchor": "zero"}, "either --scores or --model"),
        ({"anchor": "zero", "model": str(model)}, "is missing"),
        ({"anchor": "zero", "scores": scores}, "is missing"),
        ({"anchor": "luck", "scores": scores, "output": "o"}, "must be one of"),
        ({"anchor": "zero", "model": str(model), "dataset": made["eval"], "fold": True, "output": "o"}, "needs pairs"),
        ({"anchor": "zero", "model": str(model), "dataset": made["eval"], "twins": "t"}, "no effect"),
        ({"anchor": "zero", "model": str(model), "dataset": made["eval"], "calibration": "none"}, "no effect"),
        ({"anchor": "zero", "model": "some/id", "dataset": made["eval"]}, "is missing"),
        (
            {"anchor": "interventions", "model": str(model), "dataset": made["eval"], "edits": ["truncate_half"]},
            "control",
        ),
        ({"anchor": "interventions", "model": str(model), "dataset": made["eval"], "edits": ["x"]}, "no edit"),
        ({"anchor": "interventions", "model": str(model), "dataset": made["eval"], "attributes": ["links"]}, "no edit"),
        ({"anchor": "twins", "model": str(model), "dataset": made["eval"]}, "no twins"),
    ]
    for settings, what in bad:
        with pytest.raises((ConfigError, DataError), match=what):
            run_calibrate(CalibrateConfig(**settings))
    assert not (model / "calibration.json").exists()
    calibrate(made, model, anchor="zero")
    with pytest.raises(OutputError, match="a calibration already"):
        calibrate(made, model, anchor="zero")
    calibrate(made, model, anchor="zero", overwrite_output=True)
    assert main(["audit", "--scores", scores, "--output", str(tmp_path / "a"), "--calibration", "x.json"]) == 2


def test_rows_of_twins_alone_are_both_the_domain_and_the_anchor(made, model):
    content = calibrate(made, model, anchor="twins", dataset=made["twins"])
    assert content["fitted_on"]["pairs"] == 120
    assert content["fitted_on"]["responses"] == 240


# ---- at the end of training -----------------------------------------------------------------------------------------


def test_reward_calibrates_the_finished_model(made, tmp_path):
    settings = {
        "model": made["base"], "dataset": made["train"], "eval_dataset": made["eval"], "objective": "bradley_terry",
        "batch_pairs": 32, "learning_rate": 3e-3, "max_steps": 6, "cache_dir": str(tmp_path / "cache"), "use_cpu": True,
        "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    run = train_reward_model(RewardConfig(output_dir=str(tmp_path / "run"), calibrate="interventions", **settings))
    content = json.loads((run / "model" / "calibration.json").read_text())
    assert content["anchor"] == "interventions"
    assert content["fitted_on"]["dataset"] == made["eval"]
    assert load_scorer(run).dial is not None
    assert load_scorer(run, calibration="none").dial is None
    # Training anew takes the calibration of the old weights away with them.
    again = RewardConfig(output_dir=str(tmp_path / "run"), overwrite_output_dir=True, **settings)
    train_reward_model(again)
    assert load_scorer(run).dial is None
    with pytest.raises(ConfigError, match="needs twins"):
        RewardConfig(output_dir=str(tmp_path / "other"), calibrate="twins", **settings)
    with pytest.raises(ConfigError, match="no effect without"):
        RewardConfig(output_dir=str(tmp_path / "other"), calibrate_twins="t", **settings)
