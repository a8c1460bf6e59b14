"""The attributes of an audit of a model: the same numbers as from its stored scores, and attributes of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError
from odin_rm.data.attributes import DEFAULT, TOKENS
from odin_rm.workflows.audit.config import AuditConfig
from odin_rm.workflows.audit.run import run_audit
from odin_rm.workflows.model_scores import scorer_of, scores_of
from odin_rm.workflows.score.config import ScoreConfig


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory) -> None:
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def marked(bed, tmp_path) -> Path:
    """The held-out pairs of the testbed, some with marks and compliments in them."""
    path = tmp_path / "marked.jsonl"
    rng = np.random.default_rng(0)
    rows = [json.loads(line) for line in bed["eval"].read_text().splitlines()]
    for row in rows:
        for side in ("chosen", "rejected"):
            row[side] += " Well done!" * int(rng.integers(0, 3)) + "\n- more" * int(rng.integers(0, 4))
            row[f"{side}_letters"] = float(sum(map(str.isalpha, row[side])))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stored_rows(model: str, path: Path) -> list[dict[str, Any]]:
    """The pairs with the model's own scores and token counts beside them."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    config = ScoreConfig(model=model, input=str(path), output="unused.jsonl")
    scorer = scorer_of(config, model)
    for side in ("chosen", "rejected"):
        scores, tokens = scores_of(scorer, [r["prompt"] for r in rows], [r[side] for r in rows], config)
        for row, score, count in zip(rows, scores, tokens, strict=True):
            row[f"{side}_score"], row[f"{side}_{TOKENS}"] = float(score), float(count)
    return rows


def numbers(content: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a JSON value by its path."""
    if isinstance(content, dict):
        return {k: v for name, one in content.items() for k, v in numbers(one, f"{path}.{name}").items()}
    if isinstance(content, list):
        return {k: v for i, one in enumerate(content) for k, v in numbers(one, f"{path}[{i}]").items()}
    return {path: content}


@pytest.fixture
def model(train) -> str:
    return str(train("odin", eval_strategy="no", max_steps=2) / "model")


@pytest.fixture
def both(model, marked, tmp_path) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {"bootstrap_samples": 60, "seed": 3}
    run_audit(AuditConfig(model=model, dataset=str(marked), output=str(tmp_path / "by_model"), **options))
    file = tmp_path / "scored.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in stored_rows(model, marked)))
    run_audit(AuditConfig(scores=str(file), output=str(tmp_path / "by_scores"), **options))
    first, second = (json.loads((tmp_path / n / "audit.json").read_text()) for n in ("by_model", "by_scores"))
    return first, second


def test_a_models_audit_has_every_attribute_with_the_numbers_of_its_stored_scores(both):
    by_model, by_scores = both
    assert list(by_model["attributes"]) == [TOKENS, *DEFAULT]
    assert set(by_scores["attributes"]) == set(by_model["attributes"])
    for name in ("attributes", "between_prompt_share", "style_share", "accuracy", "pearson_within_prompt"):
        ours, theirs = numbers(by_model[name]), numbers(by_scores[name])
        assert ours.keys() == theirs.keys()
        for place, value in ours.items():
            wanted = theirs[place] if not isinstance(value, float) else pytest.approx(theirs[place], abs=2e-6)
            assert value == wanted, (name, place)
    list_items = by_model["attributes"]["list_items"]
    assert list_items["within"]["pearson"]["low"] is not None
    assert list_items["amplification"]["label"]["value"] is not None


def test_columns_and_functions_of_ones_own(model, marked, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def letters_e(text):\n    return text.count('e')\n")
    monkeypatch.chdir(tmp_path)
    settings = {"model": model, "dataset": str(marked), "bootstrap_samples": 20}
    names = ["words", "column:letters", "mine:letters_e"]
    for unit in ("tokens", "words"):
        out = tmp_path / unit
        run_audit(AuditConfig(output=str(out), attributes=names, length_unit=unit, **settings))
        found = json.loads((out / "audit.json").read_text())["attributes"]
        assert list(found) == [TOKENS, "words", "letters_e", "letters"]
        rows = [json.loads(line) for line in marked.read_text().splitlines()]
        texts = {(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")}
        assert found["letters_e"]["mean"] == pytest.approx(np.mean([text.count("e") for _, text in texts]))
        assert found["letters"]["mean"] == pytest.approx(np.mean([sum(map(str.isalpha, t)) for _, t in texts]))
        assert found["letters_e"]["words"] == "letters e"


def test_a_function_that_changes_is_asked_again(model, marked, tmp_path, monkeypatch):
    """Texts are kept in the cache; figures of a user's own function are not."""
    means = []
    for k, letter in enumerate("ea"):
        count = SimpleNamespace(count=lambda text, letter=letter: text.count(letter))
        monkeypatch.setitem(sys.modules, "own", count)
        out = tmp_path / str(k)
        settings = {"model": model, "dataset": str(marked), "bootstrap_samples": 20}
        run_audit(AuditConfig(output=str(out), attributes=["own:count"], **settings))
        means.append(json.loads((out / "audit.json").read_text())["attributes"]["count"]["mean"])
    assert means[0] != means[1]


def test_an_attribute_that_there_is_not_is_refused_before_anything_is_scored(model, marked, tmp_path):
    config = AuditConfig(model=model, dataset=str(marked), output=str(tmp_path / "out"), attributes=["shoes"])
    with pytest.raises(ConfigError, match="no attribute 'shoes'"):
        run_audit(config)
    assert not (tmp_path / "out").exists()


def test_two_models_side_by_side_have_paired_differences_in_json_and_page(train, model, marked, tmp_path):
    other = str(train("plain", objective="bradley_terry", eval_strategy="no", max_steps=6) / "model")
    out = tmp_path / "both"
    run_audit(AuditConfig(model=model, compare=[other], dataset=str(marked), output=str(out), bootstrap_samples=30))
    content = json.loads((out / "comparison.json").read_text())
    (found,) = content["differences"]
    assert [found["before"], found["after"]] == content["models"]
    was, now = (content["audits"][name] for name in content["models"])
    assert found["figures"]["accuracy"]["value"] == pytest.approx(now["accuracy"]["value"] - was["accuracy"]["value"])
    assert list(found["attributes"]) == list(was["attributes"])
    cells = found["attributes"]["list_items"]["within"]
    before, after = (one["attributes"]["list_items"]["within"]["pearson"] for one in (was, now))
    assert cells["difference"]["value"] == pytest.approx(after["value"] - before["value"])
    assert cells["difference"]["low"] <= cells["difference"]["value"] <= cells["difference"]["high"]
    page = (out / "report.html").read_text()
    assert "Substitution matrix" in page
    assert f"From {found['before']} to {found['after']}" in page


def test_stored_scores_of_two_models_are_paired_too(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for name, pay in (("plain", 1.0), ("mended", 0.0)):
        for p in range(40):
            for k in range(3):
                text = f"{p} {k} word" + "\n- item" * ((p + k) % 4)
                score = pay * ((p + k) % 4) + float(rng.normal())
                rows.append({"prompt_id": p, "response": text, "score": score, "label": k, "model": name})
    file = tmp_path / "scores.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_audit(AuditConfig(scores=str(file), output=str(tmp_path / "out"), bootstrap_samples=50))
    (found,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["differences"]
    assert found["attributes"]["list_items"]["within"]["difference"]["high"] < -0.2
