"""The logs of a run hold each row once, whatever fails when: a row that cannot be written waits in the checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from odin_rm.core.errors import MachineError, OdinError, RewardSourceError
from odin_rm.rl import trainer as rl_trainer
from odin_rm.rl.trainer import RLTrainer
from odin_rm.workflows.rl.run import train_policy
from tests.rl.conftest import MakeConfig

TIMES = re.compile(r"seconds|per_second")
LOGS = ("metrics.jsonl", "samples.jsonl", "watch.jsonl")
SETTINGS: dict[str, Any] = {"watch_steps": 2, "watch_size": 2, "logging_steps": 2, "save_steps": 3, "max_steps": 5}


def logs(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each log without times."""
    return {
        name: [
            {key: value for key, value in json.loads(line).items() if not TIMES.search(key)}
            for line in (run / name).read_text(encoding="utf-8").splitlines()
        ]
        for name in LOGS
        if (run / name).is_file()
    }


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the n-th row of any log find a full disk; the rows that were tried."""

    def prepare(number: int) -> list[str]:
        tried: list[str] = []

        def append(path: Path, row: Any) -> None:
            tried.append(path.name)
            if len(tried) == number:
                raise MachineError("No space left on device", where=str(path))
            real(path, row)

        monkeypatch.setattr(rl_trainer, "append_jsonl", append)
        return tried

    real = rl_trainer.append_jsonl
    yield prepare
    monkeypatch.undo()


def test_every_row_stands_once_whichever_of_them_finds_a_full_disk(make_config: MakeConfig, fail_at: Any) -> None:
    tried = fail_at(-1)
    expected = logs(train_policy(make_config("whole", **SETTINGS)))
    assert [row["step"] for row in expected["metrics.jsonl"]] == [0, 2, 2, 4, 4, 5, 5]
    assert len(expected["watch.jsonl"]) == 3
    first = next(n for n, name in enumerate(tried, 1) if name == "metrics.jsonl" and n > 4)
    for number in (first, len(tried) - 3):
        fail_at(number)
        with pytest.raises(OdinError, match="No space left"):
            train_policy(make_config(f"at{number}", **SETTINGS))
        fail_at(-1)
        again = make_config(f"at{number}", **SETTINGS, resume_from_checkpoint="true")
        assert logs(train_policy(again)) == expected, number


def test_rows_are_not_written_twice_where_a_run_goes_on_twice(
    make_config: MakeConfig, fail_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logs(train_policy(make_config("whole", **SETTINGS)))
    fail_at(8)
    with pytest.raises(OdinError):
        train_policy(make_config(**SETTINGS))
    fail_at(-1)
    going_on = make_config(**SETTINGS, resume_from_checkpoint="true")
    with monkeypatch.context() as patch:
        patch.setattr(RLTrainer, "_step", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # the rows that waited are written, and no checkpoint after them
            train_policy(going_on)
    assert logs(train_policy(going_on)) == expected


def test_a_look_that_fails_is_made_by_the_run_that_goes_on(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logs(train_policy(make_config("whole", **SETTINGS)))
    real = RLTrainer._watch

    def gone(self: RLTrainer) -> None:
        if self.state.step == 2:
            raise RewardSourceError("gone")
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(RLTrainer, "_watch", gone)
        with pytest.raises(RewardSourceError):
            train_policy(make_config(**SETTINGS))
    assert logs(train_policy(make_config(**SETTINGS, resume_from_checkpoint="true"))) == expected


def test_a_run_that_gave_up_gives_up_again(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS | {"watch_kl": 1e-6, "learning_rate": 1e-2, "watch_action": "stop"}
    expected = logs(train_policy(make_config("whole", **settings)))
    assert expected["metrics.jsonl"][-2:] == [
        {"step": 2, "stopped_by": "kl_runaway", "rolled_back_to": None},
        {"step": 2, "finished": True, "stopped_by": "kl_runaway"},
    ]
    with monkeypatch.context() as patch:
        patch.setattr("odin_rm.workflows.rl.own._finish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_policy(make_config(**settings))
    assert logs(train_policy(make_config(**settings, resume_from_checkpoint="true"))) == expected
