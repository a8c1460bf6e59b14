"""Best and worst of n from scores: by hand, in both forms, through the formats, and what gives no pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from odin_rm.cli.main import main
from odin_rm.core.errors import DataError, OutputError, RowError
from odin_rm.core.files import read_rows
from odin_rm.data.load import load_preferences
from odin_rm.workflows.pairs.config import PairsConfig
from odin_rm.workflows.pairs.run import run_pairs
from tests.model.words import build_tokenizer

LONG = [
    {"prompt": "p", "response": "a", "quality": 0.5},
    {"prompt": "q", "response": "only", "quality": 1.0},
    {"prompt": "p", "response": "b", "quality": 2.0},
    {"prompt": [{"role": "user", "content": "c"}], "response": "x", "quality": 1.0},
    {"prompt": "p", "response": "c", "quality": -1.0},
    {"prompt": "p", "response": "d", "quality": 2.0},
    {"prompt": [{"role": "user", "content": "c"}], "response": "y", "quality": 0.25},
    {"prompt": "p", "response": "too long", "quality": None},
    {"prompt": "r", "response": "u", "quality": 1.0},
    {"prompt": "r", "response": "v", "quality": 1.0},
]
PAIRS = [
    {"prompt": "p", "chosen": "b", "rejected": "c", "chosen_score": 2.0, "rejected_score": -1.0},
    {
        "prompt": [{"role": "user", "content": "c"}],
        "chosen": "x",
        "rejected": "y",
        "chosen_score": 1.0,
        "rejected_score": 0.25,
    },
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def test_by_hand(tmp_path, capsys):
    source, target = write(tmp_path / "scored.jsonl", LONG), tmp_path / "pairs.jsonl"
    assert main(["pairs", "--input", source, "--output", str(target)]) == 0
    assert rows_of(target) == PAIRS
    said = capsys.readouterr().out
    assert "2 pairs of 4 prompts" in said
    assert "1 prompts have one scored response" in said
    assert "1 prompts have scores that differ by no more than 0" in said
    assert "1 responses have no score" in said


def test_lists_and_names_of_fields(tmp_path):
    rows = [{"question": "p", "answers": ["a", "b", "c"], "marks": [3, 5, 1]}]
    source = write(tmp_path / "scored.jsonl", rows)
    names = {"prompt_field": "question", "responses_field": "answers", "scores_field": "marks"}
    report = run_pairs(PairsConfig(input=source, output=str(tmp_path / "out.jsonl"), **names))
    assert (report.pairs, report.responses) == (1, 3)
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert (row["chosen"], row["rejected"], row["chosen_score"], row["rejected_score"]) == ("b", "c", 5.0, 1.0)


@pytest.mark.parametrize(("margin", "pairs"), [(0.0, 2), (0.74, 2), (0.75, 1), (2.9, 1)])
def test_a_margin(margin, pairs, tmp_path):
    source = write(tmp_path / "scored.jsonl", LONG)
    report = run_pairs(PairsConfig(input=source, output=str(tmp_path / "out.jsonl"), min_margin=margin))
    assert report.pairs == pairs


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_the_pairs_are_preferences_in_every_format(suffix, tmp_path):
    answers = {"yes": 1.0, "no": 0.5, "rice": 2.0}
    text_rows = [{"prompt": "why", "response": text, "quality": value} for text, value in answers.items()]
    source, target = write(tmp_path / "scored.jsonl", text_rows), tmp_path / f"pairs{suffix}"
    run_pairs(PairsConfig(input=source, output=str(target)))
    data = load_preferences(str(target), build_tokenizer("llama"))
    assert data.num_pairs == 1


def test_what_cannot_be_used(tmp_path):
    target = str(tmp_path / "out.jsonl")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"response": "a", "quality": 1.0}, "field 'prompt' is missing"),
        ({"prompt": "p", "response": "a"}, "field 'quality' is missing"),
        ({"prompt": "p", "response": "a", "quality": "good"}, "'quality' is 'good', not a finite number"),
        ({"prompt": "p", "response": "a", "quality": float("nan")}, "not a finite number"),
        ({"prompt": "p", "response": "a", "quality": True}, "not a finite number"),
        ({"prompt": "p"}, "there is no 'response'"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1.0]}, "no lists of one length"),
    ]
    for row, said in bad:
        source = write(tmp_path / "scored.jsonl", [*LONG, row])
        with pytest.raises(RowError, match=said) as caught:
            run_pairs(PairsConfig(input=source, output=target))
        assert caught.value.where == f"{source}, row {len(LONG) + 1}"
        assert not Path(target).exists()
        report = run_pairs(
            PairsConfig(input=source, output=str(tmp_path / "lenient.jsonl"), on_bad_row="skip", overwrite_output=True)
        )
        assert (report.bad_rows, report.pairs) == (1, 2)
    with pytest.raises(DataError, match="no prompt has two responses"):
        run_pairs(PairsConfig(input=write(tmp_path / "few.jsonl", LONG[1:2]), output=target))
    with pytest.raises(OutputError, match="exists already"):
        run_pairs(PairsConfig(input=source, output=str(tmp_path / "lenient.jsonl")))
