"""The scaling benchmark: generated files, figures by hand, and a run that measures what it says."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import transformers
from benchmarks import scaling
from benchmarks.shared import scale_run
from benchmarks.shared import scale_summary as figures
from benchmarks.shared.reward_data import generated
from benchmarks.shared.reward_setup import make_tokenizer, save_models
from benchmarks.shared.scale_data import PAIRS, words_of_a_language, write_pairs
from benchmarks.shared.scale_run import Arm, Job

from odin_rm.core.files import read_rows
from odin_rm.data.cache import write_columns
from odin_rm.data.load import load_preferences


def test_a_generated_file_has_four_pairs_of_four_responses_for_each_prompt(plain_words, tmp_path):
    path = tmp_path / "rows.jsonl"
    write_pairs(path, 400, seed=3)
    rows = [row for _, row in read_rows(path)]
    assert len(rows) == 400
    data = load_preferences(path, plain_words, cache_dir=tmp_path)
    assert (data.num_pairs, data.num_prompts, data.num_responses) == (400, 100, 400)
    assert data.report["duplicate_pairs"] == 0
    prompts = [row["prompt"] for row in rows]
    assert prompts[:4].count(prompts[0]) < len(PAIRS)  # rows of a prompt do not lie together
    lengths = [len(row[side].split()) for row in rows for side in ("chosen", "rejected")]
    assert set(lengths) <= set(range(10, 41))
    assert 20 < np.mean(lengths) < 30
    again = tmp_path / "again.jsonl"
    write_pairs(again, 400, seed=3)
    assert again.read_bytes() == path.read_bytes()
    write_pairs(again, 400, seed=4)
    other = [row for _, row in read_rows(again)]
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in other}
    assert {word for row in other for word in row["chosen"].split()} <= set(words_of_a_language())


@pytest.fixture
def plain_words():
    return make_tokenizer([{"prompt": " ".join(words_of_a_language(2000)), "chosen": "a", "rejected": "b"}], 600)


def test_words_are_distinct_and_the_first_are_short():
    words = words_of_a_language(5000)
    assert len(set(words)) == 5000
    assert max(map(len, words[:100])) <= 4 < max(map(len, words))


def own_step(seconds, cpu, wait=0.25, peak=5.0, tokens=30):
    sizes = {"slot_tokens": 2 * tokens, "computed_tokens": tokens}
    return {"seconds": seconds, "cpu_seconds": cpu, "wait": wait, "peak_mib": peak, **sizes}


def test_figures_by_hand():
    steps = [own_step(99.0, 9.0, peak=50.0), own_step(1.0, 0.5), own_step(2.0, 1.0, 0.5, 7.0, 60), own_step(9.0, 2.0)]
    found = figures.summary({"pairs": 8, "steps": steps}, 1)
    assert found["pairs_per_second"] == 8 / 2
    assert found["pairs_per_cpu_second"] == 8 / 1
    assert (found["wait_ms"], found["step_ms"], found["step_cpu_ms"]) == (250, 2000, 1000)
    assert (found["step_peak_mib"], found["computed_tokens"], found["slot_tokens"]) == (7, 40, 80)
    # A run of fewer steps than the warm-up has nothing else to show.
    assert figures.summary({"pairs": 8, "steps": steps[:1]}, 1)["pairs_per_second"] == 8 / 99
    unknown = [own_step(1.0, 1.0, peak=None)] * 2
    assert figures.summary({"pairs": 8, "steps": unknown}, 1)["step_peak_mib"] is None


def test_race_by_hand():
    def runs(*of, tokens=30):
        return [
            {"steps": [own_step(99, 9, tokens=tokens), *(own_step(t, t / 2, tokens=tokens) for t in own)]} for own in of
        ]

    found = figures.race(runs([2, 2, 2], tokens=20), runs([4, 4, 4]), 1)
    same = {"ratio": 2.0, "low": 2.0, "high": 2.0}
    assert found["seconds"] == same | {"medians_ms": [[2000], [4000]]}
    assert found["cpu_seconds"] == same | {"medians_ms": [[1000], [2000]]}
    assert found["tokens"] == pytest.approx(2 / 3)
    # Runs that differ make the interval wide, even where their steps do not.
    found = figures.race(runs([1, 1], [3, 3], [3, 3]), runs([3, 3], [3, 3], [3, 3]), 1)["seconds"]
    assert (found["ratio"], found["low"], found["high"]) == (1.0, 1.0, 3.0)
    assert found["medians_ms"] == [[1000, 3000, 3000], [3000] * 3]
    # Of two steps the median of a sample is 1, 2 or 3.
    found = figures.race(runs([1, 3]), runs([2, 2]), 1)["seconds"]
    assert (found["ratio"], found["low"], found["high"]) == (1.0, pytest.approx(2 / 3), 2.0)


def test_memory_beyond_the_model_by_hand():
    marks = {
        "model": {"VmRSS": 100.0, "RssFile": 30.0, "VmHWM": 140.0, "seconds": 2.0, "cpu_seconds": 1.0},
        "first batch": {"VmRSS": 150.0, "RssFile": 50.0, "VmHWM": 180.0, "seconds": 5.0, "cpu_seconds": 2.0},
        "end": {"VmRSS": 160.0, "RssFile": 55.0, "VmHWM": 170.0},
    }
    arms = {"a": {"steps": [own_step(1, 1, peak=10.0), own_step(1, 1, peak=None)]}}
    own = {"marks": marks, "arms": arms}
    assert figures.beyond_the_model(own) == {"first_batch": 50, "files": 20, "peak": 80}
    marks["end"]["VmHWM"] = 185.0
    assert figures.beyond_the_model(own)["peak"] == 85
    arms["a"]["steps"][1]["peak_mib"] = 40.0
    assert figures.beyond_the_model(own)["peak"] == 100
    assert figures.span(own, "model", "first batch") == {"seconds": 3.0, "cpu_seconds": 1.0}
    marks["data"] = {"VmHWM": 390.0}
    assert figures.beyond_the_model(own)["peak"] == 290  # while the data were read
    marks["model"].pop("VmRSS")
    assert figures.beyond_the_model(own) == {}


def test_a_stand_in_waits_for_its_batches(tmp_path):
    data = generated(80, 4, prompt_tokens=6, response_tokens=(2, 9), pairs_per_prompt=4)
    write_columns(tmp_path, data)
    options = Namespace(microbatch_tokens=256, seed=0, device_ms=[1])
    found = scaling.stand_in(str(tmp_path), options, steps=3)
    assert set(found) == {"build_cpu_ms", "1"}
    assert set(found["1"]) == {"in the step", "thread", "2 workers"}
    assert found["build_cpu_ms"]["step"] > 0


def test_arms_of_a_run_take_turns_and_are_measured(tmp_path):
    transformers.logging.set_verbosity_error()
    path = tmp_path / "rows.jsonl"
    write_pairs(path, 40)
    rows = [row for _, row in read_rows(path)]
    save_models(tmp_path, make_tokenizer(rows, 300), 1, 64, 300)
    columns = tmp_path / "columns"
    columns.mkdir()
    write_columns(columns, generated(12, 4, prompt_tokens=20, response_tokens=(2, 5), vocabulary=300))
    shared = {"batch_pairs": 8, "microbatch_tokens": 2048}
    arms = [
        Arm("file", str(path), shared),
        Arm("tree", str(columns), shared | {"batch_layout": "tree"}),
        Arm("padded", str(columns), shared | {"batch_layout": "padded"}),
    ]
    job = Job(str(tmp_path / "backbone"), arms, steps=2, cache=str(tmp_path / "cache"), step_memory=True)
    found = scale_run.run(job)
    marks = [*found["marks"]]
    assert marks == ["imports", "model", "data", "trainer", "first batch", "end"]
    seconds = [mark["cpu_seconds"] for mark in found["marks"].values()]
    assert seconds == sorted(seconds)
    assert {name: (len(own["steps"]), own["layout"]) for name, own in found["arms"].items()} == {
        "file": (2, "tree"),
        "tree": (2, "tree"),
        "padded": (2, "padded"),
    }
    assert found["arms"]["file"]["data"]["pairs"] == 40
    for tree, padded in zip(found["arms"]["tree"]["steps"], found["arms"]["padded"]["steps"], strict=True):
        assert tree["slot_tokens"] == padded["slot_tokens"]
        assert tree["computed_tokens"] == tree["distinct_tokens"] < padded["computed_tokens"]
        assert 0 <= tree["wait"] < tree["seconds"]
