"""``odin-rm audit --scores``: no model, every figure of the contract, several models, published figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, OdinError
from odin_rm.core.files import RowWriter
from odin_rm.evaluation.audit import CONTRACT_FIGURES, AuditResult
from odin_rm.reports.attribute_section import attribute_sentence
from odin_rm.workflows.audit.config import AuditConfig
from odin_rm.workflows.audit.run import run_audit
from tests.published import published

V = {"value", "low", "high"}


def judge_rows(prompts: int = 60, seed: int = 0) -> list[dict]:
    """A judge's whole scores of 1 to 10, many of them tied, that pay for list items."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(prompts):
        for _ in range(3):
            items, words = int(rng.integers(0, 6)), int(rng.integers(5, 60))
            text = " ".join(["word"] * words) + "".join("\n- item" for _ in range(items))
            score = int(np.clip(round(3 + items + rng.normal()), 1, 10))
            rows.append({"prompt_id": p, "response": text, "score": score, "label": int(rng.integers(0, 3))})
    return rows


def write(path: Path, rows: list[dict]) -> str:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


def audit(tmp_path: Path, rows: list[dict], name: str = "scores.jsonl", **settings) -> list[AuditResult]:
    file = write(tmp_path / name, rows)
    settings = {"bootstrap_samples": 40, "overwrite_output_dir": True, **settings}
    return run_audit(AuditConfig(scores=file, output=str(tmp_path / "out"), **settings))


def test_audit_json_has_every_figure_of_the_contract(tmp_path):
    audit(tmp_path, judge_rows())
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert set(CONTRACT_FIGURES) <= set(content)
    assert content["responses"] == 180
    assert content["length_unit"] == "response words"
    assert len(content["attributes"]) == 20
    one = content["attributes"]["list_items"]
    for group in ("pooled", "within"):
        assert set(one[group]) == {"pearson", "spearman", "kendall"}
        assert set(one[group]["kendall"]) >= V
    assert set(one["amplification"]) >= V | {"reward", "label"}
    assert set(one["accuracy_for"]) >= V <= set(one["accuracy_against"])
    assert set(content["between_prompt_share"]) & set(content["style_share"]) >= V
    assert one["within"]["pearson"]["low"] > 0.5
    assert one["amplification"]["low"] > 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "attributes.png").is_file()
    assert "list items" in (tmp_path / "out" / "report.html").read_text()


def test_the_result_survives_its_file(tmp_path):
    (result,) = audit(tmp_path, judge_rows(20))
    again = AuditResult.from_json(json.loads((tmp_path / "out" / "audit.json").read_text()))
    assert again.attributes.keys() == result.attributes.keys()
    assert again["style_share"].value == pytest.approx(result["style_share"].value)


def test_pairs_lists_and_single_responses_say_the_same(tmp_path):
    """One set in three forms gives one set of figures."""
    rng = np.random.default_rng(1)
    pairs, lists, single = [], [], []
    for p in range(30):
        texts = ["w " * int(rng.integers(2, 30)) + f"{p}{side}" for side in "ab"]
        scores = rng.normal(size=2).round(1).tolist()
        pair = {"prompt": f"q{p}", "chosen": texts[0], "rejected": texts[1]}
        pairs.append({**pair, "chosen_score": scores[0], "rejected_score": scores[1]})
        lists.append({"prompt": f"q{p}", "responses": texts, "scores": scores, "labels": [1, 0]})
        single += [
            {"prompt": f"q{p}", "response": t, "score": s, "label": k}
            for t, s, k in zip(texts, scores, (2, 1), strict=True)
        ]
    contents = []
    for rows in (pairs, lists, single):
        (result,) = audit(tmp_path, rows)
        content = result.to_json()
        contents.append({k: v for k, v in content.items() if k not in ("data_report",)})
    assert contents[0] == contents[1] == contents[2]


def test_without_labels_correlations_are_there_and_accuracies_say_why(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "label"} for row in judge_rows(20)]
    (result,) = audit(tmp_path, rows)
    assert result["accuracy"].value is None
    assert result["accuracy"].why == "there are no pairs"
    assert result.attributes["list_items"]["within"]["spearman"]["value"] > 0.5
    assert result.attributes["list_items"]["amplification"]["reward"]["value"] > 0.5
    assert result.attributes["list_items"]["amplification"]["value"] is None


def test_several_models_each_get_an_audit_and_the_first_is_the_folders(tmp_path):
    rows = [{**row, "model": name} for name in ("one/a", "b") for row in judge_rows(15)]
    results = audit(tmp_path, rows)
    assert [r.name for r in results] == ["one/a", "b"]
    out = tmp_path / "out"
    assert json.loads((out / "audit.json").read_text())["name"] == "one/a"
    assert json.loads((out / "b" / "audit.json").read_text())["name"] == "b"
    assert json.loads((out / "comparison.json").read_text())["models"] == ["one/a", "b"]


def test_names_counts_and_a_column_of_ones_own_from_csv(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"id": p, "answer": "w " * (k + 1), "rating": int(rng.integers(1, 6)), "polite": round(rng.random(), 3)}
        for p in range(12)
        for k in range(3)
    ]
    settings = {"columns": ["prompt_id=id", "response=answer", "score=rating"]}
    (result,) = audit(tmp_path, rows, "scores.csv", attributes=["words", "column:polite"], **settings)
    assert list(result.attributes) == ["words", "polite"]
    assert result["pearson"].value is not None


def test_length_comes_from_what_is_there(tmp_path):
    counts = [
        {"prompt_id": p, "score": p + k, "attributes": {"response_tokens": 10 * k + p, "emoji": k % 2}}
        for p in range(12)
        for k in range(2)
    ]
    (result,) = audit(tmp_path, counts)
    assert result.length_unit == "response tokens"
    none = [{**row, "attributes": {"emoji": row["attributes"]["emoji"]}} for row in counts]
    (result,) = audit(tmp_path, none)
    assert result["pearson"].why == "the length is the same for every response"
    assert result.attributes["emoji"]["within"]["pearson"]["value"] == pytest.approx(1)


def test_the_sentence_names_what_is_clear(tmp_path):
    (result,) = audit(tmp_path, judge_rows(), attributes=["words", "list_items"])
    assert attribute_sentence(result).startswith("goes most with list items (0.")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model": "m"}, "--model: does not go with --scores"),
        ({"dataset": "d"}, "--dataset: does not go with --scores"),
        ({"scores": None}, "there is no model to audit"),
    ],
)
def test_flags_that_do_not_go_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        AuditConfig(**{"scores": "f", "output": "o", **settings})


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(OdinError, match="row 1: has no score"):
        audit(tmp_path, [{"prompt": "p", "response": "r"}])
    assert not (tmp_path / "out").exists()


def test_neither_a_model_nor_torch_is_needed(tmp_path):
    file = write(tmp_path / "s.jsonl", judge_rows(12))
    code = (
        "import sys; from odin_rm.cli.main import main; "
        f"code = main(['audit', '--scores', {file!r}, '--output', {str(tmp_path / 'o')!r}])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(code)"
    )
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Within a prompt the correlation is" in done.stdout.replace("\n", " ")


def test_judgebench_gets_its_published_accuracies_and_correlations(tmp_path):
    """A tie counts half here and for B in the paper; there are four, so accuracies agree to 0.3 points."""
    pairs = {row["pair_id"]: row for row in published("judgebench_pairs.jsonl.gz")}
    rows = []
    for row in published("judgebench_rm_scores.jsonl.gz"):
        pair = pairs[row["pair_id"]]
        text, right = pair[f"response_{row['response']}"], int(pair["label"][0] == row["response"])
        rows.append(
            {"prompt_id": row["pair_id"], "response": text, "label": right, **{k: row[k] for k in ("model", "score")}}
        )
    results = {r.name: r for r in audit(tmp_path, rows, attributes=["words"], bootstrap_samples=2)}
    known = {
        "Skywork/Skywork-Reward-Llama-3.1-8B": (0.6229, -0.231, -0.082),
        "internlm/internlm2-20b-reward": (0.6343, 0.348, -0.091),
        "internlm/internlm2-7b-reward": (0.5943, 0.305, -0.105),
    }
    for name, (accuracy, pooled, within) in known.items():
        words = results[name].attributes["words"]
        assert results[name]["accuracy"].value == pytest.approx(accuracy, abs=0.003)
        assert words["pooled"]["pearson"]["value"] == pytest.approx(pooled, abs=0.0005)
        assert words["within"]["pearson"]["value"] == pytest.approx(within, abs=0.0015)
