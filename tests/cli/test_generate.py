"""``odin-rm generate`` from the command line: what it says and refuses, and the way on to a win rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from odin_rm.cli.main import main
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World
from tests.cli.conftest import lines

PROMPTS = World().prompts()[:6]


@pytest.fixture
def line(room: Path, shop: Path, monkeypatch):
    """A command line that would work, with parts of it replaced."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (room / "prompts.jsonl").write_bytes(lines([{"prompt": text} for text in PROMPTS]))

    def make(**changes) -> list[str]:
        flags = {"model": shop / "base", "prompts": "prompts.jsonl", "output": "out.json", "max_new_tokens": 8}
        return ["generate", *(word for name, value in (flags | changes).items() for word in (f"--{name}", str(value)))]

    return make


def test_from_two_models_to_a_win_rate_by_the_testbeds_truth(line, room: Path, capfd) -> None:
    save_tiny_model(room / "other", 1, hidden=16, layers=1, heads=2)
    assert main(line()) == 0
    assert main(line(model="other", output="other.json")) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    said = shown.out.splitlines()
    assert said[0].startswith("base: 6 responses, ")
    assert said[1] == "Written to out.json, which odin-rm judge reads"
    words = "judge --candidate out.json --baseline other.json --judge gold --output judged"
    assert main(words.split()) == 0
    assert main(["win-rate", "--annotations", "judged", "--output", "rate.json", "--bootstrap_samples", "50"]) == 0
    rate = json.loads(Path("rate.json").read_text())
    assert (rate["generator"], rate["baseline"], rate["n"]) == ("base", "other", 6)
    written = {row["instruction"]: row["output"] for row in json.loads(Path("out.json").read_text())}
    judged = json.loads(Path("judged/annotations.json").read_text())
    assert {row["instruction"]: row["output_2"] for row in judged} == written


def test_empty_responses_are_kept_with_a_warning(line, monkeypatch, capfd) -> None:
    class Rollout:
        text, response_tokens, ended = " ", 0, True

    monkeypatch.setattr(TransformersEngine, "generate", lambda self, ids, *args, **kwargs: [Rollout()] * len(ids))
    assert main(line()) == 0
    assert capfd.readouterr().err == (
        "odin-rm generate: warning: 6 responses are empty; odin-rm judge refuses them, or lets them lose\n"
    )
    assert [row["output"] for row in json.loads(Path("out.json").read_text())] == [""] * 6


def base_of(shop: Path) -> dict[str, str]:
    return {"base_model_name_or_path": str(shop / "base")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": "prompts.json"}, "prompts.json: exists already. Choose another name, or pass --overwrite."),
        ({"output": "folder.json"}, "folder.json: is a folder, not a file"),
        ({"prompts": "twice.jsonl"}, "twice.jsonl, row 3: the prompt is that of twice.jsonl, row 1 again"),
        ({"prompts": "empty.jsonl"}, "empty.jsonl: "),
        ({"prompts": "none.jsonl"}, "none.jsonl: "),
        ({"max_new_tokens": 250}, "prompts.jsonl, row 1: the prompt's"),
        ({"model": "none"}, "none: "),
        ({"model": "openai:m"}, "there is no API key: the environment variable OPENAI_API_KEY is not set."),
        ({"model": "openai:m", "base_url": "a/v1"}, "--base_url: is no http(s) address"),
        ({"model": "adapter"}, "adapter: cannot load the adapter's adapter_config.json ("),
        ({"model": "cut_adapter"}, "cut_adapter: cannot load the adapter ("),
        ({"chat_template": "template.jinja"}, "--chat_template: never uses the messages"),
        ({"seed": -1}, "--seed: must be at least 0 and below 4294967296, it is -1"),
        ({"seed": 10**20}, "--seed: must be at least 0 and below 4294967296, it is 100000000000000000000"),
        ({"temperature": "inf"}, "--temperature: must be at least 0, it is inf"),
        ({"output": "stopped.json"}, "stopped.json.partial.jsonl: holds something else"),
        ({"temperature": -1}, "--temperature: must be at least 0, it is -1.0"),
    ],
)
def test_what_is_refused(line, room: Path, shop: Path, refuse, changes, said) -> None:
    for name, config in (("adapter", "{"), ("cut_adapter", json.dumps({"peft_type": "LORA"} | base_of(shop)))):
        (room / name).mkdir()
        (room / name / "adapter_config.json").write_text(config)
        (room / name / "adapter_model.safetensors").write_text("cut")
    (room / "stopped.json.partial.jsonl").write_text('{"asked": [1]}\n')
    (room / "prompts.json").write_text("[]")
    (room / "folder.json").mkdir()
    (room / "twice.jsonl").write_bytes(lines([{"prompt": text} for text in ("a", "b", "a")]))
    (room / "empty.jsonl").write_text("")
    refuse(line(**changes), said)


def test_a_reward_model_writes_nothing(line, shop: Path, refuse) -> None:
    refuse(line(model=shop / "ours"), "is a reward model, not a policy")
