"""``odin-rm rl`` from the command line: bad input, a full disk, signals, policies that never or always end."""

from __future__ import annotations

import json
import math
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from odin_rm.cli.main import main
from tests.cli.conftest import Refuse, lines

Arguments = Callable[..., list[str]]


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "samples_seen" in row]


def one_line(capfd: pytest.CaptureFixture[str], kind: str = "error") -> str:
    said = capfd.readouterr().err
    assert said.startswith(f"odin-rm rl: {kind}: "), said
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file holds no rows"),
        (lines([{"prompt": "short"}, {"prompt": "long " * 300}]), "prompts.jsonl, row 2: the prompt has 304 tokens"),
        (lines([{"text": "no prompt"}]), "prompt"),
    ],
)
def test_prompts_that_cannot_be_used(
    content: bytes, said: str, arguments: Arguments, refuse: Refuse, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_bytes(content)
    refuse(arguments("rl", prompts=path), said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_prompt_tokens": 250, "max_new_tokens": 250}, "window of 256"),
        ({"model": "ours"}, "is a reward model, not a policy"),
        ({"reward": "no_such_model"}, "no_such_model"),
        ({"resume_from_checkpoint": "true"}, "there is no checkpoint"),
        ({"algorithm": "remax", "gae_lambda": 0.5}, "--gae_lambda"),
    ],
)
def test_settings_that_cannot_work(
    changes: dict[str, Any], said: str, arguments: Arguments, refuse: Refuse, shop: Path
) -> None:
    given = {name: str(shop / value) if value == "ours" else value for name, value in changes.items()}
    refuse(arguments("rl", **given), said)


def test_prompts_that_are_left_out_are_counted(arguments: Arguments, room: Path, capfd: Any) -> None:
    (room / "prompts.jsonl").write_bytes(
        lines([{"prompt": f"short {k}"} for k in range(5)] + [{"prompt": "long " * 99}])
    )
    flags = {"prompts": "prompts.jsonl", "watch_prompts": "prompts.jsonl", "max_prompt_tokens": 40}
    assert main(arguments("rl", overlong_prompt="drop", max_steps=1, **flags)) == 0
    said = "prompts.jsonl: 5 of 6 prompts are used. Left out: 1 longer than max_prompt_tokens 40."
    shown = capfd.readouterr().out
    assert f"prompts data: {said}\n" in shown
    assert f"watch prompts data: {said}\n" in shown
    record = {"source": "prompts.jsonl", "prompts": 5, "prompts_stated": 6, "dropped_overlong_prompts": 1}
    expected = record | {"max_prompt_tokens": 40}
    written = json.loads((room / "out" / "data_report.json").read_text(encoding="utf-8"))
    assert written == {"prompts": expected, "watch_prompts": expected}


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_from_its_last_checkpoint(
    arguments: Arguments, room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("rl", save_steps=2)) == 0
    whole = load_file(room / "out" / "policy" / "model.safetensors")
    assert main(arguments("rl", output="full", max_steps=2)) == 0
    resume: dict[str, Any] = {"output": "full", "resume_from_checkpoint": "true"}
    capfd.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))  # no file may grow beyond
    try:
        assert main(arguments("rl", **resume)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in one_line(capfd)
    assert [p.name for p in (room / "full" / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert main(arguments("rl", **resume)) == 0
    again = load_file(room / "full" / "policy" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


JUDGE = """
import os, signal
calls = []
def judge(completions, **kwargs):
    calls.append(1)
    if len(calls) == STOP:
        os.kill(os.getpid(), signal.NAME)
    return [float(len(text)) for text in completions]
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_and_the_run_goes_on(
    name: str, arguments: Arguments, room: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    judge = room / "judge.py"
    source: dict[str, Any] = {"reward": f"{judge}:judge", "standardise": "none"}
    judge.write_text(JUDGE.replace("STOP", "-1"))
    assert main(arguments("rl", **source)) == 0
    whole = load_file(room / "out" / "policy" / "model.safetensors")
    judge.write_text(JUDGE.replace("STOP", "2").replace("NAME", name))
    capfd.readouterr()
    assert main(arguments("rl", **source, output="stopped")) == 130
    assert f"stopped by {name} after step 3, the state is saved" in one_line(capfd, "interrupted")
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (room / "stopped" / "policy").exists()
    judge.write_text(JUDGE.replace("STOP", "-1"))
    assert main(arguments("rl", **source, output="stopped", resume_from_checkpoint="true")) == 0
    again = load_file(room / "stopped" / "policy" / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def policy_that_writes(token: str, shop: Path, folder: Path) -> Path:
    """A copy of the shop's policy whose next token is always the same."""
    tokenizer = AutoTokenizer.from_pretrained(shop / "base")
    model = AutoModelForCausalLM.from_pretrained(shop / "base")
    with torch.no_grad():
        # All states point one way, and so does the row of that token alone.
        table: Any = model.get_input_embeddings().weight
        table.copy_(torch.full_like(table, 0.25))
        row = tokenizer.eos_token_id if token == "end" else tokenizer.convert_tokens_to_ids(token)
        table[row] *= 50
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("algorithm", ["ppo", "remax"])
@pytest.mark.parametrize(("token", "tokens", "ended"), [("end", 0.0, 1.0), ("a", 4.0, 0.0)])
def test_a_policy_that_ends_at_once_or_never(
    algorithm: str, token: str, tokens: float, ended: float, arguments: Arguments, shop: Path, room: Path
) -> None:
    policy = policy_that_writes(token, shop, room / "base")
    assert main(arguments("rl", algorithm=algorithm, model=policy, missing_end_penalty=1.0)) == 0
    rows = rows_of(room / "out")
    assert {row["mean_response_tokens"] for row in rows} == {tokens}
    assert {row["ended_share"] for row in rows} == {ended}
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert {row["missing_end_cost"] for row in rows if "missing_end_cost" in row} == {1.0 - ended}


def test_a_response_of_full_length_costs_the_whole_overlong_penalty(
    arguments: Arguments, shop: Path, room: Path
) -> None:
    policy = policy_that_writes("a", shop, room / "base")
    assert main(arguments("rl", model=policy, overlong_penalty=0.5, overlong_buffer=2)) == 0
    rows = [row for row in rows_of(room / "out") if "overlong_cost" in row]
    assert {row["overlong_cost"] for row in rows} == {0.5}
    for row in rows:
        assert row["sequence_reward"] == pytest.approx(row["rescaled_reward"] - 0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overlong_buffer": 2}, "--overlong_buffer"),
        ({"overlong_penalty": 1.0, "overlong_buffer": 5}, "more than --max_new_tokens (4)"),
        ({"group_length_rescaling": 0.5}, "Give --num_generations 2 or more"),
        ({"preference_reference": "answer"}, "no column 'answer'"),
    ],
)
def test_shapings_that_would_do_nothing_are_refused(
    changes: dict[str, Any], said: str, arguments: Arguments, refuse: Refuse
) -> None:
    refuse(arguments("rl", **changes), said)
