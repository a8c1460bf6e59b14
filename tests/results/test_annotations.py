"""Annotation files: AlpacaEval's rows, both orders, folders, and what is refused in one line."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odin_rm.core.errors import DataError, OdinError, RowError
from odin_rm.results.annotations import (
    annotation_files,
    on_the_same_prompts,
    read_annotations,
    read_difficulty,
)


def row(k: int = 0, preference: Any = 2, **fields: Any) -> dict[str, Any]:
    base = {"instruction": f"question {k}", "output_1": f"the long answer {k}", "generator_1": "base"}
    return base | {"output_2": f"answer {k}", "generator_2": "new", "preference": preference} | fields


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(r) + "\n" for r in rows).encode()
    data = json.dumps(rows).encode() if ".json" in path.suffixes else lines
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz"])
def test_rows_of_any_container(tmp_path, name):
    file = write(tmp_path / name, [row(1, 1.25), row(0, 2), row(2, 1.5)])
    (system,) = read_annotations([file]).systems
    assert (system.candidate, system.baseline, system.files) == ("new", "base", (str(file),))
    assert system.prompts == ("question 0", "question 1", "question 2")
    assert system.preference.tolist() == [2, 1.25, 1.5]
    assert system.candidate_outputs == ("answer 0", "answer 1", "answer 2")
    assert system.baseline_outputs[2] == "the long answer 2"
    assert system.by_order == {}


def test_zero_is_the_older_sign_of_a_tie_and_text_is_a_number(tmp_path):
    file = write(tmp_path / "a.json", [row(0, 0), row(1, "1.75")])
    assert read_annotations([file]).systems[0].preference.tolist() == [1.5, 1.75]


def test_prompt_instead_of_instruction_and_names_from_the_file(tmp_path):
    rows = [{"prompt": "p", "output_1": "a", "output_2": "b", "preference": 1}]
    (system,) = read_annotations([write(tmp_path / "mine.json.gz", rows)]).systems
    assert (system.prompts, system.candidate, system.baseline) == (("p",), "mine", "baseline")


def test_both_orders_are_averaged_and_kept(tmp_path):
    rows = [row(k, p, order=o) for k, o, p in [(0, "b", 2), (0, "a", 1), (1, "a", 2), (1, "b", 1.5)]]
    (system,) = read_annotations([write(tmp_path / "a.json", rows)]).systems
    assert system.preference.tolist() == [1.5, 1.75]
    assert {name: values.tolist() for name, values in system.by_order.items()} == {"a": [1, 2], "b": [2, 1.5]}


def test_a_row_of_our_judge_holds_both_orders(tmp_path):
    rows = [
        row(k, (first + second) / 2, preference_candidate_first=first, preference_candidate_second=second)
        for k, (first, second) in enumerate([(2, 1), (2, 1.5)])
    ]
    rows.append(row(2, None, preference_candidate_first=None, preference_candidate_second=2))
    found = read_annotations([write(tmp_path / "a.json", rows)], on_bad_row="skip")
    (system,) = found.systems
    assert system.preference.tolist() == [1.5, 1.75]
    assert system.by_order["candidate_first"].tolist() == [2, 2]
    assert system.by_order["candidate_second"].tolist() == [1, 1.5]
    assert found.left_out == {"has no preference": 1}


def test_one_order_alone_does_not_count(tmp_path):
    rows = [row(0, 2, order=1), row(0, 1, order=2), row(1, 2, order=1), row(1, None, order=2)]
    found = read_annotations([write(tmp_path / "a.json", rows)], on_bad_row="skip")
    assert found.systems[0].prompts == ("question 0",)
    assert found.systems[0].judged == {"question 0", "question 1"}
    assert found.left_out == {"has no preference": 1}


def test_several_candidates_in_one_file_and_one_in_several_files(tmp_path):
    first = write(tmp_path / "a.json", [row(0), row(0, 1, generator_2="other"), row(1, 1, generator_2="other")])
    second = write(tmp_path / "b.json", [row(1, 1)])
    new, other = read_annotations([first, second]).systems
    assert (new.candidate, new.preference.tolist(), len(new.files)) == ("new", [2, 1], 2)
    assert (other.candidate, other.preference.tolist(), len(other.files)) == ("other", [1, 1], 1)


def test_a_folder_stands_for_its_annotation_files(tmp_path):
    deep = write(tmp_path / "results" / "m" / "judge" / "annotations.json", [row()])
    write(tmp_path / "results" / "m" / "model_outputs.json", [{"instruction": "x"}])
    assert annotation_files([tmp_path / "results"]) == [deep]
    plain = write(tmp_path / "plain" / "m.json.gz", [row()])
    (tmp_path / "plain" / "README.md").write_text("no rows")
    assert annotation_files([tmp_path / "plain", deep]) == [plain, deep]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no annotation file"):
        annotation_files([tmp_path / "empty"])
    with pytest.raises(DataError, match="is given twice"):
        annotation_files([plain, tmp_path / "plain"])


BAD = [
    ([row(0), row(1, None), row(2, math.nan)], "row 2: has no preference (2 unusable rows in all)"),
    ([row(0), row(0)], "row 2: judges 'new' on the instruction of"),
    ([row(0, output_2="  ")], "'output_2' is empty"),
    ([row(0, output_1=None)], "field 'output_1' is missing"),
    ([row(0, output_2=["a"])], "'output_2' is list, not text"),
    ([row(0, 3)], "the preference is 3, not between 1 and 2"),
    ([row(0, 10**400)], "a whole number of 401 digits"),
    ([row(0, preference_candidate_first=2.0)], "has a preference in one order only"),
    ([row(0, preference_candidate_first=None, preference_candidate_second=1)], "has a preference in one order only"),
    ([row(0, generator_2=["new"])], "'generator_2' is list, not text"),
    ([row(0, annotator={"name": "x"})], "'annotator' is object, not text"),
    ([row(0, "good")], "the preference is not a number"),
    ([row(0, True)], "the preference is True"),
    ([row(0, instruction="")], "there is no 'instruction'"),
    ([{k: v for k, v in row(0).items() if k != "preference"}], "field 'preference' is missing"),
    ([row(0), row(1, generator_1="another")], "the baseline is 'another', but 'base' in"),
    ([row(0, annotator="x"), row(1, annotator="y")], "the annotator is 'y', but 'x' in"),
    ([row(0, order=1), row(1)], "has no 'order', but other rows have"),
    ([row(0, order=1), row(0, order=2, output_2="swapped")], "the outputs differ from those in"),
]


@pytest.mark.parametrize(("rows", "said"), BAD, ids=[said[:40] for _, said in BAD])
def test_bad_rows_are_refused_in_one_line(tmp_path, rows, said):
    with pytest.raises(OdinError) as caught:
        read_annotations([write(tmp_path / "a.json", rows)])
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "a.json"))
    assert caught.value.fix


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path):
    rows = [row(0), row(1, None), row(2, output_2=""), row(3, 1), row(3, 1), row(4, None)]
    found = read_annotations([write(tmp_path / "a.json", rows)], on_bad_row="skip")
    assert found.systems[0].prompts == ("question 0", "question 3")
    assert len(found.systems[0].judged) == 5
    assert found.left_out == {"has no preference": 2, "'output_2' is empty": 1, "a judgement given twice": 1}
    with pytest.raises(DataError, match="no row can be used"):
        read_annotations([write(tmp_path / "b.json", [row(0, None)])], on_bad_row="skip")


def test_different_prompts_are_refused_or_cut_to_the_shared_ones(tmp_path):
    write(tmp_path / "a.json", [row(0, 1), row(1, 2)])
    write(tmp_path / "b.json", [row(k, 2, generator_2="other") for k in (1, 2, 3)])
    systems = read_annotations([tmp_path / "a.json", tmp_path / "b.json"]).systems
    with pytest.raises(DataError, match=r"2 only here, 1 only there.*--prompts shared"):
        on_the_same_prompts(systems, "same")
    shared = on_the_same_prompts(systems, "shared")
    assert [system.prompts for system in shared] == [("question 1",)] * 2
    assert [system.preference.tolist() for system in shared] == [[2], [2]]
    with pytest.raises(DataError, match="no prompt is judged for all"):
        on_the_same_prompts([systems[0].only({"question 0"}), systems[1]], "shared")


def test_a_missing_preference_does_not_make_the_prompts_different(tmp_path):
    rows = [row(0), row(1, None), *(row(k, 2, generator_2="other") for k in (0, 1))]
    found = read_annotations([write(tmp_path / "a.json", rows)], on_bad_row="skip").systems
    assert [len(system.prompts) for system in on_the_same_prompts(found, "same")] == [1, 2]


def test_a_baseline_that_answers_in_two_ways_is_two_baselines(tmp_path):
    rows = [row(0), row(0, generator_2="other", output_1="something else")]
    systems = read_annotations([write(tmp_path / "a.json", rows)]).systems
    with pytest.raises(DataError, match="in two ways: mixed baselines"):
        on_the_same_prompts(systems, "same")


def test_orders_of_by_order_are_cut_with_the_prompts(tmp_path):
    rows = [row(k, p, order=o) for k in (0, 1) for o, p in ((1, 1), (2, 2))]
    (system,) = read_annotations([write(tmp_path / "a.json", rows)]).systems
    assert np.array_equal(system.only(["question 1"]).by_order["2"], [2])


def test_difficulty_rows(tmp_path):
    file = write(tmp_path / "d.jsonl", [{"instruction": "a", "difficulty": 1}, {"prompt": "b", "difficulty": -0.5}])
    assert read_difficulty(file) == {"a": 1.0, "b": -0.5}
    with pytest.raises(RowError, match="needs an instruction and a number"):
        read_difficulty(write(tmp_path / "e.jsonl", [{"instruction": "a", "difficulty": None}]))
    with pytest.raises(RowError, match="gives an instruction again"):
        read_difficulty(write(tmp_path / "f.jsonl", [{"instruction": "a", "difficulty": 1}] * 2))
