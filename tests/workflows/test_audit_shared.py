"""Models side by side are measured on the same rows, and what is left out is said in every place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odin_rm.cli.main import main
from odin_rm.core.errors import DataError
from odin_rm.data.load import load_preferences
from odin_rm.data.tokenise import EncodingSettings, encode_response
from odin_rm.evaluation.audit import audit_preferences
from odin_rm.testbed.tiny import build_tokenizer
from odin_rm.workflows.audit.run import AuditConfig, run_audit
from odin_rm.workflows.audit.shared_rows import SharedRows, check_same_pairs
from tests.evaluation.simulate import simulated
from tests.reports.test_page import Page
from tests.workflows.test_audit import _own_cache, models  # noqa: F401  (fixtures)

# Responses are so many words long, one token each.
SIZES = [(4, 6), (6, 4), (5, 30), (30, 5), (30, 31), (5, 60), (60, 6), (61, 60), (7, 3), (3, 5)]


def words(count: int, row: int, side: int) -> str:
    return " ".join(["good", "fine"][side] if k else f"w{row}" for k in range(count))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"prompt": f"question {k}", "chosen": words(c, k, 0), "rejected": words(r, k, 1)}
        for k, (c, r) in enumerate(SIZES)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tokens(prompt: str, response: str) -> int:
    return encode_response(build_tokenizer(), prompt, response, EncodingSettings()).sequence_tokens


def window(words_that_fit: int) -> int:
    """A window in which a response of so many words fits, and one of two words more does not."""
    sizes = [max(tokens(f"question {k}", words(words_that_fit, k, side)) for k in range(10)) for side in (0, 1)]
    return max(sizes)


@pytest.fixture
def windows() -> tuple[int, int]:
    return window(10), window(40)


def audit(rows: Path, place: Path, **options: Any) -> list[Any]:
    return run_audit(AuditConfig(dataset=str(rows), output=str(place), bootstrap_samples=9, **options))


def test_all_models_are_measured_on_what_all_can_read(models, rows, tmp_path, windows) -> None:  # noqa: F811
    short, middle = windows
    names = ["pay-1", f"pay-1@{middle}", f"pay-0@{short}"]
    results = audit(rows, tmp_path / "o", compare=names)
    # 4 pairs have both sides of at most 10 words, 7 at most 40.
    assert [r.pairs for r in results] == [4, 4, 4]
    # No model is asked for pairs that one before it cannot read.
    assert models["scored"] == [10, 7, 4]
    counts = ("pairs_stated", "pairs", "dropped_overlong_pairs", "overlong_chosen", "overlong_rejected",
              "overlong_both", "pairs_not_read_by_all")  # fmt: skip
    found = [[r.data_report[name] for name in counts] for r in results]
    assert found == [[10, 10, 0, 0, 0, 0, 6], [10, 7, 3, 1, 1, 1, 3], [10, 4, 6, 2, 2, 2, 0]]
    # The figures are those of an audit of these rows alone.
    small = tmp_path / "small.jsonl"
    kept = [line for line, sizes in zip(rows.read_text().splitlines(), SIZES, strict=True) if max(sizes) <= 10]
    small.write_text("\n".join(kept) + "\n")
    alone = audit(small, tmp_path / "alone", model="pay-1")[0].to_json()
    for name in ("accuracy", "pearson", "kendall", "moments", "length_bins", "responses", "trend"):
        assert results[0].to_json()[name] == alone[name], name
    assert alone["data_report"]["pairs_digest"] == results[2].data_report["pairs_digest"]
    comparison = json.loads((tmp_path / "o" / "comparison.json").read_text())
    assert comparison["shared_pairs"] == {"pairs": 4, "pairs_stated": 10, "pairs_left_out": 6}
    written = json.loads((tmp_path / "o" / f"pay-1-{middle}" / "audit.json").read_text())
    assert (written["pairs"], written["data_report"]["pairs_not_read_by_all"]) == (4, 3)


def test_the_order_of_the_models_changes_nothing(models, rows, tmp_path, windows) -> None:  # noqa: F811
    names = ["pay-1", f"pay-1@{windows[1]}", f"pay-0@{windows[0]}"]
    one = {r.name: r.to_json() for r in audit(rows, tmp_path / "a", compare=names)}
    other = {r.name: r.to_json() for r in audit(rows, tmp_path / "b", compare=names[::-1])}
    assert one == other
    assert models["scored"] == [10, 7, 4, 4, 4, 4]


def test_console_and_page_say_what_is_left_out(models, rows, tmp_path, windows, capsys) -> None:  # noqa: F811
    short = windows[0]
    argv = ["--compare", "pay-1", f"pay-0@{short}", "--dataset", str(rows), "--output", str(tmp_path / "o")]
    assert main(["audit", *argv, "--bootstrap_samples", "9"]) == 0
    out = capsys.readouterr().out
    assert "pay-1: pairs.jsonl: 4 of 10 pairs are used. Left out: 6 that another model cannot read." in out
    sides = f"6 longer than max_length {short} (chosen 2, rejected 2, both 2)"
    assert f"pay-0@{short}: pairs.jsonl: 4 of 10 pairs are used. Left out: {sides}." in out
    assert "The 2 models are compared on the same 4 pairs; 6 of 10 are left out." in out
    page = Page((tmp_path / "o" / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert "pairs.jsonl: 4 of 10 pairs that all models can read, 8 distinct responses" in text
    assert "The 2 models are compared on the same 4 pairs; 6 of 10 are left out." in text
    for row in (
        "Pairs that the rows state 10 10",
        "Left out: only the chosen side too long 0 2",
        "Left out: only the rejected side too long 0 2",
        "Left out: both sides too long 0 2",
        "Left out: another model cannot read it 6 0",
        "Pairs behind the figures 4 4",
    ):
        assert row in text, row


def test_one_model_says_it_too(models, rows, tmp_path, windows, capsys) -> None:  # noqa: F811
    content = [json.loads(line) for line in rows.read_text().splitlines()]
    content[8] = {"prompt": "q", "responses": ["good a", "good b", "fine"], "ranks": [1, 2, 2]}
    rows.write_text("".join(json.dumps(line) + "\n" for line in content) + '{"prompt": "p"}\n')
    argv = ["--model", f"pay-0@{windows[0]}", "--dataset", str(rows), "--output", str(tmp_path / "o")]
    assert main(["audit", *argv, "--bootstrap_samples", "9", "--on_bad_row", "skip"]) == 0
    line = (
        f"pairs.jsonl: 5 of 11 pairs are used. Left out: 6 longer than max_length {windows[0]} "
        "(chosen 2, rejected 2, both 2). 1 unusable row skipped. 1 tie of equal rank made no pair."
    )
    assert line in capsys.readouterr().out
    text = " ".join(Page((tmp_path / "o" / "report.html").read_text(encoding="utf-8")).text.split())
    assert "pairs.jsonl: 5 of 11 pairs, " in text
    for row in ("Unusable rows, skipped 1", "Ties of equal rank, which make no pair 1", "Pairs behind the figures 5"):
        assert row in text, row
    report = json.loads((tmp_path / "o" / "audit.json").read_text())["data_report"]
    assert (report["skipped_rows"], report["ties"], report["pairs_not_read_by_all"]) == (1, 1, 0)


def test_nothing_in_common_is_refused(models, rows, tmp_path, windows) -> None:  # noqa: F811
    long = [json.loads(line) for line in rows.read_text().splitlines()]
    path = tmp_path / "two.jsonl"
    # The first model reads the short pair only; the second, whose template refuses it, the long one.
    path.write_text("".join(json.dumps(line) + "\n" for line in (long[0], long[7])))
    shared = SharedRows()
    data = load_preferences(str(path), build_tokenizer(), EncodingSettings())
    for_first = load_preferences([long[0]], build_tokenizer(), EncodingSettings())
    for_second = load_preferences([long[7]], build_tokenizer(), EncodingSettings())
    assert shared.narrow("one", for_first) is for_first
    assert shared.narrow("two", data).num_pairs == 1
    with pytest.raises(DataError) as caught:
        shared.narrow("three", replace(for_second, source="two.jsonl"))
    assert str(caught.value) == (
        "two.jsonl: there is no pair that all models can read: three can read 1, and none of the 1 that one and two "
        "can. Audit the models one by one, or give a --max_length and an --overlong under which all of them can read "
        "pairs."
    )
    # By the command: nothing is written.
    only_long = tmp_path / "long.jsonl"
    only_long.write_text(json.dumps(long[7]) + "\n")
    with pytest.raises(DataError, match="longer than max_length"):
        audit(only_long, tmp_path / "o", compare=["pay-1", f"pay-0@{windows[0]}"])
    assert not (tmp_path / "o").exists()


def test_an_earlier_audit_of_other_pairs_is_refused(models, rows, tmp_path, windows) -> None:  # noqa: F811
    audit(rows, tmp_path / "short", model=f"pay-0@{windows[0]}")
    audit(rows, tmp_path / "wide", model="pay-1")
    with pytest.raises(DataError) as caught:
        audit(rows, tmp_path / "o", model="pay-2", compare=[str(tmp_path / "short")])
    assert str(caught.value) == (
        f"pairs.jsonl: the audits are not of the same pairs (pay-2: 10, pay-0@{windows[0]}: 4), so their figures "
        "cannot stand side by side. Give the models instead of their earlier audits: all are then measured on the "
        "pairs that all can read."
    )
    assert not (tmp_path / "o").exists()
    with pytest.raises(DataError, match="not of the same pairs"):
        run_audit(AuditConfig(compare=[str(tmp_path / "short"), str(tmp_path / "wide")], output=str(tmp_path / "o")))
    # Of the same pairs it may stand there.
    results = audit(rows, tmp_path / "o", model="pay-2", compare=[str(tmp_path / "wide")])
    assert [r.pairs for r in results] == [10, 10]


def test_as_many_pairs_are_not_the_same_pairs() -> None:
    result = audit_preferences(simulated(20), bootstrap_samples=0)
    one = replace(result, name="one", data_report={"pairs_digest": "aa"})
    other = replace(result, name="other", data_report={"pairs_digest": "bb"})
    with pytest.raises(DataError, match=r"not of the same pairs \(one: 20, other: 20\)"):
        check_same_pairs([one, other])
    check_same_pairs([one, replace(other, dataset="another set")])
    check_same_pairs([one, replace(other, data_report={})])  # from Python, without a digest
    twins = [replace(r, data_report={"twins_digest": r.name, "twins": 3}) for r in (one, other)]
    with pytest.raises(DataError, match="not of the same verbosity twins"):
        check_same_pairs(twins)


def test_audits_of_other_data_say_so(models, rows, tmp_path, capsys) -> None:  # noqa: F811
    lines = rows.read_text().splitlines()
    (tmp_path / "others.jsonl").write_text("\n".join(lines[:4]) + "\n")
    audit(tmp_path / "others.jsonl", tmp_path / "others", model="pay-1")
    argv = ["--model", "pay-0", "--compare", str(tmp_path / "others"), "--dataset", str(rows)]
    assert main(["audit", *argv, "--output", str(tmp_path / "o"), "--bootstrap_samples", "9"]) == 0
    note = (
        "The audits are not known to be of the same pairs (pay-0: 10 of pairs.jsonl, pay-1: 4 of others.jsonl); "
        "differences may be those of the data."
    )
    assert note in capsys.readouterr().out
    assert note in " ".join(Page((tmp_path / "o" / "report.html").read_text(encoding="utf-8")).text.split())
    assert json.loads((tmp_path / "o" / "comparison.json").read_text())["shared_pairs"] is None


def test_twins_too(models, rows, tmp_path, windows, capsys) -> None:  # noqa: F811
    twins = tmp_path / "twins.jsonl"
    lines = [{"prompt": f"q {k}", "shorter": f"w{k}", "longer": words(size, k, 0)} for k, size in enumerate([5, 6, 60])]
    lines.append({"prompt": "q", "shorter": "good", "longer": "good"})
    twins.write_text("\n".join(map(json.dumps, lines)) + '\n{"prompt": "q", "shorter": "a"}\n')
    short = f"pay-5@{windows[0]}"
    options = {"twins": str(twins), "on_bad_row": "skip"}
    results = audit(rows, tmp_path / "o", compare=["pay-5", short], **options)
    counts = ("twins", "twins_left_out", "twins_overlong", "twins_identical", "twins_not_read_by_all", "twins_skipped")
    found = [[r.data_report[name] for name in counts] for r in results]
    assert found == [[2, 3, 0, 1, 1, 1], [2, 3, 1, 1, 0, 1]]
    assert [r["verbosity_twins_longer_wins"].value for r in results] == [1.0, 1.0]
    assert results[0].data_report["twins_digest"] == results[1].data_report["twins_digest"]
    argv = ["--compare", "pay-5", short, "--dataset", str(rows), "--output", str(tmp_path / "p"), "--twins", str(twins)]
    assert main(["audit", *argv, "--on_bad_row", "skip", "--bootstrap_samples", "9"]) == 0
    out = capsys.readouterr().out
    assert "pay-5: 2 twins; 3 left out: 1 with the same tokens, 1 that another model cannot read, 1 unusable." in out
    twins.write_text(json.dumps(lines[3]) + "\n")
    with pytest.raises(DataError, match="no twin"):
        audit(rows, tmp_path / "q", model="pay-1", twins=str(twins))


def test_pairs_that_are_one_to_the_model_do_not_count(models, tmp_path) -> None:  # noqa: F811
    path = tmp_path / "same.jsonl"
    tail = " ".join(["good"] * 70)
    lines = [{"prompt": "q", "chosen": f"{tail} a{k}", "rejected": f"{tail} b{k}"} for k in range(4)]
    lines.append({"prompt": "q", "chosen": "good", "rejected": "fine good"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (result,) = audit(path, tmp_path / "o", model="pay-1", max_length=64, overlong="truncate_response")
    assert (result.pairs, result.data_report["identical_pairs"]) == (1, 4)
    assert result["accuracy"].value in (0.0, 1.0)  # four halves are not in it


@pytest.mark.parametrize("unit", ["characters", "words"])
def test_other_units_follow_their_responses(models, rows, tmp_path, windows, unit) -> None:  # noqa: F811
    results = audit(rows, tmp_path / "o", compare=["pay-1", f"pay-1@{windows[0]}"], length_unit=unit)
    kept = [json.loads(x) for x, sizes in zip(rows.read_text().splitlines(), SIZES, strict=True) if max(sizes) <= 10]
    texts = [line[side] for line in kept for side in ("chosen", "rejected")]
    expected = np.mean([len(text) if unit == "characters" else len(text.split()) for text in texts])
    assert [r.moments["length_mean"] for r in results] == pytest.approx([expected] * 2)
