"""``odin-rm best-of-n``: the files of the contract, from stored scores and by a model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from odin_rm.core.errors import ConfigError, DataError, OdinError
from odin_rm.core.files import RowWriter, read_rows
from odin_rm.data.demonstrations import read_demonstrations
from odin_rm.evaluation.best_of_n import choice_probabilities
from odin_rm.workflows import model_scores
from odin_rm.workflows.best_of_n.config import BestOfNConfig
from odin_rm.workflows.best_of_n.run import run_best_of_n


def samples(prompts: int = 12, each: int = 8, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(prompts):
        words = rng.integers(1, 30, each)
        texts = [("word " * int(w) + f"{p} {k}") for k, w in enumerate(words)]
        scores = (words / 10 + rng.normal(size=each)).round(2).tolist()
        rows.append({"prompt": f"q{p}", "responses": texts, "scores": scores, "gold": rng.normal(size=each).tolist()})
    return rows


def write(path, rows) -> str:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


def run(tmp_path, rows, **settings):
    file = write(tmp_path / "samples.jsonl", rows)
    settings = {"bootstrap_samples": 20, "overwrite_output": True, **settings}
    return run_best_of_n(BestOfNConfig(scores=file, output=str(tmp_path / "bon"), **settings))


def test_best_of_n_json_is_that_of_the_contract(tmp_path):
    rows = samples()
    run(tmp_path, rows, n=[1, 8, 2], attributes=["words"])
    content = json.loads((tmp_path / "bon" / "best_of_n.json").read_text())
    assert content["n"] == [1, 2, 8]
    assert content["kl"] == pytest.approx([0, np.log(2) - 0.5, np.log(8) - 7 / 8])
    assert content["proxy"] == pytest.approx(
        [np.mean([choice_probabilities(np.array(r["scores"]), n) @ r["scores"] for r in rows]) for n in (1, 2, 8)]
    )
    assert content["gold"][2] == pytest.approx(np.mean([r["gold"][int(np.argmax(r["scores"]))] for r in rows]))
    assert list(content["attributes"]) == ["words"]
    assert content["attributes"]["words"][0] < content["attributes"]["words"][2]
    assert content["intervals"]["proxy"][0]["low"] < content["proxy"][0] < content["intervals"]["proxy"][0]["high"]
    page = (tmp_path / "bon" / "report.html").read_text()
    assert "The best of 8 scores" in page
    assert (tmp_path / "bon" / "rewards.png").is_file()


def test_chosen_rows_are_demonstrations_and_pairs_are_preferences(tmp_path):
    rows = samples()
    run(tmp_path, rows, n=[1, 4], attributes=["words"])
    chosen = [row for _, row in read_rows(tmp_path / "bon" / "chosen.jsonl")]
    assert len(chosen) == 12
    for row, source in zip(chosen, rows, strict=True):
        best = int(np.argmax(source["scores"][:4]))
        assert (row["prompt"], row["response"], row["index"]) == (source["prompt"], source["responses"][best], best)
        assert row["score"] == source["scores"][best]
        assert row["gold"] == pytest.approx(source["gold"][best])
        assert row["n"] == 4
    read = read_demonstrations(str(tmp_path / "bon" / "chosen.jsonl"))
    assert [texts[0] for texts in read.responses] == [row["response"] for row in chosen]
    pairs = [row for _, row in read_rows(tmp_path / "bon" / "pairs.jsonl")]
    assert pairs[0]["rejected"] == rows[0]["responses"][int(np.argmin(rows[0]["scores"][:4]))]


def test_labels_are_gold_where_there_is_no_other_and_the_lack_is_said(tmp_path):
    labelled = [{**{k: v for k, v in row.items() if k != "gold"}, "labels": [1] + [0] * 7} for row in samples()]
    content = run(tmp_path, labelled, n=[1, 8], attributes=["words"])
    assert content["gold"][0] == pytest.approx(1 / 8)
    bare = [{k: v for k, v in row.items() if k != "labels"} for row in labelled]
    content = run(tmp_path, bare, n=[1, 8], attributes=["words"])
    assert content["gold"] is None
    assert content["why"] == {"gold": "not every response has 'gold' or 'label'"}


def test_prompts_with_too_few_are_left_out_and_the_default_fits(tmp_path):
    rows = samples(20)
    rows[3] = {**rows[3], "responses": ["a", "b"], "scores": [1, 2], "gold": [0, 0]}
    content = run(tmp_path, rows, attributes=["words"])
    assert content["n"] == [1, 2, 4, 8]
    assert (content["prompts"], content["prompts_left_out"]) == (19, 1)


def test_attributes_alone_will_do(tmp_path):
    rows = [{"prompt_id": p, "score": k, "attributes": {"words": k + 1}} for p in range(3) for k in range(4)]
    content = run(tmp_path, rows)
    assert content["attributes"]["words"] == pytest.approx([2.5, 2 * 1 / 6 + 3 * 2 / 6 + 4 * 3 / 6, 4])
    chosen = [row for _, row in read_rows(tmp_path / "bon" / "chosen.jsonl")]
    assert chosen[0] == {"prompt_id": "0", "response": None, "score": 3.0, "n": 4, "index": 3}
    assert (tmp_path / "bon" / "pairs.jsonl").read_text() == ""


@pytest.mark.parametrize("form", ["long", "list"])
def test_a_model_scores_the_input(tmp_path, monkeypatch, form):
    """The scorer pays for words; a response that does not fit is left out and counted."""

    def scores_of(scorer, prompts, responses, config):
        words = np.array([float(len(text.split())) for text in responses])
        return np.where(words > 25, np.nan, words), words

    monkeypatch.setattr(model_scores, "scorer_of", lambda config, model: SimpleNamespace(name=model))
    monkeypatch.setattr(model_scores, "scores_of", scores_of)
    rows = [{"prompt": row["prompt"], "responses": row["responses"]} for row in samples(6, 10)]
    too_long = sum(len(text.split()) > 25 for row in rows for text in row["responses"])
    assert too_long
    if form == "long":
        rows = [{"prompt": row["prompt"], "response": text} for row in rows for text in row["responses"]]
    file = write(tmp_path / "in.jsonl", rows)
    config = BestOfNConfig(model="m", input=file, n=[1, 2], output=str(tmp_path / "bon"), bootstrap_samples=2)
    content = run_best_of_n(config)
    assert content["model"] == "m"
    assert content["data_report"]["responses_without_score"] == too_long
    assert content["proxy"] == pytest.approx(content["attributes"]["response_tokens"])
    assert content["proxy"][1] > content["proxy"][0]


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give either --scores or --model"):
        BestOfNConfig(output="o")
    with pytest.raises(ConfigError, match="--input: is missing"):
        BestOfNConfig(output="o", model="m")
    with pytest.raises(ConfigError, match="--n: must be different numbers"):
        BestOfNConfig(output="o", scores="s", n=[1, 1])
    with pytest.raises(OdinError, match=r"no prompt has 9 responses\. The most is 8"):
        run(tmp_path, samples(), n=[9])
    assert not (tmp_path / "bon").exists()
    two = [{**row, "model": f"m{k % 2}"} for k, row in enumerate(samples())]
    with pytest.raises(DataError, match="has scores of 2 models"):
        run(tmp_path, two)
