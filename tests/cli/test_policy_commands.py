"""sft and dpo through the real command: what they say, refuse and leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from odin_rm.cli.main import main
from odin_rm.testbed.tiny import build_tokenizer
from tests.cli.conftest import ANSWERS, Refuse, contents, lines, with_bad_row
from tests.families import save_base
from tests.workflows.policies import send_signal_at

BOTH = pytest.mark.parametrize("command", ["sft", "dpo"])
Line = Callable[..., list[str]]


@pytest.fixture
def line(shop: Path) -> Line:
    """A command line that would work, with parts of it replaced; ``None`` takes a flag away."""

    def make(command: str, **changes: Any) -> list[str]:
        flags: dict[str, Any] = {"model": shop / "base", "dataset": shop / "pairs.jsonl", "output": "out"}
        flags |= {"use_cpu": True, "max_steps": 3, "save_strategy": "no", "per_device_train_batch_size": 4}
        given = {name: value for name, value in (flags | changes).items() if value is not None}
        return [command] + [word for name, value in given.items() for word in (f"--{name}", str(value))]

    return make


@BOTH
def test_it_says_where_the_policy_is_and_nothing_else(command: str, line: Line, room: Path, capfd: Any) -> None:
    assert main(line(command)) == 0
    shown = capfd.readouterr()
    noun = "demonstrations" if command == "sft" else "pairs"
    said, step, written, following = shown.out.splitlines()
    assert said == f"train data: pairs.jsonl: 24 {noun}, none left out."
    assert step.startswith("step 3/3  loss ")
    assert written == "Policy written to out/policy"
    assert following.startswith("next: odin-rm ")
    assert shown.err == ""
    # A later stage takes the run folder.
    assert main(line("dpo", model="out", output="next")) == 0
    assert (room / "next" / "policy" / "model.safetensors").is_file()


@BOTH
def test_a_config_file_and_flags_over_it(command: str, line: Line, shop: Path, room: Path) -> None:
    (room / "run.yaml").write_text(
        f"model: {shop / 'base'}\ndataset: {shop / 'pairs.jsonl'}\nmax_steps: 9\nlearning_rate: 1e-4\nuse_cpu: true\n"
    )
    assert main([command, "--config", "run.yaml", "--output", "out", "--max_steps", "2"]) == 0
    steps = [json.loads(row) for row in (room / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["step"] == 2


@BOTH
@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model": None}, "--model: is required"),
        ({"dataset": None}, "--dataset: is required"),
        ({"output": None}, "--output: is required"),
        ({"model": "./nowhere"}, "nowhere: there is no such model folder"),
        ({"dataset": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"bata": 1}, "unknown flag --bata"),
        ({"learning_rate": "fast"}, "--learning_rate"),
        ({"learning_rat": 1}, "Did you mean --learning_rate?"),
        ({"truncation_mode": "keep_end"}, "--truncation_mode: has no effect"),
        ({"max_length": 4}, "more than --max_length (4). No row fits"),
        ({"resume_from_checkpoint": "true"}, "there is no checkpoint to go on from"),
        ({"optim": "sgdd"}, "sgdd"),
    ],
)
def test_bad_flags(command: str, changes: dict[str, Any], said: str, line: Line, refuse: Refuse) -> None:
    refuse(line(command, **changes), said)


@BOTH
def test_an_encoder_and_a_reward_model_are_no_policies(
    command: str, line: Line, shop: Path, refuse: Refuse, tmp_path_factory: pytest.TempPathFactory
) -> None:
    encoder = tmp_path_factory.mktemp("encoder")
    save_base("bert", encoder)
    build_tokenizer().save_pretrained(encoder)
    refuse(line(command, model=encoder), "encoder")
    refuse(line(command, model=shop / "ours"), "is a reward model, not a policy")


PAIRS = [{"prompt": f"question {k}", "chosen": f"good words {k}", "rejected": f"bad {k}"} for k in range(5)]


@pytest.mark.parametrize(
    "command, content, said",
    [
        ("sft", b"", "is empty"),
        ("dpo", b"", "is empty"),
        ("sft", with_bad_row(ANSWERS, response=None), "row 4: field 'response' is missing"),
        ("sft", with_bad_row(ANSWERS, prompt=None), "row 4: there is no 'prompt'"),
        ("sft", with_bad_row(ANSWERS, response=7), "row 4: 'response' is int"),
        ("dpo", with_bad_row(PAIRS, rejected=None), "row 4: field 'rejected' is missing"),
        ("dpo", with_bad_row(PAIRS, rejected="good words 3"), "row 4: 'chosen' is equal to 'rejected'"),
        ("dpo", lines(ANSWERS), "row 1: field 'chosen' is missing"),
    ],
)
def test_bad_rows(
    command: str, content: bytes, said: str, line: Line, refuse: Refuse, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bad = tmp_path_factory.mktemp("bad") / "bad.jsonl"
    bad.write_bytes(content)
    refuse(line(command, dataset=bad), said)


@BOTH
def test_an_interrupted_run_goes_on(
    command: str, line: Line, room: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with monkeypatch.context() as patch:
        send_signal_at(patch, 1)
        assert main(line(command)) == 130
    said = capfd.readouterr().err
    assert said.startswith(f"odin-rm {command}: interrupted: out: stopped by SIGTERM after step 2, the state is saved.")
    assert said.count("\n") == 1
    assert not (room / "out" / "policy").exists()
    assert main(line(command, resume_from_checkpoint="true")) == 0
    assert (room / "out" / "policy" / "model.safetensors").is_file()


@BOTH
def test_another_run_in_the_folder_is_kept_unless_asked(command: str, line: Line, room: Path, refuse: Refuse) -> None:
    assert main(line(command)) == 0
    refuse(line(command), "already holds another run", "--overwrite")
    before = contents(room)
    assert main([*line(command, learning_rate=1e-2), "--overwrite"]) == 0
    assert contents(room).keys() == before.keys()
    assert contents(room)["out/policy/model.safetensors"] != before["out/policy/model.safetensors"]
