"""Whole runs of PPO and ReMax on a tiny world: what they write, that options act, that going on is exact, bad ends."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from odin_rm.core.errors import CheckpointError, ConfigError, NumericalError, OutputError, RewardSourceError
from odin_rm.rl.config import RLConfig
from odin_rm.workflows.rl.run import train_policy
from tests.rl.conftest import MakeConfig, check_looks
from tests.waiting import wait_until

CONTRACT = (
    *("step", "samples_seen", "mean_response_tokens", "mean_quality_reward", "mean_length_reward"),
    *("kl_to_reference", "clip_fraction", "ended_share"),
)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "policy" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("algorithm", ["ppo", "remax"])
def test_a_run_writes_what_the_contract_names(make_config: MakeConfig, bench: Path, algorithm: str) -> None:
    run = train_policy(make_config(algorithm=algorithm, watch_steps=2, watch_size=4))
    files = {"policy", "checkpoints", "metrics.jsonl", "samples.jsonl", "config.yaml", "environment.json"}
    files |= {"data_report.json", "watch.jsonl", ".odin-rm.json"}
    assert {path.name for path in run.iterdir()} == files
    for name in ("model.safetensors", "tokenizer.json"):
        assert (run / "policy" / name).is_file(), name
    steps = [row for row in metrics(run) if "samples_seen" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(math.isfinite(row[name]) for row in steps for name in CONTRACT)
    assert [row["samples_seen"] for row in steps] == [4, 8, 12, 16]
    # Two minibatches a collection, in whose rows it is counted; all its responses are usable.
    cut = [row["cut_responses"] for row in steps if "cut_responses" in row]
    missing = [4 * (1 - row["ended_share"]) for row in steps]
    collections = [sum(missing[i : i + len(steps) // len(cut)]) for i in range(0, 4, len(steps) // len(cut))]
    assert cut == pytest.approx(collections)
    assert sum(cut) > 0
    assert not same(weights(run), load_file(bench / "policy" / "model.safetensors"))
    assert [row["step"] for row in metrics(run) if "watch_kl" in row] == [0, 2, 4]
    check_looks(run)


def test_the_first_update_of_a_collection_is_not_stale_and_the_second_is(make_config: MakeConfig) -> None:
    run = train_policy(make_config(learning_rate=1e-2, clip_epsilon=1e-3))
    clipped = [row["clip_fraction"] for row in metrics(run) if "clip_fraction" in row]
    assert clipped[0] == clipped[2] == 0.0
    assert clipped[1] > 0
    assert clipped[3] > 0


@pytest.fixture(scope="module")
def plain_ppo(tmp_path_factory: pytest.TempPathFactory, bench: Path) -> dict[str, torch.Tensor]:
    return weights(train_policy(ppo_config(bench, tmp_path_factory.mktemp("plain"))))


def ppo_config(bench: Path, place: Path, **changes: Any) -> RLConfig:
    values: dict[str, Any] = {
        "model": str(bench / "policy"),
        "reward": str(bench / "odin"),
        "prompts": str(bench / "prompts.jsonl"),
        "output_dir": str(place / "run"),
        "max_steps": 6,
        "minibatch_size": 4,
        "experience_size": 8,
        "max_new_tokens": 8,
        "learning_rate": 3e-3,
        "max_grad_norm": 100.0,
        "adam_epsilon": 1e-4,
        "kl_coef": 0.1,
        "value_clip": 0.2,
        "watch_steps": 0,
        "sample_steps": 0,
        "save_steps": 0,
        "use_cpu": True,
    }
    return RLConfig(**(values | changes))


# By value, setting by setting and against a naive run: tests/rl/test_wiring.py. Here, that a whole run with its own
# sampling and its own reward model comes by them.
@pytest.mark.parametrize("changes", [{"critic_init": "reward"}, {"temperature": 0.5}, {"seed": 1}], ids=str)
def test_a_run_comes_by_its_settings(
    changes: dict[str, Any], plain_ppo: dict[str, torch.Tensor], bench: Path, tmp_path: Path
) -> None:
    changed = weights(train_policy(ppo_config(bench, tmp_path, **changes)))
    assert not same(changed, plain_ppo)


def test_equal_settings_give_equal_policies(plain_ppo: dict[str, torch.Tensor], bench: Path, tmp_path: Path) -> None:
    # Logs, samples, the watch and micro-batches of another size decide nothing... the last one but for rounding.
    config = ppo_config(bench, tmp_path, watch_steps=2, watch_size=3, sample_steps=1, save_steps=2)
    assert same(weights(train_policy(config)), plain_ppo)


def test_the_split_into_micro_batches_changes_rounding_only(
    plain_ppo: dict[str, torch.Tensor], bench: Path, tmp_path: Path
) -> None:
    split = weights(train_policy(ppo_config(bench, tmp_path, microbatch_tokens=40, max_steps=6)))
    for name, tensor in plain_ppo.items():
        torch.testing.assert_close(split[name], tensor, rtol=0, atol=2e-5)


@pytest.mark.parametrize("algorithm", ["ppo", "remax"])
def test_going_on_from_any_checkpoint_ends_in_the_same_policy(make_config: MakeConfig, algorithm: str) -> None:
    settings: dict[str, Any] = {"algorithm": algorithm, "max_steps": 6, "save_steps": 1, "save_total_limit": 9}
    settings |= {"kl_target": 0.01, "kl_horizon": 20, "watch_steps": 2, "watch_size": 4, "standardise": "reference"}
    whole = train_policy(make_config("whole", **settings))
    for step in (1, 3, 4):
        part = make_config(f"part{step}", **settings | {"max_steps": step})
        train_policy(part)
        going_on = make_config(f"part{step}", **settings, resume_from_checkpoint="true")
        run = train_policy(going_on)
        assert same(weights(run), weights(whole))
        rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in metrics(run)]
        expected = [{k: v for k, v in row.items() if "seconds" not in k} for row in metrics(whole)]
        assert [r for r in rows if "finished" not in r] == [r for r in expected if "finished" not in r]


def written(run: Path) -> str:
    """What the log holds at this moment, also in the middle of a line."""
    return (run / "metrics.jsonl").read_text(encoding="utf-8") if (run / "metrics.jsonl").exists() else ""


KILLED = """
import sys, json
from odin_rm.rl.config import RLConfig
from odin_rm.workflows.rl.run import train_policy
print("ready", flush=True)
train_policy(RLConfig(**json.loads(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_killed_at_a_random_point_and_resumed_is_the_same_policy(make_config: MakeConfig, attempt: int) -> None:
    settings: dict[str, Any] = {"max_steps": 40, "save_steps": 3, "watch_steps": 10, "watch_size": 4}
    whole = train_policy(make_config("whole", **settings))
    config = make_config("killed", **settings)
    values = {k: v for k, v in vars(config).items() if v not in (None, math.inf)}
    run = Path(str(config.output_dir))
    rng = np.random.default_rng(attempt)
    # Three kills, each some random time after a random step has been logged; a fourth process finishes.
    for step in [*sorted(rng.choice(np.arange(1, 39), 3, replace=False).tolist()), None]:
        if list((run / "checkpoints").glob("checkpoint-[0-9]*/state.json")):
            values["resume_from_checkpoint"] = "true"
        elif run.exists():
            values["overwrite_output_dir"] = True
        process = subprocess.Popen([sys.executable, "-c", KILLED, json.dumps(values)], stdout=subprocess.PIPE)
        if step is not None:
            wait_until(lambda: f'"step": {step},' in written(run), alive=[process])  # noqa: B023
            time.sleep(float(rng.uniform(0.0, 0.1)))
            process.kill()
        assert process.wait() == (0 if step is None else -signal.SIGKILL)
    assert same(weights(Path(str(config.output_dir))), weights(whole))


def test_the_engine_is_told_of_new_weights_before_it_writes(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    engine = "odin_rm.rl.rollout.TransformersEngine"
    from odin_rm.rl.rollout import TransformersEngine

    real = TransformersEngine.generate
    monkeypatch.setattr(f"{engine}.update_weights", lambda self, model: calls.append("weights"))
    monkeypatch.setattr(f"{engine}.generate", lambda self, *a, **k: calls.append("write") or real(self, *a, **k))
    train_policy(make_config(watch_steps=2, watch_size=2, max_steps=4))
    # Looks before training and after steps 2 and 4, collections before steps 1 and 3.
    assert calls == ["weights", "write"] * 5


# ---- bad ends --------------------------------------------------------------------------------------------------------


def write_function(folder: Path, body: str) -> str:
    path = folder / "judge.py"
    path.write_text(f"calls = []\ndef judge(prompts, completions, **kwargs):\n    calls.append(1)\n{body}\n", "utf-8")
    return f"{path}:judge"


def test_a_reward_that_is_not_a_number_ends_the_run_with_a_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    body = "    return [float('nan') if len(calls) > 2 else float(len(c)) for c in completions]"
    spec = write_function(tmp_path, body)
    config = make_config(reward=spec, standardise="none", max_steps=8)
    with pytest.raises(NumericalError, match=r"rewards are not finite.*saved in"):
        train_policy(config)
    assert (Path(str(config.output_dir)) / "checkpoints" / "checkpoint-4" / "state.json").is_file()
    # With a source that is whole again the run goes on.
    (tmp_path / "judge.py").write_text("def judge(completions, **kw):\n    return [1.0] * len(completions)\n", "utf-8")
    run = train_policy(make_config(reward=spec, standardise="none", max_steps=8, resume_from_checkpoint="true"))
    assert (run / "policy").is_dir()


def test_bad_rewards_can_be_left_out(make_config: MakeConfig, tmp_path: Path) -> None:
    body = "    return [None if i % 2 else float(len(c)) for i, c in enumerate(completions)]"
    config = make_config(reward=write_function(tmp_path, body), standardise="none", on_bad_reward="skip")
    rows = [row for row in metrics(train_policy(config)) if "samples_seen" in row]
    assert all(math.isfinite(row["mean_quality_reward"]) for row in rows)


def test_what_a_reward_function_logs_reaches_the_metrics(make_config: MakeConfig, tmp_path: Path) -> None:
    body = (
        "    kwargs['log_metric']('lucky', 7.0)\n"
        "    kwargs['log_extra']('words', [len(c.split()) for c in completions])\n"
        "    return [1.0] * len(completions)"
    )
    config = make_config(reward=write_function(tmp_path, body), standardise="none")
    first = next(row for row in metrics(train_policy(config)) if "samples_seen" in row)
    assert first["source_lucky"] == 7.0
    assert 0 < first["source_words"] <= 8


def test_a_server_that_dies_ends_the_run_with_a_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    body = "    if len(calls) > 1:\n        raise ConnectionError('gone')\n    return [1.0] * len(completions)"
    config = make_config(reward=write_function(tmp_path, body), standardise="none")
    with pytest.raises(RewardSourceError, match=r"saved in"):
        train_policy(config)
    assert (Path(str(config.output_dir)) / "checkpoints" / "checkpoint-2" / "state.json").is_file()


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from odin_rm.rl import checkpoint

    real, calls = checkpoint.save_file, []

    def full(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    config = make_config(save_steps=2, max_steps=6)
    with pytest.raises(OutputError, match="No space left"):
        train_policy(config)
    monkeypatch.undo()
    folder = Path(str(config.output_dir)) / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
    train_policy(make_config(save_steps=2, max_steps=6, resume_from_checkpoint="true"))


def test_a_checkpoint_of_other_settings_is_refused_before_anything_is_written(make_config: MakeConfig) -> None:
    train_policy(make_config())
    with pytest.raises(CheckpointError, match="kl_coef"):
        train_policy(make_config(kl_coef=0.7, max_steps=8, resume_from_checkpoint="true"))


def test_a_damaged_checkpoint_is_named(make_config: MakeConfig) -> None:
    run = train_policy(make_config())
    path = run / "checkpoints" / "checkpoint-4" / "optimiser.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        train_policy(make_config(max_steps=8, resume_from_checkpoint="true"))


def test_prompts_and_responses_must_fit_into_the_window(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="window of 256"):
        train_policy(make_config(max_prompt_tokens=250, max_new_tokens=8))


def test_standardising_by_a_source_without_statistics_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="no mean and deviation"):
        train_policy(make_config(reward="gold", standardise="model"))


def test_a_kl_alarm_stops_or_rolls_back(make_config: MakeConfig, bench: Path) -> None:
    settings: dict[str, Any] = {"watch_steps": 1, "watch_size": 4, "watch_kl": 1e-6, "learning_rate": 1e-2}
    stopped = train_policy(make_config("stopped", **settings, watch_action="stop", max_steps=20))
    assert metrics(stopped)[-1]["stopped_by"] == "kl_runaway"
    assert metrics(stopped)[-1]["step"] < 20
    back = train_policy(make_config("back", **settings, watch_action="rollback", max_steps=20))
    best = next(row["rolled_back_to"] for row in metrics(back) if "rolled_back_to" in row)
    expected = bench / "policy"
    if best:
        expected = train_policy(make_config("best", **settings | {"watch_kl": 50.0}, max_steps=best)) / "policy"
    assert same(weights(back), load_file(expected / "model.safetensors"))
