"""``odin-rm certify`` from real outputs of probe, audit and best-of-n, with rewards whose prices are known."""

from __future__ import annotations

import json
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from odin_rm.cli.certify import print_verdicts
from odin_rm.core.errors import ConfigError, DataError, OutputError
from odin_rm.core.files import RowWriter
from odin_rm.evaluation.certificate import STUDY
from odin_rm.reports.certificate_page import error_sentence
from odin_rm.workflows import model_scores
from odin_rm.workflows.audit.config import AuditConfig
from odin_rm.workflows.audit.run import run_audit
from odin_rm.workflows.best_of_n.config import BestOfNConfig
from odin_rm.workflows.best_of_n.run import run_best_of_n
from odin_rm.workflows.certify.config import CertifyConfig
from odin_rm.workflows.certify.run import run_certify
from odin_rm.workflows.probe.config import ProbeConfig
from odin_rm.workflows.probe.run import run_probe

# Reward per word, per compliment; and per word beyond 80 words.
PRICES = {"plain": (0.1, 0.0, 0.0), "mended": (0.0, 0.0, 0.0), "again": (0.1, 0.0, 0.0), "overdone": (-0.1, 0.0, 0.0),
          "moved": (0.0, 3.0, 0.0), "hidden": (0.0, 0.0, 0.3)}  # fmt: skip


def reward(model: str, text: str) -> float:
    per_word, praise, beyond = PRICES[model]
    words = len(text.split())
    good = text.count("good") + 0.05 * np.random.default_rng(zlib.crc32(text.encode())).normal()
    return per_word * words + praise * text.count("great question") + beyond * max(0, words - 80) + good


@pytest.fixture(autouse=True)
def _scorer(monkeypatch):
    def scores_of(scorer, prompts, responses, config):
        return np.array([reward(scorer.name, t) for t in responses]), np.array([float(len(t.split()))
                                                                                for t in responses])  # fmt: skip

    monkeypatch.setattr(model_scores, "scorer_of", lambda config, model: SimpleNamespace(name=model))
    monkeypatch.setattr(model_scores, "scores_of", scores_of)


def answer(rng: np.random.Generator, most: int) -> str:
    parts = ["good idea."] * int(rng.integers(0, 4)) + ["These words say so."] * int(rng.integers(1, most))
    return " ".join(rng.permutation(parts))


def write(path, rows) -> str:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    rng = np.random.default_rng(0)
    return [{"prompt": f"question {k}", "chosen": answer(rng, 11), "rejected": answer(rng, 11)} for k in range(60)]


def probed(tmp_path, rows, model: str, name: str = "") -> str:
    out = tmp_path / (name or f"probe_{model}")
    dataset = write(tmp_path / f"{out.name}.jsonl", rows)
    run_probe(ProbeConfig(model=model, dataset=dataset, output=str(out), bootstrap_samples=100))
    return str(out)


def certified(tmp_path, evidence: list[str], **settings) -> dict:
    out = tmp_path / "certificate"
    run_certify(CertifyConfig(evidence=evidence, output=str(out), overwrite_output=True, **settings))
    return json.loads((out / "certificate.json").read_text())


@pytest.mark.parametrize(
    ("model", "length", "flattery", "overall"),
    [
        ("mended", "mitigated", "unbiased", "mitigated"),
        ("again", "no-op", "unbiased", "no-op"),
        ("overdone", "over-corrected", "unbiased", "over-corrected"),
        ("moved", "substituted", "biased", "substituted"),
    ],
)
def test_each_regime_beside_its_baseline(rows, tmp_path, model, length, flattery, overall):
    baseline = [probed(tmp_path, rows, "plain")]
    content = certified(tmp_path, [probed(tmp_path, rows, model)], baseline=baseline)
    found = {name: one["verdict"] for name, one in content["attributes"].items()}
    assert (found["response_tokens"], found["flattery"], content["overall"]) == (length, flattery, overall)
    assert found["list_items"] == found["bold"] == "unbiased"
    assert (content["model"], content["baseline"]) == (model, "plain")
    if model == "moved":
        assert content["attributes"]["response_tokens"]["moved_to"] == ["flattery"]
    page = (tmp_path / "certificate" / "report.html").read_text()
    assert length in page
    assert error_sentence(STUDY, 0.1).split(";")[0] in page.replace("&#39;", "'")


def test_a_probe_of_what_the_model_chooses_finds_a_hidden_bias(rows, tmp_path):
    rng = np.random.default_rng(1)
    baseline = [probed(tmp_path, rows, "plain")]
    evidence = [probed(tmp_path, rows, "hidden")]
    assert certified(tmp_path, evidence, baseline=baseline)["attributes"]["response_tokens"]["verdict"] == "mitigated"
    samples = [{"prompt": f"question {k}", "responses": [answer(rng, 36) for _ in range(24)]} for k in range(40)]
    inputs = write(tmp_path / "samples.jsonl", samples)
    bon = tmp_path / "bon"
    run_best_of_n(BestOfNConfig(model="hidden", input=inputs, output=str(bon), bootstrap_samples=20))
    chosen = [json.loads(line) for line in (bon / "chosen.jsonl").read_text().splitlines()]
    where = probed(tmp_path, chosen, "hidden", "chosen")
    content = certified(tmp_path, [*evidence, str(bon)], baseline=baseline, chosen=where)
    assert content["attributes"]["response_tokens"]["verdict"] == "audit-sensitive"
    assert content["overall"] == "audit-sensitive"
    assert "those that the reward chooses" in content["attributes"]["response_tokens"]["why"]


def test_effects_where_the_model_chooses_are_in_the_same_units(rows, tmp_path):
    """One chosen response to a prompt has no spread of its own, and the price of a word is 0.1 there, too."""
    evidence = [probed(tmp_path, rows, "plain")]
    where = probed(tmp_path, [{"prompt": row["prompt"], "response": row["chosen"]} for row in rows], "plain", "chosen")
    one = certified(tmp_path, evidence, chosen=where)["attributes"]["response_tokens"]
    assert one["verdict"] == "biased"
    assert one["measured"]["chosen"]["value"] == pytest.approx(one["measured"]["effect"]["value"], rel=0.05)


def test_the_audit_alone_is_undecided_and_stands_beside_the_rest(rows, tmp_path, capsys):
    stored = [
        {**row, "chosen_score": reward("plain", row["chosen"]), "rejected_score": reward("plain", row["rejected"])}
        for row in rows
    ]
    scores = write(tmp_path / "scores.jsonl", stored)
    run_audit(AuditConfig(scores=scores, output=str(tmp_path / "audit"), bootstrap_samples=30))
    alone = certified(tmp_path, [str(tmp_path / "audit")])
    assert {one["verdict"] for one in alone["attributes"].values()} == {"undecided"}
    assert alone["overall"] == "undecided"
    assert any("no probe" in sentence for sentence in alone["missing"])
    both = certified(tmp_path, [str(tmp_path / "audit" / "audit.json"), probed(tmp_path, rows, "plain")])
    assert both["attributes"]["flattery"]["verdict"] == "unbiased"
    assert both["attributes"]["response_tokens"]["verdict"] == "biased"
    assert both["attributes"]["words"]["measured"]["within"]["value"] > 0.5
    assert both["evidence"].keys() == {"audit", "probe"}
    capsys.readouterr()
    print_verdicts(both)
    printed = capsys.readouterr().out
    assert "plain: biased" in printed
    assert "not decided, for no edit changes them" in printed


def test_what_is_no_evidence_is_refused_and_nothing_is_written(rows, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    probe = probed(tmp_path, rows, "plain")
    out = tmp_path / "certificate"
    for evidence, match in (
        ([str(other)], "no output of audit, probe or best-of-n"),
        ([str(tmp_path / "nowhere")], "no such file"),
        ([str(tmp_path)], "holds none of"),
        ([probe, f"{probe}/probe.json"], "there is another probe"),
    ):
        with pytest.raises(DataError, match=match):
            run_certify(CertifyConfig(evidence=evidence, output=str(out)))
    old = json.loads((tmp_path / "probe_plain" / "probe.json").read_text())
    del old["prices"]
    other.write_text(json.dumps(old))
    with pytest.raises(DataError, match="earlier odin-rm"):
        run_certify(CertifyConfig(evidence=[str(other)], output=str(out)))
    assert not out.exists()
    with pytest.raises(ConfigError, match="needs --baseline"):
        CertifyConfig(evidence=[probe], output=str(out), baseline_chosen=probe)
    certified(tmp_path, [probe])
    with pytest.raises(OutputError):
        run_certify(CertifyConfig(evidence=[probe], output=str(out)))
