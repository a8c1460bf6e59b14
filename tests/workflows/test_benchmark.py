"""``odin-rm benchmark``: published figures from published files, and each rule on rows of our own."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from odin_rm.cli.main import main
from odin_rm.core.errors import ConfigError, DataError, OutputError
from odin_rm.core.files import RowWriter
from odin_rm.evaluation.benchmarks import BENCHMARKS
from odin_rm.workflows import model_scores
from odin_rm.workflows.benchmark.config import NAMES, BenchmarkConfig
from odin_rm.workflows.benchmark.run import read_items, run_benchmark
from tests.published import published_path


def write(path, rows) -> str:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return str(path)


def run(tmp_path, name, path, **settings):
    settings = {"bootstrap_samples": 2, "attributes": ["words"], "overwrite_output": True, **settings}
    return run_benchmark(BenchmarkConfig(name=name, path=str(path), output=str(tmp_path / "out.json"), **settings))


def scored_by_words(tmp_path, name, path, sign=1):
    """Scores of a reward model that counts words."""
    rows = [
        {"prompt_id": item.key, "response": label, "score": sign * len(text.split())}
        for item in read_items(str(path), name)
        for label, text in item.candidates.items()
    ]
    return write(tmp_path / "scores.jsonl", rows)


# ---- rules, on rows of our own ---------------------------------------------------------------------------------------


def judgebench_rows():
    sources = ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
    return [
        {"pair_id": f"p{k}", "source": source, "question": "q", "response_A": "a", "response_B": "b b", "label": label}
        for k, (source, label) in enumerate(zip(sources, ("A>B", "B>A", "A>B", "B>A"), strict=True))
    ]


def test_a_tie_of_judgebench_is_the_verdict_for_b(tmp_path):
    path = write(tmp_path / "jb.jsonl", judgebench_rows())
    scores = [{"pair_id": f"p{k}", "response": side, "score": 1.0} for k in range(4) for side in "AB"]
    found = run(tmp_path, "judgebench", path, scores=write(tmp_path / "s.jsonl", scores))["figures"]
    assert {name: one["accuracy"] for name, one in found.items()} == {
        "knowledge": 0, "reasoning": 100, "math": 0, "coding": 100, "overall": 50,
    }  # fmt: skip
    assert found["overall"]["n"] == 4


def test_rm_bench_by_hand(tmp_path):
    row = {"id": "1", "domain": "chat", "prompt": "q", "chosen": ["c1", "c2", "c3"], "rejected": ["r1", "r2", "r3"]}
    path = write(tmp_path / "rm.json", [row])
    values = {"c1": 1, "c2": 5, "c3": 9, "r1": 0, "r2": 5, "r3": 20}
    scores = [{"id": "chat/1", "response": text, "score": value} for text, value in values.items()]
    found = run(tmp_path, "rm-bench", path, scores=write(tmp_path / "s.jsonl", scores))["figures"]["chat"]
    assert found["matrix"] == [[100, 0, 0], [100, 0, 0], [100, 100, 0]]
    assert found["easy"] == 100
    assert found["normal"] == pytest.approx(100 / 3)
    assert found["hard"] == 0


def test_rm_bench_safety_is_the_mean_of_its_halves(tmp_path):
    rows = [
        {"id": "1", "domain": d, "prompt": "q", "chosen": ["a b", "a b", "a b"], "rejected": [r, r, r]}
        for d, r in (("safety-refuse", "a"), ("safety-response", "a b c"), ("chat", "a"))
    ]
    path = write(tmp_path / "rm.jsonl", rows)
    found = run(tmp_path, "rm-bench", path, scores=scored_by_words(tmp_path, "rm-bench", path))["figures"]
    assert (found["safety"]["normal"], found["chat"]["normal"]) == (50, 100)
    assert found["mean_of_domains"]["average"] == 75


@pytest.mark.parametrize(
    "name, row",
    [
        ("llmbar", {"id": "Manual-0", "input": "q", "output_1": "a", "output_2": "b", "label": 2}),
        (
            "evalbiasbench",
            {"id": "x-0", "bias": "x", "instruction": "q", "response1": "a", "response2": "b", "label": 1},
        ),
        ("rmb", {"pair_uid": 5, "category": "Helpfulness/Chat", "messages": "q", "chosen": "a", "rejected": "b"}),
    ],
)
def test_a_tie_is_a_half_elsewhere(tmp_path, name, row):
    path = write(tmp_path / "rows.jsonl", [row])
    key = next(str(row[n]) for n in BENCHMARKS[name].id_names if n in row)
    scores = [{"prompt_id": key, "response": text, "score": 3} for text in "ab"]
    found = run(tmp_path, name, path, scores=write(tmp_path / "s.jsonl", scores))["figures"]
    assert all(one["accuracy"] == 50 for one in found.values())


def test_a_model_scores_the_candidates_and_what_does_not_fit_is_left_out(tmp_path, monkeypatch):
    def scores_of(scorer, prompts, responses, config):
        words = np.array([float(len(text.split())) for text in responses])
        return np.where(np.arange(len(words)) == 0, np.nan, words), words

    monkeypatch.setattr(model_scores, "scorer_of", lambda config, model: SimpleNamespace(name=model))
    monkeypatch.setattr(model_scores, "scores_of", scores_of)
    path = write(tmp_path / "jb.jsonl", judgebench_rows())
    content = run(tmp_path, "judgebench", path, model="m")
    assert content["model"] == "m"
    assert content["figures"]["overall"] == {"accuracy": pytest.approx(200 / 3), "n": 3}
    assert content["items_without_score"] == 1
    assert content["attributes"]["words"]["within"]["pearson"]["value"] == pytest.approx(1)


def test_the_name_may_stand_before_the_flags(tmp_path, capsys):
    path = write(tmp_path / "jb.jsonl", judgebench_rows())
    scores = scored_by_words(tmp_path, "judgebench", path)
    words = ["benchmark", "judgebench", "--path", path, "--scores", scores, "--output", str(tmp_path / "g.json")]
    assert main(words) == 0
    assert "overall: accuracy 50.00 (4)" in capsys.readouterr().out
    content = json.loads((tmp_path / "g.json").read_text())
    assert {"figures", "attributes"} <= set(content)
    assert main(["benchmark", "judgebunch", "--path", path, "--scores", scores, "--output", "x"]) == 2


def test_what_cannot_work_is_refused(tmp_path):
    assert tuple(BENCHMARKS) == NAMES
    path = write(tmp_path / "jb.jsonl", judgebench_rows())
    with pytest.raises(ConfigError, match="give either --scores or --model"):
        BenchmarkConfig(name="llmbar", path="p", output="o")
    with pytest.raises(DataError, match="row 1: is no row of llmbar"):
        run(tmp_path, "llmbar", path, scores=path)
    with pytest.raises(DataError, match="has the id 'p0' again"):
        run(tmp_path, "judgebench", write(tmp_path / "twice.jsonl", judgebench_rows()[:1] * 2), scores=path)
    strangers = write(tmp_path / "s.jsonl", [{"id": "p9", "response": "A", "score": 1}])
    with pytest.raises(DataError, match="none of 1 rows scores a response of judgebench"):
        run(tmp_path, "judgebench", path, scores=strangers)
    (tmp_path / "out.json").write_text("{}")
    with pytest.raises(OutputError, match="exists already"):
        run(tmp_path, "judgebench", path, scores=path, overwrite_output=False)


# ---- published figures -----------------------------------------------------------------------------------------------


def test_judgebench_all_published_cells(tmp_path):
    files = [published_path(f"judgebench_{part}.jsonl.gz") for part in ("pairs", "rm_scores")]
    models = run(tmp_path, "judgebench", files[0], scores=str(files[1]))["models"]
    known = {
        "Skywork/Skywork-Reward-Llama-3.1-8B": (59.09, 64.29, 76.79, 50.00, 62.29),
        "internlm/internlm2-20b-reward": (62.34, 69.39, 66.07, 50.00, 63.43),
        "internlm/internlm2-7b-reward": (56.49, 61.22, 71.43, 50.00, 59.43),
    }
    for model, cells in known.items():
        figures = models[model]["figures"]
        found = [figures[name]["accuracy"] for name in ("knowledge", "reasoning", "math", "coding", "overall")]
        assert [round(value, 2) for value in found] == list(cells)


@pytest.mark.parametrize(
    "sign, known",
    [
        (1, {"chat": (0.8114, 0.2429, 0.0284), "code": (0.7778, 0.5336, 0.2573)}),
        (-1, {"chat": (0.1886, 0.5375, 0.9716), "code": (0.2178, 0.4488, 0.7339)}),
    ],
)
def test_rm_bench_by_length_alone(tmp_path, sign, known):
    path = published_path("rmbench.jsonl.gz")
    figures = run(tmp_path, "rm-bench", path, scores=scored_by_words(tmp_path, "rm-bench", path, sign))["figures"]
    for domain, values in known.items():
        found = [figures[domain][level] / 100 for level in ("easy", "normal", "hard")]
        assert [round(value, 4) for value in found] == list(values)


def test_llmbar_ratings_of_judges(tmp_path):
    """One row has no score; the authors decided it by chance, and 78.2 is the figure without it."""
    path, scores = published_path("llmbar.jsonl.gz"), published_path("llmbar_judge_scores.jsonl.gz")
    models = run(tmp_path, "llmbar", path, scores=str(scores))["models"]
    known = {"GPT-4/Rating": (92.0, 78.2, 84.8), "ChatGPT/Rating": (68.5, 41.0, 48.9)}
    for model, cells in known.items():
        figures = models[model]["figures"]
        assert [round(figures[name]["accuracy"], 1) for name in ("Natural", "Neighbor", "Manual")] == list(cells)
    assert models["GPT-4/Rating"]["items_without_score"] == 1


def test_evalbiasbench_and_rmb_are_read_whole(tmp_path):
    path = published_path("evalbiasbench.jsonl.gz")
    figures = run(tmp_path, "evalbiasbench", path, scores=scored_by_words(tmp_path, "evalbiasbench", path))["figures"]
    assert figures["length bias"] == {"accuracy": 0.0, "n": 17}
    assert figures["overall"]["n"] == 44
    path = published_path("rmb_helpful_pairs_val.jsonl.gz")
    figures = run(tmp_path, "rmb", path, scores=scored_by_words(tmp_path, "rmb", path))["figures"]
    assert figures["overall"]["n"] == figures["Helpfulness"]["n"] == 515
    # 66.6 % longer chosen and 0.2 % of one length, as the file's description says.
    assert figures["overall"]["accuracy"] == pytest.approx(66.6 + 0.1, abs=0.06)
