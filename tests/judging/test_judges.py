"""The judges that are no endpoint: reward models, the testbed's truth, recorded judgements."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from odin_rm.core.errors import DataError, OdinError
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_scorer, load_tokenizer, score_texts
from odin_rm.testbed.phrases import FILLERS, HARMFUL, HELPFUL
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.workflows.judge import run_judge
from tests.judging.conftest import annotations


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "base", 0, hidden=16, layers=1, heads=2)
    torch.manual_seed(0)
    reward_model = RewardModel.from_backbone(folder / "base")
    reward_model.save_pretrained(folder / "ours" / "model", tokenizer=load_tokenizer(folder / "base"))
    return folder / "ours"


def save(name: str, answers: list[str], generator: str) -> None:
    rows = [{"instruction": f"q{k}", "output": a, "generator": generator} for k, a in enumerate(answers)]
    Path(name).write_text(json.dumps(rows))


STEPS = [f"{HELPFUL[0]} {HELPFUL[1]}", FILLERS[0], HARMFUL[0], HELPFUL[2], HELPFUL[3]]
OTHERS = [HELPFUL[0], FILLERS[1], FILLERS[0], f"{FILLERS[0]} {HELPFUL[2]}", f"{HELPFUL[3]} {HELPFUL[4]} {HELPFUL[5]}"]


@pytest.fixture
def steps(room):
    save("candidate.json", STEPS, "new")
    save("baseline.json", OTHERS, "old")


def test_the_truth_prefers_true_quality_and_sees_no_order(make_config, steps):
    report = run_judge(make_config(judge="gold"))
    rows = annotations()
    assert [row["preference"] for row in rows] == [2.0, 1.5, 1.0, 1.5, 1.0]
    assert all(row["preference_candidate_second"] == row["preference_candidate_first"] for row in rows)
    assert (report["disagreement"], report["first_place_preference"]) == (0.0, 0.5)
    # A step is worth 0.25: within that margin only the last prompt (1 against 3 steps) is decided.
    run_judge(make_config(judge="gold", tie_margin=0.25, output="wide"))
    assert [row["preference"] for row in annotations("wide")] == [1.5, 1.5, 1.5, 1.5, 1.0]


def test_a_reward_model_prefers_by_its_quality_head(make_config, steps, model):
    run_judge(make_config(judge=str(model)))
    scorer = load_scorer(model)
    prompts = [f"q{k}" for k in range(5)]
    new, old = (score_texts(scorer, prompts, side)[0] for side in (STEPS, OTHERS))
    expected = np.where(new > old, 2.0, 1.0)
    assert [row["preference"] for row in annotations()] == expected.tolist()
    assert len(set(expected)) == 2
    assert annotations()[0]["annotator"] == "ours"
    gap = float(np.median(np.abs(new - old)))
    run_judge(make_config(judge=str(model / "model"), tie_margin=gap, output="wide"))
    decided = np.abs(new - old) > gap
    assert [row["preference"] for row in annotations("wide")] == np.where(decided, expected, 1.5).tolist()


def test_the_length_head_judges_nothing(make_config, steps, model, tmp_path):
    run_judge(make_config(judge=str(model)))
    spoilt = RewardModel.from_pretrained(model / "model")
    with torch.no_grad():
        for name, parameter in spoilt.named_parameters():
            if "length" in name:
                parameter.normal_(std=100.0)
    spoilt.save_pretrained(tmp_path / "spoilt", tokenizer=load_tokenizer(model / "model"))
    run_judge(make_config(judge=str(tmp_path / "spoilt"), output="spoilt-length"))
    assert [row["preference"] for row in annotations("spoilt-length")] == [row["preference"] for row in annotations()]


def test_answers_beyond_the_window_have_no_preference(make_config, steps, model):
    report = run_judge(make_config(judge=str(model), max_length=14))
    missing = [row["preference"] is None for row in annotations()]
    assert any(missing)
    assert not all(missing)
    assert report["missing"] == sum(missing)


def test_recorded_judgements_give_back_what_was_judged(make_config, steps):
    run_judge(make_config(judge="gold"))
    for place in ("out", "out/annotations.json"):
        run_judge(make_config(judge=place, output="again", overwrite_output_dir=True))
        fields = ("preference", "preference_candidate_second", "preference_candidate_first", "output_2")
        assert [[row[f] for f in fields] for row in annotations("again")] == [
            [row[f] for f in fields] for row in annotations()
        ]


def recorded(**changes) -> list[dict]:
    rows = [
        {"instruction": f"q{k}", "output_1": old, "output_2": new, "preference": 1.0 + 0.2 * k}
        for k, (old, new) in enumerate(zip(OTHERS, STEPS, strict=True))
    ]
    rows[1] |= changes
    return rows


def test_alpaca_evals_annotations_count_for_both_orders_and_may_stand_the_other_way_round(make_config, steps):
    rows = recorded()
    rows[4] |= {"output_1": STEPS[4], "output_2": OTHERS[4]}
    Path("notes.json").write_text(json.dumps(rows))
    run_judge(make_config(judge="notes.json"))
    assert [row["preference"] for row in annotations()] == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.2])


def test_orders_that_were_recorded_apart_stay_apart(make_config, steps):
    rows = [
        row | {"preference_candidate_second": 1.0, "preference_candidate_first": 2.0, "preference": 1.5}
        for row in recorded()
    ]
    rows[0] |= {"preference_candidate_first": None, "preference": None}
    Path("notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run_judge(make_config(judge="notes.jsonl"))
    assert [row["preference"] for row in annotations()] == [None, 1.5, 1.5, 1.5, 1.5]
    assert (report["reversal"], report["missing"]) == (1.0, 1)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (recorded(output_2="another"), "holds no judgement of these outputs for 1 instructions (one is 'q1')"),
        (recorded(preference=3), "row 2: 'preference' is 3, not a number from 1 to 2"),
        (recorded(preference="good"), "row 2: 'preference' is 'good'"),
        (recorded(output_1=None), "row 2: is no annotation of two outputs"),
        (recorded() + recorded()[:1], "row 6: the same two outputs are judged again"),
    ],
)
def test_unusable_records(make_config, steps, rows, said):
    Path("notes.json").write_text(json.dumps(rows))
    with pytest.raises(DataError) as error:
        run_judge(make_config(judge="notes.json"))
    assert said in str(error.value)
    assert not Path("out").exists()


def test_a_judge_without_any_preference_is_an_error(make_config, steps):
    Path("notes.json").write_text(json.dumps([row | {"preference": None} for row in recorded()]))
    with pytest.raises(OdinError, match="gave no prompt a preference that can be read"):
        run_judge(make_config(judge="notes.json"))
    assert not Path("out/annotations.json").exists()
