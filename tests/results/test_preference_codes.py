"""Codes of preferences: AlpacaEval's for sure, other people's when named, refused where nobody can know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.evaluation.judgements import Judgement, Question
from odin_rm.judging.recorded import RecordedJudge
from odin_rm.results.annotations import read_annotations
from odin_rm.results.preference_codes import preference_codes
from tests.results.test_annotations import row, write


def read(folder: Path, values: list[Any], codes: list[str] | None = None, **settings: Any) -> list[float]:
    file = write(folder / "a.json", [row(k, value) for k, value in enumerate(values)])
    (system,) = read_annotations([file], codes=preference_codes(codes), **settings).systems
    judge = RecordedJudge(str(file), preference_codes(codes))
    said: dict[int, Judgement] = {}
    questions = [Question(f"question {k}", f"the long answer {k}", f"answer {k}") for k in range(len(values))]
    judge.judge(questions, said.__setitem__)
    # The recorded judge reads what win-rate reads.
    assert [said[k].preference for k in range(len(values))] == system.preference.tolist()
    return system.preference.tolist()


@pytest.mark.parametrize(
    ("values", "preferences"),
    [
        ([1, 2, 1.5], [1, 2, 1.5]),
        ([0, 1, 2], [1.5, 1, 2]),
        ([1, 1, 1], [1, 1, 1]),
        ([2.0000000000000004, 0.9999999999999999], [2, 1]),
        (["2", "1.0", " 1.5 "], [2, 1, 1.5]),
        (["output_1", "output_2", "tie", "Output_2"], [1, 2, 1.5, 2]),
    ],
)
def test_what_is_for_sure_is_read(tmp_path, values, preferences):
    assert read(tmp_path, values) == preferences


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([1] * 8 + [0] * 2, "all are 0 or 1, and 0 may be a tie or a loss"),
        ([0, 0], "all are 0 or 1"),
        ([0, 0.5, 1], "some lie between 0 and 1 (0.5)"),
        ([0.8, 0.1], "some lie between 0 and 1 (0.8)"),
        ([-1, 1, 1], "some are below 0 (-1)"),
        (["-1", "0", "1"], "some are below 0 (-1)"),
        ([1, 2, 5, 4, 3], "many are above 2 (up to 5)"),
        ([0, 2, 0.3], "some lie between 0 and 1 (0.3)"),
    ],
)
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_what_may_be_another_code_is_refused_also_where_bad_rows_are_left_out(tmp_path, values, why, on_bad_row):
    with pytest.raises(DataError) as caught:
        read(tmp_path, values, on_bad_row=on_bad_row)
    assert why in str(caught.value)
    assert "--preference_codes 0 1" in str(caught.value)
    with pytest.raises(DataError, match="the preferences are not from 1"):
        RecordedJudge(str(tmp_path / "a.json"))


@pytest.mark.parametrize("values", [["A", "B"], [True, False], ["model_a"], ["new"]])
def test_words_that_are_none_are_refused_row_by_row(tmp_path, values):
    with pytest.raises(RowError, match="--preference_codes names others"):
        read(tmp_path, values)


@pytest.mark.parametrize(
    ("codes", "values", "preferences"),
    [
        (["0", "1"], [1, 0, 0.5, "1"], [2, 1, 1.5, 2]),
        (["1", "0"], [1, 0, 0.25], [1, 2, 1.75]),
        (["-1", "1"], [-1, 1, 0, 0.5], [1, 2, 1.5, 1.75]),
        (["-1", "1", "0"], [-1, 0, 1], [1, 1.5, 2]),
        (["1", "5"], [1, 2, 3, 5], [1, 1.25, 1.5, 2]),
        (["A", "B"], ["A", "b", " B"], [1, 2, 2]),
        (["A", "B", "tie"], ["tie", "A"], [1.5, 1]),
        (["model_b", "model_a", "both bad"], ["model_a", "both bad"], [2, 1.5]),
        (["false", "true"], [True, False], [2, 1]),
        (["1", "2", "0"], [0, 1, 2, 1.5], [1.5, 1, 2, 1.5]),
    ],
)
def test_codes_that_a_user_names(tmp_path, codes, values, preferences):
    assert read(tmp_path, values, codes) == preferences


@pytest.mark.parametrize(("codes", "value"), [(["0", "1"], 2), (["0", "1"], "A"), (["A", "B"], "C"), (["A", "B"], 1)])
def test_what_is_none_of_the_named_codes_is_a_bad_row(tmp_path, codes, value):
    with pytest.raises(RowError, match="none of"):
        read(tmp_path, [value], codes)


@pytest.mark.parametrize(
    "codes", [["1"], ["1", "1"], ["1", "1.0"], ["A", "a"], ["A", ""], ["0", "1", "2", "3"], ["0", "nan"]]
)
def test_codes_that_are_none(codes):
    with pytest.raises(ConfigError, match="--preference_codes"):
        preference_codes(codes)


def test_orders_are_looked_at_too(tmp_path):
    rows = [row(k, 1, preference_candidate_first=k % 2, preference_candidate_second=1) for k in range(4)]
    with pytest.raises(DataError, match="all are 0 or 1"):
        read_annotations([write(tmp_path / "a.json", rows)])
    (system,) = read_annotations([tmp_path / "a.json"], codes=preference_codes(["0", "1"])).systems
    assert system.preference.tolist() == [1.5, 2, 1.5, 2]


def test_two_models_that_answer_alike_are_no_judgement_given_twice(tmp_path):
    rows = [row(0, 2), row(0, 2, generator_2="other")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert len(read_annotations([tmp_path / "a.json"]).systems) == 2
    judge = RecordedJudge(str(tmp_path / "a.json"))
    said: list[Judgement] = []
    judge.judge([Question("question 0", "the long answer 0", "answer 0")], lambda _, one: said.append(one))
    assert said[0].preference == 2.0
    (tmp_path / "b.json").write_text(json.dumps([row(0, 2), row(0, 1, generator_2="other")]))
    with pytest.raises(DataError, match="judged again"):
        RecordedJudge(str(tmp_path / "b.json"))
