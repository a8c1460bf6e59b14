"""The audit command's body, with a scorer of known rewards in place of a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from odin_rm.core.errors import ConfigError, DataError, ModelError, OutputError, RowError
from odin_rm.data.tokenise import EncodingSettings
from odin_rm.evaluation.audit import CONTRACT_FIGURES
from odin_rm.model import scoring
from odin_rm.reward import scoring as preference_scoring
from odin_rm.testbed.tiny import build_tokenizer
from odin_rm.workflows.audit.data import measure
from odin_rm.workflows.audit.run import AuditConfig, folder_name, run_audit


@dataclass
class FakeScorer:
    """Pays ``pay`` per token plus noise that is a function of the text."""

    name: str
    pay: float
    tokenizer: Any
    settings: EncodingSettings
    info: Any = None
    model: Any = field(default_factory=torch.nn.Identity)
    dial: Any = None


def reward(scorer: FakeScorer, tokens: np.ndarray, ids: list[Any]) -> np.ndarray:
    noise = np.array([np.random.default_rng(abs(hash(tuple(map(int, i))))).normal() for i in ids])
    return scorer.pay * np.asarray(tokens) + noise


@pytest.fixture
def models(monkeypatch) -> dict[str, Any]:
    """Models called ``pay-<rate>`` exist, of ours with a window of n as ``pay-<rate>@<n>``; calls are recorded."""
    calls: dict[str, Any] = {"columns": [], "settings": [], "scored": []}

    def load_scorer(path, *, column=None, **kwargs):
        if not str(path).startswith("pay-"):
            raise ModelError("cannot be loaded", where=str(path))
        calls["columns"].append(column)
        rate, _, window = str(path)[4:].partition("@")
        scorer = FakeScorer(str(path), float(rate), build_tokenizer(), EncodingSettings())
        if window:
            scorer.settings = EncodingSettings(max_length=int(window))
            scorer.info = SimpleNamespace(encoding={"max_length": int(window)})
        return scorer

    def score_preferences(scorer, data, *, microbatch_tokens, progress=None):
        calls["settings"].append(scorer.settings)
        calls["scored"].append(data.num_pairs)
        progress(data.num_responses)
        ids = [data.input_ids(r) for r in range(data.num_responses)]
        return preference_scoring.as_scored(data, {"quality": reward(scorer, data.response_tokens, ids)}, scorer.name)

    def score_texts(scorer, prompts, responses, *, microbatch_tokens):
        tokens = np.array([len(text.split()) for text in responses])
        return reward(scorer, tokens, [text.encode() for text in responses]), None, tokens

    for function in (load_scorer, score_texts):
        monkeypatch.setattr(scoring, function.__name__, function)
    monkeypatch.setattr(preference_scoring, "score_preferences", score_preferences)
    return calls


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory) -> None:
    monkeypatch.setenv("ODIN_RM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def rows(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "pairs.jsonl"
    with path.open("w") as file:
        for k in range(40):
            sizes = rng.integers(2, 30, size=2)
            chosen, rejected = ("good " * (int(s) + 1) + f"end {k} {side}" for side, s in enumerate(sizes))
            row = {"prompt": f"question {k}", "chosen": chosen, "rejected": rejected}
            row |= {"chosen_true_quality": 1.0, "rejected_true_quality": float(rng.normal())}
            file.write(json.dumps(row) + "\n")
    return path


def test_one_model_writes_audit_json_figures_and_page(models, rows, tmp_path) -> None:
    out = tmp_path / "out"
    (result,) = run_audit(AuditConfig(model="pay-1", dataset=str(rows), output=str(out), bootstrap_samples=30))
    content = json.loads((out / "audit.json").read_text())
    assert set(CONTRACT_FIGURES) <= set(content)
    assert content["pearson"]["value"] == result["pearson"].value > 0.9
    assert content["length_unit"] == "response tokens"
    assert "true_quality_agreement" in content
    assert (out / "report.html").exists()
    assert len(list(out.glob("*.png"))) == 5  # four of length, one of all attributes
    assert not (out / "comparison.json").exists()
    assert not list(tmp_path.glob(".out*"))


def test_models_side_by_side_and_earlier_audits(models, rows, tmp_path) -> None:
    out, both = tmp_path / "out", tmp_path / "both"
    run_audit(AuditConfig(model="pay-1", dataset=str(rows), output=str(out), bootstrap_samples=30))
    config = AuditConfig(
        model="pay-0", compare=["pay-0.5", str(out)], dataset=str(rows), output=str(both), bootstrap_samples=30
    )
    results = run_audit(config)
    assert [r.name for r in results] == ["pay-0", "pay-0.5", "pay-1"]
    assert json.loads((both / "audit.json").read_text())["name"] == "pay-0"
    assert json.loads((both / "pay-0.5" / "audit.json").read_text())["name"] == "pay-0.5"
    assert not (both / "pay-1").exists()
    comparison = json.loads((both / "comparison.json").read_text())
    assert comparison["shared_pairs"] == {"pairs": 40, "pairs_stated": 40, "pairs_left_out": 0}
    assert comparison["models"] == ["pay-0", "pay-0.5", "pay-1"]
    assert comparison["audits"]["pay-1"] == json.loads((out / "audit.json").read_text())
    # Earlier audits alone need no data and no model.
    results = run_audit(AuditConfig(compare=[str(out), str(both / "audit.json")], output=str(tmp_path / "old")))
    assert [r.name for r in results] == ["pay-1", "pay-0"]
    assert not (tmp_path / "old" / "audit.json").exists()


def test_models_of_one_name_are_told_apart(models, rows, tmp_path) -> None:
    config = AuditConfig(compare=["pay-1", "pay-1"], dataset=str(rows), output=str(tmp_path / "o"), bootstrap_samples=9)
    assert [r.name for r in run_audit(config)] == ["pay-1", "pay-1 (2)"]


def test_a_folder_with_an_audit_is_kept_unless_told_otherwise(models, rows, tmp_path) -> None:
    out = tmp_path / "out"
    config = AuditConfig(model="pay-1", dataset=str(rows), output=str(out), bootstrap_samples=9)
    run_audit(config)
    before = (out / "audit.json").read_bytes()
    with pytest.raises(OutputError, match="pass --overwrite to replace"):
        run_audit(config)
    assert (out / "audit.json").read_bytes() == before
    config.overwrite_output_dir, config.model, config.compare = True, "pay-0", ["pay-2"]
    run_audit(config)
    assert (out / "pay-2" / "audit.json").exists()
    config.compare = []
    run_audit(config)
    assert not (out / "pay-2").exists()
    assert not (out / "comparison.json").exists()
    assert json.loads((out / "audit.json").read_text())["name"] == "pay-0"


def test_an_audit_never_replaces_a_training_run(models, rows, tmp_path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    config = AuditConfig(model="pay-1", dataset=str(rows), output=str(tmp_path / "run"), overwrite_output_dir=True)
    (tmp_path / "run" / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds model, which odin-rm did not write there"):
        run_audit(config)
    (tmp_path / "run" / ".odin-rm.json").write_text('{"command": "reward"}')
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="holds another run"):
        run_audit(config)
    assert (tmp_path / "run" / "model" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("trouble", ["model", "rows"])
def test_nothing_is_half_written(models, rows, tmp_path, trouble) -> None:
    if trouble == "rows":
        rows.write_text(rows.read_text() + '{"prompt": "p", "rejected": "no"}\n')
    model = "other" if trouble == "model" else "pay-1"
    with pytest.raises((ModelError, RowError)) as error:
        run_audit(AuditConfig(model=model, dataset=str(rows), output=str(tmp_path / "out")))
    assert trouble == "model" or "row 41" in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize("unit", ["characters", "words"])
def test_other_units_of_length(models, rows, tmp_path, unit) -> None:
    config = AuditConfig(
        model="pay-1", dataset=str(rows), output=str(tmp_path / "o"), length_unit=unit, bootstrap_samples=9
    )
    (result,) = run_audit(config)
    texts = [row[side] for row in map(json.loads, rows.open()) for side in ("chosen", "rejected")]
    lengths = [len(t) if unit == "characters" else len(t.split()) for t in texts]
    assert result.length_unit == f"response {unit}"
    assert result.dataset == "pairs.jsonl"
    assert result.moments["length_mean"] == pytest.approx(np.mean(lengths))
    assert measure([{"role": "assistant", "content": "two words"}], "words") == 2


def test_bad_rows_are_placed_or_skipped_in_every_unit(models, rows, tmp_path) -> None:
    rows.write_text(rows.read_text() + '{"prompt": "p", "rejected": "no"}\n{broken\n')
    for unit in ("tokens", "words"):
        config = AuditConfig(
            model="pay-1", dataset=str(rows), output=str(tmp_path / unit), length_unit=unit, bootstrap_samples=9
        )
        with pytest.raises(RowError, match=r"pairs.jsonl, row 41.*chosen"):
            run_audit(config)
        config.on_bad_row = "skip"
        (result,) = run_audit(config)
        assert result.data_report["skipped_rows"] == 2
        assert result.pairs == 40


def test_twins(models, rows, tmp_path) -> None:
    twins = tmp_path / "twins.jsonl"
    lines = [{"prompt": f"q {k}", "shorter": f"word {k}", "longer": f"word {k} " * 20} for k in range(30)]
    twins.write_text("\n".join(map(json.dumps, lines)))
    config = AuditConfig(
        model="pay-5", dataset=str(rows), output=str(tmp_path / "o"), twins=str(twins), bootstrap_samples=9
    )
    run_audit(config)
    content = json.loads((tmp_path / "o" / "audit.json").read_text())
    assert content["verbosity_twins_longer_wins"]["value"] == 1.0
    assert content["data_report"]["twins"] == 30
    twins.write_text(twins.read_text() + '\n{"prompt": "q", "shorter": "a"}')
    config.output = str(tmp_path / "p")
    with pytest.raises(RowError, match=r"row 31.*longer"):
        run_audit(config)


def test_flags_reach_the_scorer(models, rows, tmp_path) -> None:
    config = AuditConfig(
        model="pay-1", dataset=str(rows), output=str(tmp_path / "o"), column="3", max_length=99,
        overlong="truncate_response", bootstrap_samples=9, seed=4,
    )  # fmt: skip
    (result,) = run_audit(config)
    assert models["columns"] == ["3"]
    assert models["settings"] == [EncodingSettings(max_length=99, overlong="truncate_response")]
    assert (result.bootstrap["samples"], result.bootstrap["seed"]) == (9, 4)


def test_settings_come_from_our_model_and_the_window_from_others(models, rows, tmp_path, monkeypatch) -> None:
    run_audit(AuditConfig(model="pay-1", dataset=str(rows), output=str(tmp_path / "o"), bootstrap_samples=9))
    assert models["settings"][0].max_length == build_tokenizer().model_max_length
    load = scoring.load_scorer

    def ours(path, **kwargs):
        scorer = load(path, **kwargs)
        scorer.info, scorer.settings = SimpleNamespace(encoding={"max_length": 777}), EncodingSettings(max_length=777)
        return scorer

    monkeypatch.setattr(scoring, "load_scorer", ours)
    run_audit(AuditConfig(model="pay-1", dataset=str(rows), output=str(tmp_path / "p"), bootstrap_samples=9))
    assert models["settings"][1].max_length == 777


def test_settings_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="no model to audit"):
        AuditConfig(dataset="d", output="o")
    with pytest.raises(ConfigError, match="--dataset"):
        AuditConfig(model="m", output="o")
    with pytest.raises(ConfigError, match="--bootstrap_samples"):
        AuditConfig(model="m", dataset="d", output="o", bootstrap_samples=1)


def test_an_earlier_audit_that_is_none(tmp_path) -> None:
    (tmp_path / "audit.json").write_text("[1, 2")
    with pytest.raises(DataError, match="is not valid JSON"):
        run_audit(AuditConfig(compare=[str(tmp_path / "audit.json")], output=str(tmp_path / "o")))
    with pytest.raises(DataError, match="no such file"):
        run_audit(AuditConfig(compare=[str(tmp_path / "gone.json")], output=str(tmp_path / "o")))


def test_folder_names() -> None:
    assert folder_name("org/model (2)") == "org-model-2"
    assert folder_name("..") == "model"


def test_the_command_prints_every_figure_and_the_finding(models, rows, tmp_path, capsys) -> None:
    from odin_rm.cli.main import main

    argv = ["audit", "--model", "pay-1", "--compare", "pay-0", "--dataset", str(rows), "--output", str(tmp_path / "o")]
    assert main([*argv, "--bootstrap_samples", "9"]) == 0
    out = capsys.readouterr().out
    for words in ("Accuracy", "Spearman", "Information", "pay-1 pays 0.", str(tmp_path / "o" / "report.html")):
        assert words in out
