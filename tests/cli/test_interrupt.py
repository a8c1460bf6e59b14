"""Ctrl-C and SIGTERM at any stage of any command: code 130, one line, nothing half-written, and the rerun works."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any

import pytest

from odin_rm.cli.main import main
from tests.cli.conftest import contents

# command, the function in whose call the signal comes, the function's place
STAGES = [
    ("reward", "odin_rm.data.collect", "parse_preference_row"),
    ("reward", "odin_rm.data.encode", "_encode_chunk"),
    ("score", "odin_rm.workflows.score.run", "_score_chunk"),
    ("audit", "odin_rm.data.encode", "_encode_chunk"),
    ("audit", "odin_rm.model.scoring", "row_inputs"),
    ("audit", "odin_rm.workflows.audit.run", "audit_preferences"),
    ("audit", "odin_rm.reports.audit_report", "write_audit_report"),
    ("export", "odin_rm.model.export_proof", "_padded"),
]


SCORED_BEFORE = ("audit_preferences", "write_audit_report")
"""Where the models of an audit are scored already, which is kept."""


def interrupt_in(monkeypatch: pytest.MonkeyPatch, module: str, name: str, number: int) -> None:
    """Let this process get a signal when the function is called."""
    place = importlib.import_module(module)
    original = getattr(place, name)

    def stopped(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, stopped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("command", "module", "name"), STAGES)
def test_nothing_is_half_written(number, command, module, name, arguments, room, monkeypatch, capfd) -> None:
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        interrupt_in(patch, module, name, number)
        assert main(arguments(command)) == 130
    said = capfd.readouterr().err
    if name in SCORED_BEFORE:
        assert said.startswith("odin-rm audit: interrupted: out: the scores of 1 of 1 models are saved.")
        assert list(contents(room)) == ["out.partial.jsonl"]
    else:
        assert said == f"odin-rm {command}: interrupted\n"
        assert contents(room) == {}
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_rerun_after_an_interrupt_works(arguments, room, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_in(patch, "odin_rm.data.encode", "_encode_chunk", signal.SIGINT)
        assert main(arguments("reward")) == 130
    assert main(arguments("reward")) == 0


def test_quickstart_says_how_to_go_on(arguments, room, monkeypatch, capfd) -> None:
    small = {"hidden": 16, "layers": 1, "epochs": 1, "bootstrap_samples": 10, "batch_pairs": 8}
    small |= {"policy_responses": 128, "sft_steps": 20}  # ten policies, but not ten minutes
    trainer = importlib.import_module("odin_rm.reward.trainer")
    step = trainer.RewardTrainer.training_step

    def stopped(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.RewardTrainer, "training_step", stopped)
        assert main(arguments("quickstart", **small)) == 130
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "Run it again with --overwrite" in line
    assert not (room / "out" / "summary.json").exists()
    assert main([*arguments("quickstart", **small), "--overwrite"]) == 0
    assert (room / "out" / "summary.json").exists()
