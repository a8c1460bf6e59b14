"""Retention: what is read off the harness's results; offline runs of the harness itself where it is installed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from odin_rm.core.errors import ConfigError, MissingExtraError, ModelError, OdinError, OutputError, RunInterrupted
from odin_rm.model.lora import import_peft
from odin_rm.model.policy import load_policy
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World
from odin_rm.workflows.retention.harness import Harness, read_measures
from odin_rm.workflows.retention.run import RetentionConfig, run_retention
from tests.workflows.conftest import write_rows

CHOICE = {
    "task": "trips_a",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "a.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}
WRITING = {
    **{name: CHOICE[name] for name in ("dataset_path", "test_split", "doc_to_text", "doc_to_target")},
    "task": "trips_written",
    "dataset_kwargs": {"data_files": {"test": "b.jsonl"}},
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 3},
    "metric_list": [{"metric": "exact_match"}],
}
GROUP = {
    "group": "trips",
    "task": ["trips_a", "trips_b"],
    "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
}

RESULTS = {
    "results": {
        "sub_a": {"name": "sub_a", "alias": "sub_a", "acc,none": 0.5, "acc_stderr,none": 0.5, "f,get": float("nan")},
        "sub_b": {"name": "sub_b", "alias": "sub_b", "acc,none": 1.0, "acc_stderr,none": "N/A"},
        "both": {"name": "both", "sample_len": 3, "acc,none": 2 / 3, "sample_count": {"acc,none": 3}},
        "bare": {"name": "bare", "alias": "bare"},
    },
    "group_subtasks": {"both": ["sub_a", "sub_b"], "bare": ["sub_b"]},
    "higher_is_better": {"sub_a": {"acc": True}, "both": {"acc": True}},
    "samples": {
        "sub_a": [
            {"doc_id": 0, "doc_hash": "x" * 64, "filter": "none", "metrics": ["acc"], "acc": 1},
            {"doc_id": 1, "doc_hash": "y" * 64, "filter": "none", "metrics": ["acc", "f"], "acc": 0.0, "f": (1, 2)},
        ],
        "sub_b": [{"doc_id": 0, "doc_hash": "z" * 64, "filter": "none", "metrics": ["acc"], "acc": True}],
    },
}


def test_what_is_read_off_the_harness_results() -> None:
    found = {measure.task: measure for measure in read_measures(RESULTS)}
    assert list(found) == ["both", "sub_a", "sub_b"]
    assert found["both"].answers == {
        "sub_a": {f"0:{'x' * 16}": 1.0, f"1:{'y' * 16}": 0.0},
        "sub_b": {f"0:{'z' * 16}": 1.0},
    }
    assert [found[task].part for task in found] == [False, True, True]
    assert [found[task].standard_error for task in found] == [None, 0.5, None]
    assert [found[task].higher_is_better for task in found] == [True, True, None]
    # A group without a figure of its own leaves its tasks to stand for it.
    alone = RESULTS | {"group_subtasks": {"bare": ["sub_b"]}}
    assert [measure.part for measure in read_measures(alone)] == [False, False, False]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two policies of other weights, a LoRA run, tasks and their questions; the harness must ask no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_tiny_model("before", 0, hidden=16, layers=1, heads=2)
    save_tiny_model("run/policy", 3, hidden=16, layers=1, heads=2)
    tasks = Path("tasks")
    tasks.mkdir()
    for number, content in enumerate((CHOICE, CHOICE | {"task": "trips_b"}, WRITING, GROUP)):
        (tasks / f"{number}.yaml").write_text(yaml.safe_dump(content))
    words = sorted({word for text in World().prompts()[:20] for word in text.split()})[:13]
    rows = [
        {"question": f"{words[k]} {words[-1]}", "choices": [words[k], words[k + 1]], "answer": k % 2} for k in range(12)
    ]
    write_rows(Path("a.jsonl"), rows)
    write_rows(Path("b.jsonl"), [{"question": words[0], "answer": words[1]}] * 3)
    return tmp_path


@pytest.fixture
def config(room: Path) -> Callable[..., RetentionConfig]:
    def make(**changes: Any) -> RetentionConfig:
        settings = {"models": ["before", "run"], "tasks": ["trips,trips_written"], "include_path": "tasks"}
        return RetentionConfig(**(settings | {"output": "out", "device": "cpu"} | changes))

    return make


def test_the_default_tasks() -> None:
    assert RetentionConfig(models=["a", "b"], output="out").tasks == ["mmlu", "bbh", "drop", "truthfulqa_mc2"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": ["before"]}, "--models: names 1 model"),
        ({"models": ["before", "before"]}, "--models: names before twice"),
        ({"tasks": [","]}, "--tasks: names no task"),
        ({"limit": 0}, "it is 0"),
        ({"include_path": "none"}, "--include_path: there is no folder none"),
    ],
)
def test_settings_that_cannot_work(config, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        run_retention(config(**changes))
    assert said in str(error.value)


def test_the_harness_is_an_extra(config, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match="lm_eval") as error:
        run_retention(config())
    assert "pip install '.[retention]'" in str(error.value)
    assert not Path("out").exists()


# ---- with the harness ------------------------------------------------------------------------------------------------


@pytest.fixture
def harness() -> None:
    pytest.importorskip("lm_eval", reason="the harness is an extra: pip install '.[retention]'")


@pytest.mark.usefixtures("harness")
def test_before_and_after_and_what_is_measured_is_not_measured_again(config, monkeypatch) -> None:
    told: list[str] = []
    content = run_retention(config(), told.append)
    assert len(told) == 4
    rows = {row["task"]: row for row in content["tasks"]}
    assert list(rows) == ["trips", "trips_a", "trips_b", "trips_written"]
    assert [row["questions"] for row in rows.values()] == [24, 12, 12, 3]
    assert [row["part"] for row in rows.values()] == [False, True, True, False]
    assert [figure["model"] for figure in rows["trips"]["models"]] == ["before", "run"]
    # The two halves of the group hold the same questions.
    before, after = (figure["value"] for figure in rows["trips"]["models"])
    assert [figure["value"] for figure in rows["trips_a"]["models"]] == [before, after]
    (change,) = rows["trips"]["differences"]
    assert change["paired"]
    assert change["value"] == pytest.approx(after - before)
    assert change["changed"] > 0
    assert json.loads(Path("out/retention.json").read_text())["tasks"] == json.loads(json.dumps(content["tasks"]))
    assert Path("out/retention.md").read_text().count("| trips_written | exact_match | 3 |") == 2
    assert Path("out/retention.tex").read_text().count(r"trips\_") == 1
    # Again: nothing is measured, the same is written; another limit measures anew.
    with monkeypatch.context() as patch:
        patch.setattr(Harness, "measure", None)
        assert run_retention(config())["tasks"] == content["tasks"]
    small = run_retention(config(tasks=["trips_a"], limit=5))
    assert small["tasks"][0]["questions"] == 5


@pytest.mark.usefixtures("harness")
def test_a_lora_run_is_measured_with_its_adapter(config, room: Path) -> None:
    import_peft()
    model, tokenizer = load_policy("before", lora_r=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    model.save_pretrained("lora/policy")
    tokenizer.save_pretrained("lora/policy")
    merged, _ = load_policy("lora")
    merged.save_pretrained("merged")
    tokenizer.save_pretrained("merged")
    content = run_retention(config(models=["before", "lora", "merged"], tasks=["trips_a"]))
    (row,) = content["tasks"]
    (_, of_lora), (_, of_merged) = (change.popitem() for change in ({"x": one} for one in row["differences"]))
    assert of_lora["changed"] > 0
    assert {**of_lora, "model": ""} == {**of_merged, "model": ""}


@pytest.mark.usefixtures("harness")
def test_a_stopped_run_goes_on(config, monkeypatch) -> None:
    real, calls = Harness.measure, []

    def measure(self: Harness, path: str, task: str) -> Any:
        calls.append((path, task))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, path, task)

    monkeypatch.setattr(Harness, "measure", measure)
    with pytest.raises(RunInterrupted, match="1 of 2 tasks are measured"):
        run_retention(config(tasks=["trips_a"]))
    assert not Path("out/retention.json").exists()
    run_retention(config(tasks=["trips_a"]))
    assert calls == [("before", "trips_a"), ("run", "trips_a"), ("run", "trips_a")]


@pytest.mark.usefixtures("harness")
@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"tasks": ["tripps"]}, ConfigError, "--tasks: there is no task 'tripps'. Did you mean 'trips'?"),
        ({"tasks": ["broken"]}, ConfigError, "task 'broken': the harness refuses it ("),
        ({"tasks": ["no_data"]}, ConfigError, "task 'no_data': the harness refuses it ("),
        ({"models": ["before", "./none"]}, ModelError, "./none: there is no such model folder"),
        ({"output": "before"}, OutputError, "before: holds something else than measured tasks"),
        ({"output": "a.jsonl"}, OutputError, "a.jsonl: is a file, not a folder"),
    ],
)
def test_what_is_refused_before_anything_is_written(config, changes: dict[str, Any], kind: type, said: str) -> None:
    Path("tasks/broken.yaml").write_text("task: broken\ndataset_path: json\noutput_type: nonsense\n")
    gone = CHOICE | {"task": "no_data", "dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}
    Path("tasks/gone.yaml").write_text(yaml.safe_dump(gone))
    with pytest.raises(OdinError) as error:
        run_retention(config(**changes))
    assert isinstance(error.value, kind)
    assert str(error.value).startswith(said)
    assert not Path("out").exists()


@pytest.mark.usefixtures("harness")
def test_a_model_trained_anew_is_measured_anew(config) -> None:
    first = run_retention(config(tasks=["trips_a"]))
    shutil.rmtree("run")
    save_tiny_model("run/policy", 4, hidden=16, layers=1, heads=2)
    told: list[str] = []
    second = run_retention(config(tasks=["trips_a"]), told.append)
    assert told == ["run: trips_a (2 of 2)"]
    assert second["tasks"][0]["models"][0] == first["tasks"][0]["models"][0]
