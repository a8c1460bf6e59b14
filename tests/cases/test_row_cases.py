"""The public cases about rows, each with the value that its ``expected.md`` gives."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from odin_rm.core.errors import DataError, ModelError, OutputError, RowError
from odin_rm.core.files import read_rows
from odin_rm.data.load import load_preferences
from tests.calendar_year import set_year

pytestmark = pytest.mark.slow


@pytest.fixture
def tokenizer(cases):
    def load(name):
        return AutoTokenizer.from_pretrained(cases / "_models" / name)

    return load


@pytest.fixture
def preferences(cases, tokenizer, tmp_path):
    def load(file, model="chatml", **settings):
        return load_preferences(str(cases / file), tokenizer(model), cache_dir=tmp_path / "cache", **settings)

    return load


@pytest.fixture
def score(cases, tmp_path):
    from odin_rm.workflows.score.config import ScoreConfig
    from odin_rm.workflows.score.run import run_score

    def run(model, file, suffix=".jsonl", **settings):
        output = tmp_path / f"out{suffix}"
        file = cases / file
        model = str(cases / "_models" / model)
        report = run_score(ScoreConfig(model=model, input=str(file), output=str(output), **settings))
        return report, [row for _, row in read_rows(output)]

    return run


def reference(cases, model, file):
    """What stock transformers says, one row at a time."""
    command = [sys.executable, "_lib/reference.py", f"_models/{model}", file]
    run = subprocess.run(command, cwd=cases, capture_output=True, text=True, check=True)
    return [float(line) for line in run.stdout.split()]


@pytest.mark.parametrize("case", ["08_tool_calls_beside_content", "11_tools_column"])
def test_tools_are_scored_as_stock_transformers_does(cases, score, case):
    _, rows = score("toolcall", f"{case}/rows.jsonl")
    found = [row["quality"] for row in rows]
    assert found == pytest.approx(reference(cases, "toolcall", f"{case}/rows.jsonl"), abs=1e-3)
    assert len({round(one, 3) for one in found}) == len(found)


def test_12_chat_as_python_repr_in_csv(preferences):
    data = preferences("12_chat_as_python_repr_in_csv/pairs.csv")
    assert data.report["pairs"] == 3
    assert data.response_tokens.max() < 12  # "good answer", not the printed list


def test_14_hh_differ_in_human_turn(preferences):
    with pytest.raises(RowError, match="differ in turn 3, which is not the assistant's"):
        preferences("14_hh_differ_in_human_turn/pairs.jsonl")


def test_17_folder_ultrafeedback_splits(preferences):
    with pytest.raises(DataError, match="train_prefs"):
        preferences("17_folder_ultrafeedback_splits/uf")


def test_19_pairs_identical_after_truncation(preferences):
    from odin_rm.data.tokenise import EncodingSettings

    settings = EncodingSettings(max_length=64, overlong="truncate_response")
    data = preferences("19_pairs_identical_after_truncation/pairs.jsonl", settings=settings)
    assert (data.report["pairs"], data.report["identical_pairs"]) == (1, 4)


def test_21_thinking_stripped_but_counted(score):
    report, rows = score("think", "21_thinking_stripped_but_counted/rows.jsonl")
    assert rows[0]["quality"] == rows[1]["quality"]
    assert report.rewritten == 1


def test_22_template_with_todays_date(cases, preferences, monkeypatch):
    from odin_rm.model.scoring import load_scorer, score_texts

    found = set()
    for year in (2026, 2031):
        set_year(monkeypatch, year)
        scorer = load_scorer(str(cases / "_models" / "date"))
        quality = float(score_texts(scorer, ["2+2?"], ["4"])[0][0])
        text = scorer.tokenizer.decode(preferences("22_template_with_todays_date/pairs.jsonl", "date").input_ids(0))
        found.add((quality, text))
    assert len(found) == 1


def test_24_parquet_output_drops_nested_keys(cases, score):
    made = subprocess.run(
        [sys.executable, "make.py"], cwd=cases / "24_parquet_output_drops_nested_keys", capture_output=True, text=True
    )
    (cases / "made.jsonl").write_text(made.stdout, encoding="utf-8")
    _, rows = score("chatml", "made.jsonl", ".parquet")
    assert rows[-1]["prompt"][0]["name"] == "Bob"
    assert rows[-1]["meta"]["b"] == "kept?"
    assert len(rows) == 1025


def test_26_parquet_output_huge_int(score):
    with pytest.raises(OutputError, match="column"):
        score("chatml", "26_parquet_output_huge_int/rows.jsonl", ".parquet")


def test_28_lone_surrogate_json(score):
    with pytest.raises(RowError, match="row 1: holds half a character"):
        score("chatml", "28_lone_surrogate_json/rows.json")
    report, rows = score("chatml", "28_lone_surrogate_json/rows.json", on_bad_row="skip")
    assert (report.bad_rows, rows[0]["quality"]) == (1, None)


def test_30_token_beyond_the_embedding(score):
    with pytest.raises(
        ModelError, match="the tokenizer gives a text the token 362, and the model's embedding has 362 rows"
    ):
        score("token_too_big", "30_token_beyond_the_embedding/rows.jsonl")


def test_37_public_layouts(cases, preferences):
    files = sorted((cases / "37_public_layouts").glob("*.jsonl"))
    pairs = {file.stem: preferences(f"37_public_layouts/{file.name}").report["pairs"] for file in files}
    assert len(pairs) == 12
    assert pairs == dict.fromkeys(pairs, 1) | {"rewardbench2": 3, "rm_bench": 9}


@pytest.mark.parametrize("name, said", [("alpaca_dpo", "Translate\nGood morning"), ("orca", "system\ns")])
def test_37_what_stands_beside_the_prompt_is_read(preferences, tokenizer, name, said):
    ids = preferences(f"37_public_layouts/{name}.jsonl").input_ids(0)
    assert said in tokenizer("chatml").decode(ids)


@pytest.mark.parametrize(
    "name", ["assistant_first", "content_parts", "developer", "none_content", "tool_role", "two_users"]
)
def test_39_chat_rows_are_rendered_as_the_template_does_or_refused(cases, preferences, tokenizer, name):
    file = f"39_chat_rows_the_template_would_take/{name}.jsonl"
    if name == "two_users":
        with pytest.raises(RowError, match="roles out of order"):
            preferences(file, "toolcall")
        return
    row = json.loads((cases / file).read_text(encoding="utf-8"))
    messages = json.loads(re.sub(r'\[\{"type": "text", "text": ("[^"]*")\}\]', r"\1", json.dumps(row["prompt"])))
    chosen = json.loads(re.sub(r'\[\{"type": "text", "text": ("[^"]*")\}\]', r"\1", json.dumps(row["chosen"])))
    model = tokenizer("toolcall")
    expected = model.apply_chat_template([*messages, *chosen], tokenize=True, return_dict=True)["input_ids"]
    assert preferences(file, "toolcall").input_ids(0).tolist() == list(expected)


def test_45_empty_chat_template(score):
    report, rows = score("empty_template", "45_empty_chat_template/rows.jsonl")
    assert report.scored == 3
    assert len({row["quality"] for row in rows}) == 3


def test_59_right_csv_bom_newlines_numberlike(score):
    _, rows = score("chatml", "59_right_csv_bom_newlines_numberlike/rows.csv")
    assert [row["prompt"] for row in rows] == ['multi\nline, "quoted"', "null", "1e5", "NA"]
    assert [row["response"] for row in rows] == ["ok", "True", "007", "nan"]


def test_61_right_multi_turn_messages(preferences):
    data = preferences("61_right_multi_turn_messages/pairs.jsonl")
    assert data.response_tokens.tolist() == [1, 3]
