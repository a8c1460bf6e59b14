"""RLOO and GRPO: TRL's trainers on our prompts, ids, rewards and run folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from odin_rm.core.errors import (
    CheckpointError,
    ConfigError,
    MachineError,
    NumericalError,
    RewardSourceError,
    RunInterrupted,
)
from odin_rm.core.files import append_jsonl
from odin_rm.data.prompts import PromptSet
from odin_rm.model.policy import load_policy
from odin_rm.rl.config import RLConfig
from odin_rm.rl.records import JudgedResponses, RewardRequest
from odin_rm.rl.shaping import ShapingSettings
from odin_rm.rl.trainer import prompt_positions
from odin_rm.rl.trl_reward import ShapedReward
from odin_rm.runs import callbacks
from odin_rm.workflows.rl import parts as rl_parts
from odin_rm.workflows.rl import trl as rl_trl
from odin_rm.workflows.rl.parts import load_parts
from odin_rm.workflows.rl.run import train_policy
from odin_rm.workflows.rl.trl import FOREIGN, build_trl_trainer, check_trl_config, micro_batch_size, trl_arguments
from tests.rl.conftest import MakeConfig, check_looks
from tests.workflows.policies import assert_equal_policies, send_signal_at

BOTH = pytest.mark.parametrize("algorithm", ["rloo", "grpo"])


class EndEarly:
    """Pays for few tokens (and letters), has a length head for the log, and remembers what it was asked."""

    name, reward_mean, reward_std = "end early", 1.0, 2.0

    def __init__(self, per_letter: float = 0.0) -> None:
        self.per_letter = per_letter
        self.requests: list[RewardRequest] = []

    def judge(self, request: RewardRequest) -> JudgedResponses:
        self.requests.append(request)
        letters = np.array([len(text) for text in request.responses])
        quality = -np.asarray(request.response_tokens, dtype=float) + self.per_letter * letters
        log_metrics = {"letters": float(letters.mean())}
        return JudgedResponses(quality, length_for_log=100.0 * np.ones(len(quality)), log_metrics=log_metrics)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> EndEarly:
    found = EndEarly(0.1)
    monkeypatch.setattr(rl_parts, "load_reward_source", lambda *args, **kwargs: found)
    return found


@pytest.fixture
def make(make_config: MakeConfig, source: EndEarly) -> MakeConfig:
    return lambda name="run", **changes: make_config(name, **({"algorithm": "rloo", "standardise": "none"} | changes))


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


# ---- runs ------------------------------------------------------------------------------------------------------------


@BOTH
def test_a_run_writes_what_the_contract_names(
    make: MakeConfig, algorithm: str, source: EndEarly, capfd: pytest.CaptureFixture[str]
) -> None:
    source.per_letter = 0.0
    run = train_policy(make(algorithm=algorithm, watch_steps=2, watch_size=4))
    assert capfd.readouterr().err == ""
    files = {
        ".odin-rm.json",
        "policy",
        "metrics.jsonl",
        "samples.jsonl",
        "watch.jsonl",
        "config.yaml",
        "data_report.json",
        "environment.json",
        "checkpoints",
    }
    assert {path.name for path in run.iterdir()} == files
    steps = [row for row in metrics(run) if "loss" in row]
    names = {"samples_seen", "mean_response_tokens", "mean_quality_reward", "mean_length_reward", "kl_to_reference"}
    assert names | {"clip_fraction", "ended_share", "entropy", "sequence_reward", "learning_rate"} <= set(steps[0])
    assert [(row["step"], row["samples_seen"]) for row in steps] == [(1, 4), (2, 8), (3, 12), (4, 16)]
    assert steps[0]["kl_to_reference"] == pytest.approx(0.0, abs=1e-5)
    assert all(row["mean_quality_reward"] == pytest.approx(-row["mean_response_tokens"]) for row in steps)
    assert all(row["mean_length_reward"] == 100.0 for row in steps)
    trained_on = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in trained_on if row.get("source") == "training"} == {2, 4}
    check_looks(run)
    load_policy(run / "policy")
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert (saved["kl_estimator"], saved["kl_place"]) == rl_trl.KL[algorithm]
    RLConfig(**saved)


@BOTH
def test_the_policy_learns_what_is_paid_for(make: MakeConfig, algorithm: str) -> None:
    run = train_policy(make(algorithm=algorithm, max_steps=25, minibatch_size=32, learning_rate=1e-2, kl_coef=0.0))
    shares = [row["ended_share"] for row in metrics(run) if "ended_share" in row]
    assert np.mean(shares[-3:]) > np.mean(shares[:3]) + 0.3


def test_sources_get_the_prompts_of_the_file_and_their_columns(
    make: MakeConfig, source: EndEarly, bench: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"what is {word}?", "answer": word} for word in ("water", "paper", "a fence")]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_policy(make(prompts=str(tmp_path / "asked.jsonl"), max_steps=3))
    asked = [(p, a) for r in source.requests for p, a in zip(r.prompts, r.columns["answer"], strict=True)]
    assert {(f"what is {answer}?", answer) for _, answer in asked} == set(asked)
    assert len(set(asked)) == 3
    assert [request.step for request in source.requests] == [0, 1, 2]
    assert all(len(set(request.prompts)) == 1 for request in source.requests)  # four responses to one prompt


@BOTH
@pytest.mark.parametrize("n", [4, 8])
def test_going_on_ends_in_the_same_policy(
    make: MakeConfig, algorithm: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"algorithm": algorithm, "max_steps": 8, "experience_size": n, "watch_steps": 4}
    whole = train_policy(make("whole", **settings))
    with monkeypatch.context() as patch:
        send_signal_at(patch, 3)
        with pytest.raises(RunInterrupted, match="SIGTERM after step 4") as caught:
            train_policy(make("cut", **settings))
    assert caught.value.exit_code == 130
    cut = train_policy(make("cut", **settings, resume_from_checkpoint="true"))
    assert_equal_policies(whole, cut)
    assert [row["step"] for row in metrics(cut) if "loss" in row] == list(range(1, 9))
    with pytest.raises(CheckpointError, match="temperature"):
        train_policy(make("cut", **settings, resume_from_checkpoint="true", temperature=0.5))


# What TRL is given, by value: test_the_settings_that_trl_is_given. Here, that its trainers come by it.
@pytest.mark.parametrize(
    "changes",
    [{"kl_coef": 0.5}, {"missing_end_penalty": 2.0}, {"experience_size": 8, "clip_epsilon": 1e-4}],
    ids=str,
)
def test_a_run_comes_by_its_settings(make: MakeConfig, changes: dict[str, Any]) -> None:
    plain = {"experience_size": 8} if len(changes) > 1 else {}
    runs = [train_policy(make(name, **settings)) for name, settings in (("plain", plain), ("changed", changes))]
    with pytest.raises(AssertionError):
        assert_equal_policies(*runs)


@BOTH
def test_micro_batches_change_rounding_only(make: MakeConfig, algorithm: str) -> None:
    runs = [train_policy(make(str(tokens), algorithm=algorithm, microbatch_tokens=tokens)) for tokens in (1, 10_000)]
    one, other = (dict(load_policy(run / "policy")[0].named_parameters()) for run in runs)
    moved = dict(load_policy(make().model)[0].named_parameters())
    assert max(float((one[n] - moved[n]).detach().abs().max()) for n in one) > 1e-3
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=1e-3)


def test_a_lora_policy(make: MakeConfig) -> None:
    pytest.importorskip("peft", reason="LoRA needs peft")
    run = train_policy(make(lora_r=2, max_steps=2))
    assert sorted(p.name for p in (run / "policy").glob("*adapter*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not (run / "policy" / "ref").exists()


# ---- failures --------------------------------------------------------------------------------------------------------


def without_times(run: Path) -> list[dict[str, Any]]:
    """Logged steps without what depends on the clock."""
    return [
        {n: v for n, v in row.items() if "seconds" not in n and "time" not in n}
        for row in metrics(run)
        if "loss" in row
    ]


@BOTH
def test_a_source_that_fails_leaves_a_checkpoint_to_go_on_from(
    make: MakeConfig, source: EndEarly, algorithm: str
) -> None:
    settings: dict[str, Any] = {"algorithm": algorithm, "logging_steps": 3}
    whole, judge = train_policy(make("whole", **settings)), EndEarly.judge

    def dying(request: RewardRequest) -> JudgedResponses:
        if request.step == 2:
            raise RewardSourceError("does not answer", where="end early", fix="Start it again.")
        return judge(source, request)

    source.judge = dying  # type: ignore[method-assign]
    with pytest.raises(RewardSourceError, match=r"Start it again\. The state after step 2 is saved in"):
        train_policy(make(**settings))
    source.judge = lambda request: judge(source, request)  # type: ignore[method-assign]
    run = train_policy(make(**settings, resume_from_checkpoint="true"))
    assert_equal_policies(whole, run)
    assert [row["step"] for row in without_times(run)] == [3]
    assert without_times(run) == without_times(whole)


def test_a_row_that_cannot_be_written_is_no_row_lost(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_policy(make("whole", save_steps=1))

    def full(path: Path, row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise MachineError("No space left on device", where=str(path))
        append_jsonl(path, row)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "append_jsonl", full)
        with pytest.raises(MachineError):
            train_policy(make(save_steps=1))
    folder = Path(str(make().output_dir)) / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    run = train_policy(make(save_steps=1, resume_from_checkpoint="auto"))
    assert_equal_policies(whole, run)
    assert without_times(run) == without_times(whole)


def test_bad_rewards_end_the_run_or_are_left_out(make: MakeConfig, source: EndEarly) -> None:
    def some_bad(request: RewardRequest) -> JudgedResponses:
        quality = -np.asarray(request.response_tokens, dtype=float)
        quality[::2] = np.nan
        return JudgedResponses(quality)

    source.judge = some_bad  # type: ignore[method-assign]
    with pytest.raises(NumericalError, match="2 of 4 rewards are not finite"):
        train_policy(make())
    run = train_policy(make("skip", on_bad_reward="skip"))
    assert [row["bad_rewards"] for row in metrics(run) if "loss" in row] == [2.0] * 4


# ---- settings --------------------------------------------------------------------------------------------------------

OTHER: dict[str, Any] = {
    "critic_init": "reward",
    "rollout_engine": "vllm",
    "vllm_server": "http://x",
    "top_p": 0.9,
    "gamma": 0.9,
    "gae_lambda": 0.5,
    "whiten_advantages": False,
    "offload_reference": True,
}


@BOTH
@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_what_trl_does_not_have_is_refused(make: MakeConfig, algorithm: str, name: str) -> None:
    changes = {name: OTHER.get(name, 7)}
    if name == "vllm_server":
        changes["rollout_engine"] = "vllm"
    with pytest.raises(ConfigError, match="has no effect with --algorithm"):
        train_policy(make(algorithm=algorithm, **changes))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"kl_estimator": "k3"}, "--kl_estimator: is always k1"),
        ({"algorithm": "grpo", "kl_estimator": "k2"}, "--kl_estimator: is always k3"),
        ({"kl_place": "loss", "kl_estimator": "k2"}, "is always"),
        ({"watch_action": "rollback"}, "--watch_action"),
        ({"num_generations": 3}, "--num_generations: must divide"),
    ],
)
def test_what_trl_decides_cannot_be_set(make: MakeConfig, tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train_policy(make(**changes))
    assert not (tmp_path / "run").exists()


@BOTH
def test_the_settings_that_trl_is_given(make: MakeConfig, algorithm: str) -> None:
    given: dict[str, Any] = {"kl_coef": 0.5, "clip_epsilon": 0.3, "max_new_tokens": 7, "sample_steps": 3}
    same = {"max_steps": 5, "learning_rate": 1e-2, "weight_decay": 0.5, "adam_beta1": 0.5, "adam_beta2": 0.7}
    same |= {"adam_epsilon": 1e-4, "max_grad_norm": 0.01, "warmup_steps": 3, "temperature": 0.7, "num_generations": 2}
    same |= {"seed": 5, "logging_steps": 2, "save_steps": 4, "save_total_limit": 6}
    config = make(algorithm=algorithm, lr_scheduler_type="linear", **given, **same)
    check_trl_config(config)
    args = trl_arguments(config, "x")
    assert {name: getattr(args, name) for name in same} == same
    assert (args.beta, args.epsilon, args.max_completion_length, args.lr_scheduler_type) == (0.5, 0.3, 7, "linear")
    assert args.shuffle_dataset is False
    for changes, schedule in (({}, "constant"), ({"warmup_steps": 2}, "constant_with_warmup")):
        assert trl_arguments(make(algorithm=algorithm, **changes), "x").lr_scheduler_type == schedule


@BOTH
def test_the_rewards_and_the_order_that_trl_is_given(make: MakeConfig, algorithm: str) -> None:
    shaping: dict[str, Any] = {"length_penalty": 0.5, "missing_end_penalty": 2.0, "group_length_rescaling": 0.25}
    shaping |= {"overlong_penalty": 0.75, "overlong_buffer": 3}
    config = make(algorithm=algorithm, standardise="model", reward_clip=3.5, on_bad_reward="skip", seed=5, **shaping)
    check_trl_config(config)
    parts = load_parts(config, torch.device("cpu"))
    trainer, function = build_trl_trainer(config, trl_arguments(config, "x"), parts, Path("x"))
    assert function.shaping == ShapingSettings(mean=1.0, std=2.0, clip=3.5, overlong_length=8, **shaping)
    assert function.skip_bad_rewards
    order = prompt_positions(len(parts.prompt_ids), 5, 0, 4)
    assert [int(row["prompt"]) for row in trainer.train_dataset] == order
    assert order != prompt_positions(len(parts.prompt_ids), 0, 0, 4)


def test_the_sizes_that_trl_is_given(make: MakeConfig) -> None:
    config = make(minibatch_size=8, experience_size=16, microbatch_tokens=60, max_steps=5)
    check_trl_config(config)
    args = trl_arguments(config, "x")
    parts = load_parts(config, torch.device("cpu"))
    longest = max(map(len, parts.prompt_ids)) + 8
    assert 60 // 4 < longest <= 60 // 2
    trainer, _ = build_trl_trainer(config, args, parts, Path("x"))
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 4)
    assert (args.generation_batch_size, args.steps_per_generation) == (16, 8)
    assert len(trainer.train_dataset) == 3 * 4  # collections x prompts of each
    ids, _, _ = trainer._tokenize_prompts(["3", "0"])
    assert ids == [parts.prompt_ids[3], parts.prompt_ids[0]]


def test_micro_batch_size() -> None:
    assert micro_batch_size(12, 10, 65) == 6
    assert micro_batch_size(12, 10, 55) == 4
    assert micro_batch_size(7, 10, 69) == 1
    assert micro_batch_size(7, 10, 5) == 1


def test_the_reference_is_the_one_of_the_run(make: MakeConfig) -> None:
    """An adapter's folder names its base model, which is not what the run starts from."""
    config = make()
    check_trl_config(config)
    parts = load_parts(config, torch.device("cpu"))
    assert parts.reference is not None
    with torch.no_grad():
        for parameter in parts.reference.parameters():
            parameter.add_(1.0)
    trainer, _ = build_trl_trainer(config, trl_arguments(config, "x"), parts, Path("x"))
    ours, theirs = parts.reference.state_dict(), trainer.ref_model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---- the reward function ---------------------------------------------------------------------------------------------


def test_shaping_by_hand() -> None:
    source = EndEarly()
    shaping = ShapingSettings(mean=-3.0, std=0.5, clip=3.0, length_penalty=0.25, missing_end_penalty=10.0)
    function = ShapedReward(source, PromptSet(["p", "q"], {"c": [5, 6]}, "x"), shaping, end_token_ids=[2])
    logged: dict[str, float] = {}
    given: dict[str, Any] = {"trainer_state": SimpleNamespace(global_step=4), "log_metric": logged.__setitem__}
    found = function(
        prompts=["1", "0"], completions=["a b", "c d e"], completion_ids=[[7, 7, 2], [7, 7, 7]], log_extra=None, **given
    )
    # (-2 + 3) / 0.5 = 2, unclipped, minus 2 * 0.25; (-3 + 3) / 0.5 = 0, minus 3 * 0.25 and 10 for the missing end
    assert found == [1.5, -10.75]
    (request,) = source.requests
    assert (request.prompts, request.columns, request.step) == (["q", "p"], {"c": [6, 5]}, 4)
    assert request.response_tokens.tolist() == [2, 3]
    assert logged["mean_quality_reward"] == -2.5
    assert request.ended.tolist() == [True, False]
    assert (logged["ended_share"], logged["cut_responses"]) == (0.5, 1.0)
    assert logged["standardised_reward"] == 1.0
    assert logged["mean_length_reward"] == 100.0
    assert logged["source_letters"] == 4.0


def test_responses_to_one_prompt_are_a_group_for_the_rescaling_by_hand() -> None:
    source = EndEarly()
    shaping = ShapingSettings(mean=-10.0, group_length_rescaling=1.0)
    function = ShapedReward(source, PromptSet(["p", "q"], {}, "x"), shaping, end_token_ids=[2])
    given: dict[str, Any] = {"trainer_state": SimpleNamespace(global_step=0), "log_metric": lambda *_: None}
    ids = [[7, 2], [7, 2], [7, 7, 7, 2], [7, 7, 2]]
    found = function(prompts=["1", "0", "1", "0"], completions=["a"] * 4, completion_ids=ids, log_extra=None, **given)
    # Lengths 1 and 3 (mean 2) of prompt 1, 1 and 2 (mean 1.5) of prompt 0; 10 - L(y), times 2 / (1 + L / mean).
    assert found == pytest.approx([9 * 4 / 3, 9 * 2 / (1 + 1 / 1.5), 7 * 4 / 5, 8 * 2 / (1 + 2 / 1.5)])


def test_the_length_head_is_for_the_log_only() -> None:
    class Louder(EndEarly):
        def judge(self, request: RewardRequest) -> JudgedResponses:
            return JudgedResponses(super().judge(request).quality, length_for_log=np.full(len(request.prompts), 1e9))

    given: dict[str, Any] = {"trainer_state": SimpleNamespace(global_step=0), "log_metric": lambda *pair: None}
    given |= {"prompts": ["0"], "completions": ["a"], "completion_ids": [[5]]}
    prompts = PromptSet(["p"], {}, "x")
    quiet, loud = (
        ShapedReward(s, prompts, ShapingSettings(), end_token_ids=[2])(**given) for s in (EndEarly(), Louder())
    )
    assert quiet == loud == [-1.0]
