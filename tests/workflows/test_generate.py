"""Responses in AlpacaEval's format: what is written, by whom, and that a stopped run ends as a whole one would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from odin_rm.core.errors import OdinError, OutputError, RolloutError, RunInterrupted
from odin_rm.data.prompts import PromptSet
from odin_rm.model.scoring import load_tokenizer
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.testbed.tiny import save_tiny_model
from odin_rm.testbed.world import World
from odin_rm.workflows.generate import writers as response_writers
from odin_rm.workflows.generate.run import GenerateConfig, instruction, run_generate
from tests.judging.conftest import room  # noqa: F401
from tests.judging.server import KEY, FakeEndpoint
from tests.workflows.conftest import write_rows

PROMPTS = World().prompts()[:10]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("policy") / "tiny", 0, hidden=16, layers=1, heads=2)


@pytest.fixture
def generate(policy: Path, room: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:  # noqa: F811
    """Run with small settings in an empty folder, chunks of 4 prompts; the rows written."""
    monkeypatch.setattr(response_writers, "CHUNK", 4)
    write_rows(room / "prompts.jsonl", [{"prompt": text} for text in PROMPTS])

    def run(output: str = "out.json", **changes: Any) -> list[dict[str, Any]]:
        settings = {"model": str(policy), "prompts": "prompts.jsonl", "max_new_tokens": 6}
        run_generate(GenerateConfig(output=output, **(settings | changes)))
        return json.loads(Path(output).read_text())

    return run


def settings_of(output: str = "out.json") -> dict[str, Any]:
    return json.loads(Path(f"{output}.settings.json").read_text())


def spy_on_engine(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[list[list[int]]]:
    """Prompt ids of each call of the engine; Ctrl-C comes at one of them."""
    seen: list[list[list[int]]] = []
    real = TransformersEngine.generate

    def generate(self: Any, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(prompt_ids)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return real(self, prompt_ids, *args, **kwargs)

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    return seen


def test_the_file_and_the_settings_beside_it(generate) -> None:
    rows = generate(seed=3, top_p=0.9)
    assert [row["instruction"] for row in rows] == PROMPTS
    assert {tuple(row) for row in rows} == {("instruction", "output", "output_tokens", "ended", "generator")}
    assert {row["generator"] for row in rows} == {"tiny"}
    assert all(row["output_tokens"] == 6 or row["ended"] for row in rows)
    note = settings_of()
    assert (note["prompts"], note["resumed"], note["refused"]) == (10, 0, 0)
    assert note["mean_tokens"] == sum(row["output_tokens"] for row in rows) / 10
    assert note["ended_share"] == sum(row["ended"] for row in rows) / 10
    assert (note["settings"]["top_p"], note["settings"]["seed"], note["settings"]["temperature"]) == (0.9, 3, 1.0)
    assert note["environment"]["packages"]["torch"]
    assert {path.name for path in Path().iterdir()} == {"prompts.jsonl", "out.json", "out.json.settings.json"}


def test_the_seed_decides_what_is_drawn(generate) -> None:
    first = generate("1.json")
    assert generate("2.json") == first
    assert [row["output"] for row in generate("3.json", seed=1)] != [row["output"] for row in first]
    assert generate("4.json", limit=4) == first[:4]


def test_each_chunk_draws_from_a_random_state_of_its_own(policy: Path, room: Path, monkeypatch) -> None:  # noqa: F811
    """The same prompts in three chunks: no chunk repeats another's responses, and a chunk alone gives its own again."""
    monkeypatch.setattr(response_writers, "CHUNK", 2)
    config = GenerateConfig(str(policy), "prompts.jsonl", "out.json", max_new_tokens=8, seed=3)
    writer = response_writers.ModelWriter(config, PromptSet(PROMPTS[:2] * 3, {}, "prompts", [""] * 6))
    written: dict[int, list[str]] = {}
    seeds: list[int] = []
    real = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed) or real(seed))

    def take(start: int, rows: list[dict[str, Any]]) -> None:
        written[start] = [row["output"] for row in rows]

    writer.write(range(6), take)
    assert len({tuple(texts) for texts in written.values()}) == 3
    whole = written.copy()
    written.clear()
    writer.write([3], take)
    assert written == {2: whole[2]}
    # Neighbouring seeds share no state either, however many chunks there are.
    config.seed = 4
    response_writers.ModelWriter(config, PromptSet(PROMPTS[:2], {}, "prompts", [""] * 2)).write([0], take)
    assert seeds == [3_000_009, 3_000_011, 3_000_013, 3_000_011, 4_000_012]


def test_greedy_responses_are_those_of_transformers(generate, policy: Path) -> None:
    tokenizer, model = load_tokenizer(policy), AutoModelForCausalLM.from_pretrained(policy)
    for row in generate(temperature=0.0, limit=3):
        ids = tokenizer(f"Human: {row['instruction']}\n\nAssistant:", return_tensors="pt")["input_ids"]
        written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
        assert row["output"] == tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_a_chat_template_renders_the_prompts(generate, policy: Path, monkeypatch) -> None:
    seen = spy_on_engine(monkeypatch)
    turn, header = "{{ m.role }} : {{ m.content }} !", "{% if add_generation_prompt %}response :{% endif %}"
    template = "{% for m in messages %}" + turn + "{% endfor %}" + header
    generate(chat_template=template, limit=1)
    text = load_tokenizer(policy).decode(seen[0][0])
    assert text.startswith("user :")
    assert text.endswith("! response :")


@pytest.mark.parametrize("cut", [b"", b'{"start": 8, "rows": [{"output": "caf\xc3'])
def test_a_stopped_run_goes_on_and_ends_as_a_whole_one_would(generate, monkeypatch, cut: bytes) -> None:
    whole = generate("whole.json")
    with monkeypatch.context() as patch:
        spy_on_engine(patch, stop_at=3)
        with pytest.raises(RunInterrupted, match="8 of 10 responses are saved"):
            generate()
    with Path("out.json.partial.jsonl").open("ab") as file:
        file.write(cut)  # what a kill in the middle of a line leaves
    for changes in ({"seed": 1}, {"temperature": 0.0}, {"limit": 9}):
        with pytest.raises(OutputError, match="was left by a stopped run with another"):
            generate(**changes)
    with monkeypatch.context() as patch:
        seen = spy_on_engine(patch)
        assert generate(rollout_tokens=4096) == whole
        assert [len(prompts) for prompts in seen] == [2]
    assert settings_of()["resumed"] == 8
    assert not Path("out.json.partial.jsonl").exists()


def test_a_stopped_run_is_not_continued_with_other_prompts(generate, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        spy_on_engine(patch, stop_at=2)
        with pytest.raises(RunInterrupted):
            generate()
    write_rows(Path("prompts.jsonl"), [{"prompt": text} for text in PROMPTS[::-1]])
    with pytest.raises(OutputError, match="another prompts_sha256"):
        generate()
    Path("out.json.partial.jsonl").write_text("something else\n")
    with pytest.raises(OutputError, match="holds something else"):
        generate()


def test_conversations_and_the_dataset_of_alpaca_eval_are_passed_on(generate) -> None:
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    chat += [{"role": "user", "content": "Bye"}]
    rows = [{"prompt": chat}, {"instruction": "plan a trip", "dataset": "koala"}, {"prompt": chat[:1]}]
    write_rows(Path("prompts.jsonl"), rows)
    written = generate()
    assert [row["instruction"] for row in written] == [instruction(chat), "plan a trip", "Hello"]
    assert instruction(chat) == "user: Hello\n\nassistant: Hi\n\nuser: Bye"
    assert [row.get("dataset") for row in written] == [None, "koala", None]


# ---- an endpoint -----------------------------------------------------------------------------------------------------


def echo(first: str, second: str, times: int) -> str:
    return f" {first} it is{'...' if first == PROMPTS[1] else ''}"


def test_an_endpoint_is_asked_once_per_prompt_with_a_seed_of_its_own(generate) -> None:
    with FakeEndpoint(echo, faults={0: 429, 3: "half_json"}) as server:
        rows = generate(model="openai:lab/big", base_url=server.url, seed=5, temperature=0.5, top_p=0.8)
        asked = {request["messages"][0]["content"]: request for request in server.requests}
        assert set(server.answered.values()) == {1}
    assert [row["output"] for row in rows] == [echo(text, "", 0).strip() for text in PROMPTS]
    assert [row["ended"] for row in rows] == [k != 1 for k in range(10)]
    assert {(row["generator"], row["output_tokens"]) for row in rows} == {("big", 10)}
    assert [asked[text]["seed"] for text in PROMPTS] == list(range(5, 15))
    request = asked[PROMPTS[0]]
    assert (request["model"], request["max_completion_tokens"]) == ("lab/big", 6)
    assert (request["temperature"], request["top_p"]) == (0.5, 0.8)
    assert settings_of()["settings"]["base_url"] == server.url
    assert not any(KEY in path.read_text() for path in Path().iterdir())


def test_an_endpoint_that_fails_midway_is_asked_only_for_the_rest(generate) -> None:
    words = {"model": "openai:m", "concurrency": 1, "retries": 0}
    with FakeEndpoint(echo, faults=dict.fromkeys(range(6, 99), 500)) as server:
        with pytest.raises(RolloutError, match="the model m fails: HTTP 500"):
            generate(base_url=server.url, **words)
        assert not Path("out.json").exists()
        server.faults = {9: 400}
        rows = generate(base_url=server.url, **words)
        assert len(server.requests) == 7 + 4
    assert [bool(row["output"]) for row in rows] == [k != 8 for k in range(10)]
    assert [settings_of()[name] for name in ("resumed", "empty", "refused")] == [6, 1, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"top_k": 5, "model": "openai:m"}, "--top_k: is no part of an endpoint's API"),
        ({"dtype": "bfloat16", "model": "openai:m"}, "--dtype: has no effect: --model openai:m is an endpoint"),
        ({"base_url": "http://a/v1", "model": "m"}, "--base_url: has no effect: --model m is no endpoint"),
        ({"temperature": 0.0, "top_p": 0.9}, "--top_p: has no effect at temperature 0"),
        ({"temperature": float("nan")}, "it is nan"),
        ({"top_p": 0.0}, "it is 0.0"),
        ({"output": "out.jsonl"}, "--output: is out.jsonl"),
        ({"model": "openai:"}, "--model: names no model"),
        ({"limit": 0}, "it is 0"),
    ],
)
def test_unusable_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OdinError) as error:
        GenerateConfig(**({"model": "m", "prompts": "p.jsonl", "output": "out.json"} | changes))
    assert said in str(error.value)
