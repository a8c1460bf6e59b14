"""The judges that are no endpoint: reward models, the testbed's truth, recorded judgements."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from odin_rm.core.errors import DataError, OdinError
from odin_rm.model.reward_model import RewardModel
from odin_rm.model.scoring import load_scorer, load_tokenizer, score_texts
from odin_rm.results.annotation_rows import ORDERS
from odin_rm.results.annotations import read_annotations
from odin_rm.testbed.phrases import FILLERS, HARMFUL, HELPFUL
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.workflows.judge.run import run_judge
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


def by_order(*orders: str) -> list[dict]:
    """Each order as a row of its own; in the second the candidate is liked a tenth more."""
    return [
        row | {"order": order, "preference": row["preference"] + 0.1 * k}
        for k, order in enumerate(orders)
        for row in recorded()
    ]


def save_rows(name: str, rows: list[dict]) -> None:
    """As JSON, or as CSV, where every field is text and a missing one is empty."""
    if name.endswith(".json"):
        Path(name).write_text(json.dumps(rows))
        return
    with Path(name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(field for row in rows for field in row)))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("name", ["notes.json", "notes.csv"])
@pytest.mark.parametrize(
    ("rows", "expected", "straight"),
    [
        # AlpacaEval's older sign of a tie is 0.
        (recorded(preference=0), [1.0, 1.5, 1.4, 1.6, 1.8], [1.0, 1.5, 1.4, 1.6, 1.8]),
        (recorded(preference="1.75"), [1.0, 1.75, 1.4, 1.6, 1.8], [1.0, 1.75, 1.4, 1.6, 1.8]),
        ([{"prompt": row.pop("instruction")} | row for row in recorded()], [1.0, 1.2, 1.4, 1.6, 1.8], None),
        (by_order("candidate_second", "candidate_first"), [1.05, 1.25, 1.45, 1.65, 1.85], [1.0, 1.2, 1.4, 1.6, 1.8]),
        (by_order("b", "a"), [1.05, 1.25, 1.45, 1.65, 1.85], [1.05, 1.25, 1.45, 1.65, 1.85]),
        (
            [row | {f"preference_{order}": None for order in ORDERS} for row in recorded(preference=0)],
            [1.0, 1.5, 1.4, 1.6, 1.8],
            None,
        ),
        (
            [row | {"preference_candidate_second": 0, "preference_candidate_first": 2} for row in recorded()],
            [1.75] * 5,
            [1.5] * 5,
        ),
    ],
    ids=["zero", "text", "prompt", "orders apart", "orders by other names", "orders unknown", "zero in an order"],
)
def test_the_judge_reads_what_win_rate_reads(make_config, steps, rows, expected, straight, name):
    save_rows(name, rows)
    (system,) = read_annotations([name]).systems
    assert system.preference.tolist() == pytest.approx(expected)
    run_judge(make_config(judge=name))
    assert [row["preference"] for row in annotations()] == pytest.approx(expected)
    if straight is not None:
        assert [row["preference_candidate_second"] for row in annotations()] == pytest.approx(straight)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (recorded(output_2="another"), "holds no judgement of these outputs for 1 instructions (one is 'q1')"),
        (recorded(preference=3), "row 2: the preference is 3, not between 1 and 2"),
        (recorded(preference="good"), "row 2: the preference is not a number"),
        (recorded(output_1=None), "row 2: field 'output_1' is missing"),
        (recorded() + recorded()[:1], "row 6: the same two outputs are judged again"),
        (recorded() + by_order("a")[:1], "row 6: the same two outputs are judged again"),
        (by_order("a", "b") + by_order("b")[:1], "row 11: the same two outputs are judged again"),
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
