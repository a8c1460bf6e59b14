"""What of its rows a run uses: lines in the log, ``data_report.json`` in the folder, the same on a dry run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from odin_rm.cli.main import main
from odin_rm.reward.config import RewardConfig
from odin_rm.testbed.tiny import build_tokenizer
from odin_rm.workflows.policy.dpo import DPORunConfig, train_dpo
from odin_rm.workflows.policy.sft import SFTRunConfig, train_sft
from odin_rm.workflows.reward.run import plan_run
from tests.workflows.conftest import write_rows
from tests.workflows.policies import SMALL

WINDOW = 40
LONG = "good " * 60


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """24 pairs that fit, and 2, 1 and 1 of which the chosen, the rejected or each does not; a pair of equal tokens."""
    good = [{"prompt": f"question {k}", "chosen": f"good words {k}", "rejected": f"bad {k}"} for k in range(24)]
    long = [
        {"prompt": "a", "chosen": LONG, "rejected": "b"},
        {"prompt": "b", "chosen": LONG, "rejected": "b"},
        {"prompt": "a", "chosen": "b", "rejected": LONG},
        {"prompt": "a", "chosen": LONG, "rejected": LONG + "b"},
    ]
    same = {"prompt": "a", "chosen": "b ", "rejected": " b"}
    return write_rows(tmp_path / "rows.jsonl", [*good, *long, same])


def test_the_equal_pair_is_one_to_the_testbeds_tokenizer() -> None:
    assert build_tokenizer()("b ")["input_ids"] == build_tokenizer()(" b")["input_ids"]


COUNTS = {
    "pairs_stated": 29,
    "pairs": 24,
    "dropped_overlong_pairs": 4,
    "overlong_chosen": 2,
    "overlong_rejected": 1,
    "overlong_both": 1,
    "identical_pairs": 1,
    "skipped_rows": 0,
    "max_length": WINDOW,
}
LINE = (
    f"rows.jsonl: 24 of 29 pairs are used. Left out: 4 longer than max_length {WINDOW} (chosen 2, rejected 1, both 1); "
    "1 with the same tokens for chosen and rejected."
)


def record(run: Path, use: str) -> dict[str, Any]:
    content = json.loads((run / "data_report.json").read_text(encoding="utf-8"))
    return content[use]


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "odin_rm.runs.data_record"]


def test_reward(train: Callable[..., Path], rows: Path, bed: dict[str, Path], caplog: Any) -> None:
    caplog.set_level(logging.INFO, "odin_rm")
    run = train(dataset=str(rows), eval_dataset=str(bed["eval"]), max_length=WINDOW, max_steps=1)
    found = record(run, "train")
    assert {name: found[name] for name in COUNTS} == COUNTS
    assert found["source"] == str(rows)
    first, second = lines_of(caplog)
    assert first == f"train data: {LINE}"
    held_out = record(run, "eval")
    assert second.startswith(f"eval data: eval.jsonl: {held_out['pairs']} ")


def test_held_out_prompts_of_the_same_rows_are_one_data_set(
    train: Callable[..., Path], rows: Path, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "odin_rm")
    run = train(dataset=str(rows), eval_fraction=0.3, max_length=WINDOW, max_steps=1)
    assert lines_of(caplog) == [f"train data: {LINE}"]
    assert list(json.loads((run / "data_report.json").read_text(encoding="utf-8"))) == ["train"]


def test_dry_run(configure: Callable[..., RewardConfig], rows: Path, bed: dict[str, Path], capsys: Any) -> None:
    plan = plan_run(configure(dataset=str(rows), eval_dataset=str(bed["eval"]), max_length=WINDOW, dry_run=True))
    assert plan.data[0] == f"train data: {LINE}"
    assert plan.data[1].startswith("eval data: eval.jsonl: ")
    assert plan.pairs == 24
    argv = ["reward", "--model", str(bed["model"]), "--dataset", str(rows), "--output", "nowhere", "--use_cpu", "1"]
    assert main([*argv, "--max_length", str(WINDOW), "--dry_run", "true", "--batch_pairs", "8"]) == 0
    assert f"\ntrain data: {LINE}\n" in capsys.readouterr().out
    assert not Path("nowhere").exists()


def test_reward_says_it_on_the_console(rows: Path, bed: dict[str, Path], tmp_path: Path, capfd: Any) -> None:
    argv = ["reward", "--model", str(bed["model"]), "--dataset", str(rows), "--output", str(tmp_path / "out")]
    flags = ["--use_cpu", "true", "--max_steps", "1", "--batch_pairs", "8", "--save_strategy", "no"]
    assert main([*argv, *flags, "--max_length", str(WINDOW), "--cache_dir", str(tmp_path / "cache")]) == 0
    assert f"train data: {LINE}\n" in capfd.readouterr().out
    logging.getLogger("odin_rm.runs.data_record").info("after the command")
    assert capfd.readouterr().out == ""


def test_dpo(rows: Path, bed: dict[str, Path], tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "odin_rm")
    settings: dict[str, Any] = SMALL | {"model": str(bed["model"]), "max_length": WINDOW, "max_steps": 1}
    run = tmp_path / "run"
    train_dpo(DPORunConfig(output_dir=str(run), dataset=str(rows), eval_dataset=str(rows), **settings))
    for use in ("train", "eval"):
        found = record(run, use)
        assert {name: found[name] for name in COUNTS} == COUNTS
    assert lines_of(caplog) == [f"train data: {LINE}", f"eval data: {LINE}"]


def test_sft(rows: Path, bed: dict[str, Path], tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "odin_rm")
    settings: dict[str, Any] = SMALL | {"model": str(bed["model"]), "max_length": WINDOW, "max_steps": 1}
    train_sft(SFTRunConfig(output_dir=str(tmp_path / "run"), dataset=str(rows), **settings))
    found = record(tmp_path / "run", "train")
    # The long answer to "a" was chosen twice and is one demonstration.
    assert (found["demonstrations_stated"], found["dropped_overlong_demonstrations"]) == (28, 2)
    said = f"26 of 28 demonstrations are used. Left out: 2 longer than max_length {WINDOW}."
    assert lines_of(caplog) == [f"train data: rows.jsonl: {said}"]
