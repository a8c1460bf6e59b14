"""Stored scores: the three forms of rows, what they say, and what is refused."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.data.columns import Columns
from odin_rm.evaluation import stored_scores
from odin_rm.evaluation.stored_scores import read_stored_scores

PAIR = {"prompt": "p", "chosen": "a b", "rejected": "c", "chosen_score": 2, "rejected_score": "1.5"}


def only(rows, **options):
    (found,) = read_stored_scores(rows, **options)
    return found


def test_the_pair_form_knows_a_response_again():
    rows = [PAIR, {**PAIR, "rejected": "d", "rejected_score": 3}, {**PAIR, "prompt": "q"}]
    found = only(rows, attributes=["words"])
    assert found.quality.tolist() == [2, 1.5, 3, 2, 1.5]
    assert found.prompt.tolist() == [0, 0, 0, 1, 1]
    assert list(zip(found.chosen, found.rejected, strict=True)) == [(0, 1), (0, 2), (3, 4)]
    assert found.attributes["words"].tolist() == [2, 1, 1, 2, 1]
    assert found.prompt_keys == ["p", "q"]
    assert found.model == "rows"


def test_the_list_form_makes_pairs_of_different_labels():
    row = {
        "prompt_id": 7,
        "responses": ["a", "b c", "d"],
        "scores": [1, 2, 2],
        "labels": [1, 0, 1],
        "gold": [0.5, 0, 1],
    }
    found = only([row], attributes=["words"])
    assert sorted(zip(found.chosen.tolist(), found.rejected.tolist(), strict=True)) == [(0, 1), (2, 1)]
    assert found.gold.tolist() == [0.5, 0, 1]
    assert found.label.tolist() == [1, 0, 1]
    assert found.prompt_keys == ["7"]
    assert found.prompts == [None]


def test_the_long_form_keeps_models_apart_and_equal_samples_too():
    rows = [
        {"prompt_id": p, "response": f"r{k // 2}", "score": k + p, "model": m, "label": k}
        for m in ("x", "y")
        for p in (1, 2)
        for k in range(3)
    ]
    first, second = read_stored_scores(rows)
    assert (first.model, second.model) == ("x", "y")
    assert first.quality.tolist() == [1, 2, 3, 2, 3, 4]
    assert first.texts == ["r0", "r0", "r1"] * 2
    assert len(first.chosen) == 6
    assert len(first.attributes) == 20


def test_attributes_stand_for_the_text():
    rows = [
        {"prompt_id": 1, "score": s, "attributes": {"words": w, "response_tokens": 2 * w}} for s, w in ((1, 5), (2, 9))
    ]
    found = only(rows)
    assert found.attributes["words"].tolist() == [5, 9]
    assert found.described["words"].unit == "100 words"
    row = {"prompt_id": 1, "chosen_score": 1, "rejected_score": 0}
    row |= {"chosen_attributes": {"polite": 1}, "rejected_attributes": {"polite": 0.5}}
    assert only([row]).attributes["polite"].tolist() == [1, 0.5]
    listed = {"prompt_id": 1, "scores": [1, 2], "attributes": [{"a": 1}, {"a": 2}]}
    assert only([listed]).attributes["a"].tolist() == [1, 2]


def test_columns_are_attributes_where_they_are_asked_for():
    rows = [
        {"prompt": "p", "response": "a", "score": 1, "polite": 0.5},
        {"prompt": "p", "response": "b", "score": 1, "polite": 1},
    ]
    found = only(rows, attributes=["words", "column:polite"])
    assert list(found.attributes) == ["words", "polite"]
    assert found.attributes["polite"].tolist() == [0.5, 1]
    pair = {**PAIR, "chosen_polite": 3, "rejected_polite": 4}
    assert only([pair], attributes=["column:polite"]).attributes["polite"].tolist() == [3, 4]


def test_tokens_come_from_the_rows():
    rows = [{"prompt": "p", "response": r, "quality": 1, "response_tokens": n} for r, n in (("a", 3), ("b c", 4))]
    found = only(rows, columns=Columns(["score=quality"]))
    assert found.attributes["response_tokens"].tolist() == [3, 4]
    assert "words" in found.attributes


def test_names_are_mapped():
    rows = [{"id": 3, "answer": "x y", "reward": 4}]
    found = only(rows, columns=Columns(["prompt_id=id", "response=answer", "score=reward"]), attributes=["words"])
    assert found.attributes["words"].tolist() == [2]
    with pytest.raises(DataError, match="has no column 'rewards'"):
        only(rows, columns=Columns(["score=rewards"]))


def test_chats_count_what_the_assistant_says():
    chat = [{"role": "assistant", "content": "one two"}]
    asked = [{"role": "user", "content": "q"}]
    assert only([{"prompt": asked, "response": chat, "score": 1}], attributes=["words"]).attributes[
        "words"
    ].tolist() == [2]
    whole = {"chosen": asked + chat, "rejected": [*asked, {"role": "assistant", "content": "x"}]}
    found = only([{**whole, "chosen_score": 1, "rejected_score": 0}], attributes=["words"])
    assert found.attributes["words"].tolist() == [2, 1]
    assert found.prompts == ["q"]
    csv = {"prompt": "p", "responses": json.dumps(["a", "b c"]), "scores": "[1, 2]"}
    assert only([csv], attributes=["words"]).attributes["words"].tolist() == [1, 2]


def test_a_response_without_a_score_is_left_out_and_counted():
    rows = [PAIR, {**PAIR, "prompt": "q", "chosen_score": None}, {**PAIR, "prompt": "r", "chosen_score": "nan"}]
    found = only(rows)
    assert len(found.chosen) == 1
    assert found.report["responses_without_score"] == 2
    assert found.report["pairs_without_score"] == 2
    assert found.report["pairs_stated"] == 3
    assert found.prompt.max() == 2


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "p", "response": "x"}, "has no score \\(its fields are prompt, response\\)"),
        ({"response": "x", "score": 1}, "has neither 'prompt_id' nor 'prompt'"),
        ({"prompt_id": 1, "score": 1}, "'response' has neither a text nor attributes"),
        ({"prompt_id": 1, "response": "x", "score": "good"}, "'score' is 'good', not a number"),
        ({"prompt_id": 1, "response": "x", "score": 1e999}, "'score' is infinite"),
        ({"prompt_id": 1, "scores": [1, 2], "responses": ["a"]}, "'responses' has 1 entries and 'scores' has 2"),
        ({"prompt_id": 1, "score": 1, "attributes": {"a": None}}, "'attributes.a' is missing or no number"),
        ({**PAIR, "rejected": "a b"}, "'chosen' is equal to 'rejected'"),
    ],
)
def test_unusable_rows_are_named_and_can_be_skipped(row, message):
    with pytest.raises(RowError, match=f"row 2: {message}"):
        read_stored_scores([PAIR, row])
    found = only([PAIR, row], on_bad_row="skip")
    assert found.report["skipped_rows"] == 1
    assert found.report["rows"] == 2


def test_what_is_missing_is_said():
    rows = [{"prompt_id": 1, "score": 1, "attributes": {"words": 3}}]
    with pytest.raises(DataError, match="have no 'headers' and no texts"):
        read_stored_scores(rows, attributes=["headers"])
    with pytest.raises(DataError, match="have no 'response_tokens'"):
        read_stored_scores([PAIR], attributes=["response_tokens"])
    with pytest.raises(DataError, match="no row has a score"):
        read_stored_scores(
            [{**PAIR, "chosen_score": None, "rejected_score": ""}, {"score": None, "prompt_id": 1, "response": "x"}]
        )
    with pytest.raises(ConfigError, match="there is no attribute 'wordz'"):
        read_stored_scores([PAIR], attributes=["wordz"])


def test_a_text_that_several_models_wrote_is_measured_once(tmp_path, monkeypatch):
    (tmp_path / "counting.py").write_text("calls = []\ndef size(text):\n    calls.append(text)\n    return len(text)\n")
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt_id": 1, "response": "abc", "score": s, "model": m} for s, m in ((1, "x"), (2, "y"), (3, "y"))]
    found = read_stored_scores(rows, attributes=["counting:size"])
    import counting  # type: ignore[import-not-found]

    assert counting.calls == ["abc"]
    assert np.concatenate([one.attributes["size"] for one in found]).tolist() == [3, 3, 3]


def test_without_texts_the_figures_are_the_same(monkeypatch):
    monkeypatch.setattr(stored_scores, "_BLOCK_TEXTS", 3)
    pairs = [{**PAIR, "prompt": f"p{k // 2}", "chosen": "a " * (k + 2), "rejected": f"b{k % 3}"} for k in range(8)]
    numbers = {"attributes": {"words": 9, "own": 2.5}}
    rows = [*pairs, {"prompt": "p1", "response": "a a a", "score": -0.0, "label": 1, "writer": "w"}]
    rows += [
        {"prompt": "x" * 50, "response": "long", "score": k, "label": k, "model": "m", **numbers} for k in range(3)
    ]
    for kept, not_kept in zip(read_stored_scores(rows), read_stored_scores(rows, keep_texts=False), strict=True):
        for name in ("quality", "prompt", "label", "gold", "chosen", "rejected"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(not_kept, name))
        assert list(kept.attributes) == list(not_kept.attributes)
        for name, values in kept.attributes.items():
            np.testing.assert_array_equal(values, not_kept.attributes[name])
        assert (kept.report, kept.writers) == (not_kept.report, not_kept.writers)
        assert len(kept.texts) == len(kept.quality)
        assert (not_kept.texts, not_kept.prompts, not_kept.prompt_keys) == ([], [], [])


def test_without_texts_memory_does_not_grow_with_their_length():
    rows = [{"prompt": f"{k} {'?' * 5000}", "response": f"{k} {'a' * 5000}", "score": k} for k in range(300)]
    tracemalloc.start()
    found = only(rows, attributes=["characters"], keep_texts=False)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.quality) == 300
    assert held < 300 * 1000
