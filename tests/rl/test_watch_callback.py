"""The watch in real runs of TRL's trainers on a tiny policy that is paid for length."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.data.render import TEMPLATE_DATE
from odin_rm.model.backbone import quiet_loading
from odin_rm.model.scoring import load_tokenizer
from odin_rm.rl.records import SamplingSettings
from odin_rm.rl.watch import WatchLimits
from odin_rm.rl.watch_callback import WatchCallback, _as_trl_reads, _on_any_process
from odin_rm.testbed.tiny import save_tiny_model
from tests.calendar_year import set_year
from tests.rl.watch_fakes import TOKENIZER, RandomEngine, Source

PROMPTS = ["how do i sleep ?", "how do i cook rice ?", "help me"]
ROWS = [{"prompt": text} for text in PROMPTS]
LONGER = Source(lambda request: request.response_tokens)
SHORTER = Source(lambda request: -request.response_tokens, lambda request: request.response_tokens)
SILENT = WatchLimits(length_ratio=math.inf, kl=math.inf, entropy_share=0.0)


def paid_for_length(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("watch") / "policy", 1, hidden=16, layers=1, heads=2)


def trainer(start: Path, output: Path, callback: WatchCallback | None, kind: str = "grpo", **changes: Any) -> Any:
    config, made = (GRPOConfig, GRPOTrainer) if kind == "grpo" else (RLOOConfig, RLOOTrainer)
    settings = {
        "output_dir": str(output),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 8,
        "learning_rate": 0.05,
        "beta": 0.0,
        "use_cpu": True,
        "bf16": False,
        "seed": 7,
        "logging_steps": 100,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    with quiet_loading():
        return made(
            model=str(start),
            reward_funcs=paid_for_length,
            args=config(**(settings | changes)),
            train_dataset=Dataset.from_dict({"prompt": PROMPTS * 8}),
            callbacks=[callback] if callback else [],
        )


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def watched(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, WatchCallback, Path]:
    output = tmp_path_factory.mktemp("grpo")
    callback = WatchCallback(ROWS * 8, SHORTER, held_out=SHORTER, steps=2, limits=SILENT, seed=5)
    run = trainer(start, output, callback, save_strategy="steps", save_steps=3)
    run.train()
    return run, callback, output


def test_it_looks_before_training_every_k_steps_and_sees_the_policy_move(watched):
    _, callback, output = watched
    rows = rows_of(output / "watch.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert rows[-1]["kl"] > 0.05
    assert rows[0]["entropy"] > rows[-1]["entropy"] > 0
    assert rows[-1]["quality"] == -rows[-1]["mean_tokens"] == rows[-1]["held_out"] == -rows[-1]["length_reward"]
    assert [row["alarms"] for row in rows] == [[], [], []]
    assert callback.watch.state()["records"] == [{k: v for k, v in row.items() if k != "alarms"} for row in rows]


def test_the_samples_are_kept(watched):
    rows = rows_of(watched[2] / "samples.jsonl")
    assert [(row["step"], row["prompt"]) for row in rows] == [(step, p) for step in (0, 2, 4) for p in PROMPTS * 8]
    for row in rows:
        assert row["quality"] == -row["response_tokens"]
        assert len(TOKENIZER(row["response"], add_special_tokens=False)["input_ids"]) <= 8


def test_training_goes_as_it_would_unwatched(watched, start, tmp_path):
    unwatched = trainer(start, tmp_path, None)
    unwatched.train()
    seen, unseen = weights(watched[0].model), weights(unwatched.model)
    assert all(torch.equal(seen[name], unseen[name]) for name in unseen)


def test_a_resumed_run_goes_on_with_the_same_reference_and_the_same_history(watched, start, tmp_path):
    shutil.copytree(watched[2], tmp_path / "run")
    with (tmp_path / "run" / "watch.jsonl").open("a") as file:
        file.write('{"step": 2, "mean_tok')  # killed in the middle of a line
    callback = WatchCallback(ROWS * 8, SHORTER, held_out=SHORTER, steps=2, limits=SILENT, seed=5)
    run = trainer(start, tmp_path / "run", callback, save_strategy="steps", save_steps=3)
    run.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    for name in ("watch.jsonl", "samples.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (watched[2] / name).read_text()
    assert callback.watch.state() == watched[1].watch.state()


def test_an_alarm_warns_and_the_run_goes_on(start, tmp_path, caplog):
    callback = WatchCallback(ROWS * 8, LONGER, steps=1, limits=WatchLimits(kl=1e-3))
    run = trainer(start, tmp_path, callback, max_steps=2)
    with caplog.at_level(logging.WARNING, logger="odin_rm"):
        run.train()
    assert run.state.global_step == 2
    assert [row["step"] for row in rows_of(tmp_path / "watch.jsonl") if row["alarms"]] == [1]
    (message,) = [record.getMessage() for record in caplog.records if record.name == "odin_rm.rl.watch_callback"]
    assert message.startswith("step 1, kl runaway: the KL to the reference policy is ")


def test_an_alarm_stops_the_run_where_it_should_and_a_new_run_begins_the_files_anew(start, tmp_path):
    for _ in range(2):
        callback = WatchCallback(ROWS * 8, LONGER, steps=2, limits=WatchLimits(kl=1e-3), action="stop")
        run = trainer(start, tmp_path, callback, kind="rloo")
        run.train()
        assert run.state.global_step == 2
        rows = rows_of(tmp_path / "watch.jsonl")
        assert [(row["step"], [alarm["kind"] for alarm in row["alarms"]]) for row in rows] == [
            (0, []),
            (2, ["kl_runaway"]),
        ]
        assert callback.watch.best_step == 0
        assert len(rows_of(tmp_path / "samples.jsonl")) == 48


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_a_callback_that_is_added_later_has_a_reference_of_its_own_too(start, tmp_path, bf16):
    """By then TRL has replaced the policy's forward, and a careless copy would read the policy's weights."""
    callback = WatchCallback(ROWS * 8, SHORTER, steps=1)
    run = trainer(start, tmp_path, None, max_steps=2, bf16=bf16)
    run.add_callback(callback)
    run.train()
    before, _, after = (record.kl for record in callback.watch.records)
    assert before == pytest.approx(0.0, abs=1e-6)
    assert after > 0.05


def test_chat_prompts_the_last_step_other_engines_and_places(start, tmp_path):
    from odin_rm.model.policy import load_policy

    policy, tokenizer = load_policy(start)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}assistant:"
    made: list[Any] = []

    def engine(model: Any, words: Any) -> RandomEngine:
        made.append((model, words))
        return RandomEngine(model)

    chats = [{"prompt": [{"role": "user", "content": text}], "n": len(text)} for text in PROMPTS]
    callback = WatchCallback(chats, LONGER, steps=9, engine=engine, output_dir=tmp_path / "watch")
    args = GRPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, max_completion_length=8, report_to="none")
    state, control = type("State", (), {"global_step": 0, "is_world_process_zero": True})(), object()
    given = {"model": policy, "processing_class": tokenizer}
    callback.on_init_end(args, state, control, **given)
    callback.on_train_begin(args, state, control, **given)
    state.global_step = 3
    callback.on_step_end(args, state, control, **given)
    callback.on_train_end(args, state, control, **given)
    callback.on_train_end(args, state, control, **given)
    assert [row["step"] for row in rows_of(tmp_path / "watch" / "watch.jsonl")] == [0, 3]
    assert not (tmp_path / "run" / "watch.jsonl").exists()
    assert made == [(policy, tokenizer)] * 2
    assert LONGER.requests[-1].columns == {"n": [len(text) for text in PROMPTS]}
    assert LONGER.requests[-1].prompts[2] == [{"role": "user", "content": "help me"}]
    read = engine_prompts(callback, args, state, given)
    assert read[2] == tokenizer("user: help me assistant:", add_special_tokens=False)["input_ids"]


def engine_prompts(callback: WatchCallback, args: Any, state: Any, given: dict[str, Any]) -> list[list[int]]:
    """What the engine is asked to go on from."""
    asked: list[list[list[int]]] = []

    class Listening(RandomEngine):
        def generate(self, prompt_ids: Any, sampling: Any, **kwargs: Any) -> Any:
            assert sampling == SamplingSettings(8, 1.0, 1.0, 0)
            asked.append([list(ids) for ids in prompt_ids])
            return super().generate(prompt_ids, sampling)

    callback.engine = lambda model, tokenizer: Listening()
    state.global_step = 9
    callback.on_step_end(args, state, object(), **given)
    return asked[0]


def test_a_template_with_a_date_reads_one_date_on_any_day(start, monkeypatch):
    tokenizer = load_tokenizer(start)
    tokenizer.chat_template = "{{ strftime_now('%Y') }} {% for m in messages %}{{ m['content'] }} {% endfor %}"
    found = []
    for year in (2026, 2031):
        set_year(monkeypatch, year)
        args = SimpleNamespace(chat_template_kwargs=None)
        found.append(_as_trl_reads(tokenizer, [[{"role": "user", "content": "help me"}]], args))
    assert found[0] == found[1]
    assert found[0] == [tokenizer(f"{TEMPLATE_DATE.year} help me ", add_special_tokens=False)["input_ids"]]


def test_a_lora_policy_needs_no_copy(start, tmp_path):
    pytest.importorskip("peft", reason="LoRA needs the extra peft")
    from odin_rm.model.policy import load_policy

    torch.manual_seed(0)
    policy, tokenizer = load_policy(start, lora_r=2)
    callback = WatchCallback(ROWS, LONGER, output_dir=tmp_path)
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_completion_length=8, report_to="none")
    state, control = type("State", (), {"global_step": 0, "is_world_process_zero": True})(), object()
    given = {"model": policy, "processing_class": tokenizer}
    callback.on_init_end(args, state, control, **given)
    callback.on_train_begin(args, state, control, **given)
    assert callback.reference is None
    assert callback.watch.records[0].kl == 0.0
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    state.global_step = 20
    callback.on_step_end(args, state, control, **given)
    assert callback.watch.records[1].kl > 0.01


def test_processes_stop_together(monkeypatch):
    """A process without an alarm stops where another has one."""
    args = type("Arguments", (), {"world_size": 2, "device": "cpu"})()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda votes, op: votes.fill_(1))
    assert _on_any_process(False, args)
    args.world_size = 1
    assert not _on_any_process(False, args)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"action": "rollback"}, ConfigError, "'rollback'.*warn or stop"),
        ({"steps": 0}, ConfigError, "every 0 steps"),
        ({"prompts": []}, DataError, "the watch has no prompts"),
        ({"prompts": [*ROWS, {"text": "?"}]}, DataError, "row 4 of the watch: has no 'prompt'"),
        ({"prompts": PROMPTS}, DataError, "row 1 of the watch"),
    ],
    ids=["action", "steps", "prompts", "field", "strings"],
)
def test_what_cannot_work_is_refused_at_once(changes, error, says):
    with pytest.raises(error, match=says):
        WatchCallback(**({"prompts": ROWS, "source": LONGER} | changes))


def test_sharded_weights_and_a_reference_that_is_gone_are_refused(start):
    args = GRPOConfig(output_dir="unused", use_cpu=True, report_to="none")
    state = type("State", (), {"global_step": 5, "is_world_process_zero": True})()
    callback = WatchCallback(ROWS, LONGER)
    with pytest.raises(ConfigError, match="after its checkpoint was loaded"):
        callback.on_train_begin(args, state, None, model=torch.nn.Linear(1, 1))
    args.fsdp = "full_shard"
    with pytest.raises(ConfigError, match="sharded"):
        callback.on_train_begin(args, state, None, model=torch.nn.Linear(1, 1))
