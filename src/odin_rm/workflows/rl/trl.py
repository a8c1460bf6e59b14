"""RLOO and GRPO by TRL's trainers, on our prompts, ids and rewards: ``odin-rm rl --algorithm rloo|grpo``.

What differs from PPO and ReMax, because TRL decides it:

1. RLOO takes the KL (k1) off the sequence reward; GRPO has it (k3) as a term of the loss.
2. RLOO clips the ratio of whole responses, GRPO that of tokens; advantages come from ``--num_generations`` responses to
   each prompt, so there is no critic, no discount and no whitening.
3. GRPO's loss is TRL's default, a mean over the tokens of the batch: long responses are not made cheap.
4. A run that is interrupted between two collections (``N > b``) collects anew when it goes on.

Fields of :class:`RLConfig` that these trainers do not have are refused.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from odin_rm.core.errors import CheckpointError, ConfigError, OdinError
from odin_rm.core.files import atomic_write_json, json_safe
from odin_rm.core.ranks import fail_on_all_ranks
from odin_rm.core.settings import non_default_fields
from odin_rm.model.backbone import quiet_loading
from odin_rm.model.policy import end_token_ids
from odin_rm.rl.checkpoint import random_states, set_random_states
from odin_rm.rl.config import RLConfig
from odin_rm.rl.records import SamplingSettings
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.rl.shaping import reference_statistics
from odin_rm.rl.trainer import prompt_positions
from odin_rm.rl.trl_reward import ShapedReward
from odin_rm.rl.watch import WatchLimits
from odin_rm.rl.watch_callback import WatchCallback
from odin_rm.runs.callbacks import FiniteLoss, MetricsFile, StopOnSignal
from odin_rm.runs.checkpoints import step_of
from odin_rm.runs.data_record import DATA_FILE
from odin_rm.runs.output_folder import OutputFolder
from odin_rm.runs.run_folder import (
    Start,
    as_config_errors,
    check_same_settings,
    check_state_files,
    drop_later_lines,
    interrupted,
    read_note,
    write_settings,
)
from odin_rm.runs.talk import talking
from odin_rm.workflows.policy.run import NOTE_FILE, QuietTrainer, finish_policy
from odin_rm.workflows.rl.parts import Parts, load_parts, shaping_settings

_NO_CRITIC = "there is no critic and no discount; advantages compare the responses to one prompt"
FOREIGN = {
    "critic_init": _NO_CRITIC,
    "critic_learning_rate": _NO_CRITIC,
    "critic_warmup_steps": _NO_CRITIC,
    "gae_lambda": _NO_CRITIC,
    "gamma": _NO_CRITIC,
    "kl_horizon": "the coefficient stays as it is",
    "kl_target": "the coefficient stays as it is; set --kl_coef",
    "offload_reference": "use --lora_r, under which the reference takes no memory",
    "ppo_epochs": "each response is learnt from once",
    "rollout_engine": "TRL writes with transformers",
    "rollout_tokens": "all responses of a collection are written at once; lower --experience_size",
    "top_k": "the log-probs would be of another distribution than the samples",
    "top_p": "the log-probs would be of another distribution than the samples",
    "value_clip": _NO_CRITIC,
    "value_coef": _NO_CRITIC,
    "vllm_server": "TRL writes with transformers",
    "whiten_advantages": _NO_CRITIC,
}
KL = {"rloo": ("k1", "reward"), "grpo": ("k3", "loss")}
"""Estimator and place of the KL, which TRL decides."""

NAMES = {
    "clip_ratio/region_mean": "clip_fraction",
    "reward_std": "sequence_reward_std",
    "frac_reward_zero_std": "equal_rewards_share",
    "step_time": "seconds_step",
}
"""TRL's figures under the names of ``odin-rm rl``; others of TRL's keep theirs."""
LEFT_OUT = ("reward", "rewards/sequence/mean", "rewards/sequence/std")
"""What our reward function logs as ``sequence_reward``."""


class OwnPrompts(QuietTrainer):
    """Goes before a TRL trainer among the bases: its prompts are positions in a list of ids."""

    prompt_ids: list[list[int]]

    def open_figures(self) -> Any:
        """What TRL averages in the next log."""
        figures: Any = self
        return {name: list(values) for name, values in figures._metrics["train"].items()}

    def take_up_figures(self, figures: Any) -> None:
        """Go on from :meth:`open_figures`."""
        trainer: Any = self
        for name, values in figures.items():  # JSON has no word for NaN
            trainer._metrics["train"][name] = [math.nan if value is None else value for value in values]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.prompt_ids[int(position)]) for position in prompts], None, {}


class RlooRun(OwnPrompts, RLOOTrainer):
    """TRL's RLOO on our prompts."""


class GrpoRun(OwnPrompts, GRPOTrainer):
    """TRL's GRPO on our prompts."""


def run_trl(config: RLConfig) -> Path:
    """Train a policy with RLOO or GRPO and write its run folder.

    Args:
        config: the settings; ``model``, ``reward``, ``prompts`` and ``output_dir`` are given.

    Returns:
        The run folder.

    Raises:
        OdinError: bad input, a field that these trainers do not have, a folder that holds another run, a foreign
            checkpoint, a reward source that fails.
        RunInterrupted: a signal came; a checkpoint is saved.
    """
    check_trl_config(config)
    with OutputFolder(str(config.output_dir), "rl", overwrite=config.overwrite_output_dir) as output:
        return _run(config, output)


def _run(config: RLConfig, output: OutputFolder) -> Path:
    run = output.path
    with fail_on_all_ranks():
        start = Start.find(output, config.resume_from_checkpoint)
        set_seed(config.seed)
        with tempfile.TemporaryDirectory() as scratch, _quiet_trl():
            with as_config_errors("rl"):
                args = trl_arguments(config, scratch)
            parts = load_parts(config, args.device)
            trainer, reward_function = build_trl_trainer(config, args, parts, run)
        trainer.args.output_dir = str(run / "checkpoints")
        start = start.verified(lambda checkpoint: _check_checkpoint(checkpoint, trainer.run_note))
        if start.nothing_left(config, ()):
            return run
        if config.standardise == "reference":
            _measure_reference(config, parts, reward_function)
    with fail_on_all_ranks():
        if trainer.is_world_process_zero():
            start.claim()
            write_settings(run, config, (), start.checkpoint)
            atomic_write_json(run / DATA_FILE, parts.data)
            if start.checkpoint is not None:
                drop_later_lines(run / "samples.jsonl", step_of(start.checkpoint))
    _train(trainer, run, start.checkpoint)
    early = trainer.state.global_step < config.max_steps
    finish_policy(trainer, run, trainer.model, parts.tokenizer, {"stopped_by": "watch"} if early else {})
    if trainer.is_world_process_zero():
        output.complete()
    return run


def check_trl_config(config: RLConfig) -> None:
    """Refuse what TRL's trainers do not have, and write into the config what they decide.

    Raises:
        ConfigError: with the flag and what to do instead.
    """
    own = set(non_default_fields(config, FOREIGN))
    if config.critic_learning_rate == config.learning_rate:
        own.discard("critic_learning_rate")  # filled in by the config's defaults
    for name in sorted(own):
        fix = FOREIGN[name]
        raise ConfigError(
            f"has no effect with --algorithm {config.algorithm}", where=f"--{name}", fix=f"{fix[0].upper()}{fix[1:]}."
        )
    fixed = dict(zip(("kl_estimator", "kl_place"), KL[config.algorithm], strict=True))
    for name, value in fixed.items():
        if name in non_default_fields(config, [name]) and getattr(config, name) != value:
            what = f"is always {value} with --algorithm {config.algorithm}"
            raise ConfigError(what, where=f"--{name}", fix="Leave it out.")
    if config.watch_action == "rollback":
        what = f"rollback is not there with --algorithm {config.algorithm}"
        raise ConfigError(what, where="--watch_action", fix="Use warn or stop.")
    config.kl_estimator, config.kl_place = KL[config.algorithm]


def trl_arguments(config: RLConfig, folder: str) -> Any:
    """Our settings as TRL's; micro-batches are set by :func:`build_trl_trainer`, which knows the prompts' lengths.

    Raises:
        ValueError: what TRL or transformers refuse.
    """
    kind = RLOOConfig if config.algorithm == "rloo" else GRPOConfig
    warming, constant = config.warmup_steps > 0, config.lr_scheduler_type == "constant"
    trackers = [name.strip() for name in config.report_to.split(",") if name.strip() not in ("", "none")]
    return kind(
        output_dir=folder,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.responses_per_prompt,
        generation_batch_size=None,
        num_generations=config.responses_per_prompt,
        beta=config.kl_coef,
        epsilon=config.clip_epsilon,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if warming and constant else config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        shuffle_dataset=False,  # the data set is the order
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing or None,
        trust_remote_code=config.trust_remote_code,
        use_cpu=config.use_cpu,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps or config.max_steps,
        save_total_limit=config.save_total_limit,
        report_to=trackers or "none",
        ddp_find_unused_parameters=False,
        disable_tqdm=not sys.stderr.isatty(),
    )


def build_trl_trainer(config: RLConfig, args: Any, parts: Parts, run: Path) -> tuple[Any, ShapedReward]:
    """The trainer of a config, and its reward.

    Raises:
        ConfigError: what TRL refuses, or processes that cannot share a minibatch evenly.
    """
    n, b, size = config.responses_per_collection, config.minibatch_size, args.world_size
    if b % size:
        what = f"is {b}, which {size} processes cannot share evenly"
        raise ConfigError(what, where="--minibatch_size", fix=f"Use a multiple of {size}.")
    longest = max(map(len, parts.prompt_ids)) + config.max_new_tokens
    args.per_device_train_batch_size = micro_batch_size(b // size, longest, config.microbatch_tokens)
    args.gradient_accumulation_steps = b // (size * args.per_device_train_batch_size)
    args.generation_batch_size = n
    args.steps_per_generation = n // (size * args.per_device_train_batch_size)
    collections = math.ceil(config.max_steps / (n // b))
    order = prompt_positions(len(parts.prompt_ids), config.seed, 0, collections * n // config.responses_per_prompt)
    ends = end_token_ids(parts.policy, parts.tokenizer)
    reward_function = ShapedReward(
        parts.source,
        parts.prompts,
        shaping_settings(config, parts.source),
        end_token_ids=ends,
        skip_bad_rewards=config.on_bad_reward == "skip",
        samples=run / "samples.jsonl",
        sample_steps=config.sample_steps,
        collection_steps=n // b,
    )
    trainer_class = RlooRun if config.algorithm == "rloo" else GrpoRun
    callbacks: list[TrainerCallback] = [RLMetrics(run / "metrics.jsonl", b), FiniteLoss()]
    if config.watch_steps:
        callbacks.append(_watch(config, parts, run))
    with as_config_errors("rl"):
        trainer = trainer_class(
            model=parts.policy,
            reward_funcs=reward_function,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [str(position) for position in order]}),
            processing_class=parts.tokenizer,
            callbacks=callbacks,
        )
    trainer.prompt_ids = parts.prompt_ids
    trainer.run_note = {"settings": json_safe(config.trajectory()), "data": len(parts.prompt_ids)}
    _set_reference(trainer, parts)
    return trainer, reward_function


def micro_batch_size(rows: int, longest: int, budget: int) -> int:
    """Sequences per forward pass: the largest divisor of ``rows`` whose padded tokens fit, at least one."""
    return max(d for d in range(1, rows + 1) if rows % d == 0 and (d == 1 or d * longest <= budget))


class BetweenSteps(TrainerCallback):
    """Knows whether all that is due after a step is done, and what the random states and open figures were then.

    Only then may a run that fails save its state. A step whose row could not be written, or whose look failed, is taken
    again from the checkpoint before it.

    Attributes:
        done: false within an update and until its log, its look and its checkpoint are written.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.done = trainer, False
        self._states: dict[str, Any] = {}
        self._figures: dict[str, list[Any]] = {}
        self._tokens = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All is done."""
        self._states, self._figures = random_states(self.trainer.accelerator.device), self.trainer.open_figures()
        self._tokens, self.done = state.num_input_tokens_seen, True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An update begins."""
        self.done = False

    def put_back(self) -> None:
        """Undo what a collection that failed has drawn and counted."""
        set_random_states(self._states, self.trainer.accelerator.device)
        self.trainer.state.num_input_tokens_seen = self._tokens
        self.trainer._metrics["train"].clear()
        self.trainer.take_up_figures(self._figures)


class RLMetrics(MetricsFile):
    """TRL's figures under the names that ``odin-rm rl`` gives them, as far as TRL has them.

    Args:
        path: ``metrics.jsonl``.
        minibatch_size: responses of an optimiser step, over all ranks.
    """

    def __init__(self, path: Path, minibatch_size: int) -> None:
        super().__init__(path)
        self.minibatch_size, self._mean_length = minibatch_size, 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write the log, the main process only."""
        if logs and "loss" in logs:
            row: dict[str, Any] = {"samples_seen": state.global_step * self.minibatch_size}
            row |= {NAMES.get(name, name): value for name, value in logs.items() if name not in LEFT_OUT}
            self._mean_length = row.get("completions/mean_length", self._mean_length)
            if "kl" in row:  # TRL's is a mean over tokens, ours a sum over each response
                row["kl_to_reference"] = row.pop("kl") * self._mean_length
            logs = row
        super().on_log(args, state, control, logs=logs, **kwargs)


# ---- internals -------------------------------------------------------------------------------------------------------


def _watch(config: RLConfig, parts: Parts, run: Path) -> WatchCallback:
    return WatchCallback(
        parts.watch_prompts,
        parts.source,
        held_out=parts.held_out,
        steps=config.watch_steps,
        limits=WatchLimits(config.watch_length_ratio, config.watch_kl, config.watch_entropy),
        action="stop" if config.watch_action == "stop" else "warn",
        output_dir=run,
        sampling=SamplingSettings(config.max_new_tokens, config.temperature),
        prompt_ids=parts.watch_ids,
        reference=parts.reference,
        microbatch_tokens=config.microbatch_tokens,
        seed=config.seed,
        metrics=run / "metrics.jsonl",
    )


def _set_reference(trainer: Any, parts: Parts) -> None:
    """The reference is the policy that the run starts from, whatever file TRL has taken its own from."""
    if parts.reference is None:
        trainer.model.delete_adapter("ref")  # TRL's copy of the new adapter, which changes nothing yet
    elif trainer.ref_model is not None and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        trainer.accelerator.unwrap_model(trainer.ref_model).load_state_dict(parts.reference.state_dict())


def _measure_reference(config: RLConfig, parts: Parts, reward_function: ShapedReward) -> None:
    """Mean and deviation of the quality reward of the starting policy's responses; the same on each rank."""
    positions = prompt_positions(len(parts.prompt_ids), config.seed, 0, config.standardise_responses)
    engine = TransformersEngine(
        parts.policy,
        parts.tokenizer,
        rollout_tokens=config.rollout_tokens,
        end_token_ids=end_token_ids(parts.policy, parts.tokenizer),
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        rollouts = engine.generate(
            [parts.prompt_ids[p] for p in positions], SamplingSettings(config.max_new_tokens, config.temperature)
        )
    mean, std = reference_statistics(reward_function.judge(positions, rollouts, 0).quality)
    reward_function.shaping = replace(reward_function.shaping, mean=mean, std=std)


def _check_checkpoint(checkpoint: Path, note: dict[str, Any]) -> None:
    their_settings, their_data = read_note(checkpoint, NOTE_FILE, f"rl --algorithm {note['settings']['algorithm']}")
    check_same_settings(checkpoint, note["settings"], their_settings)
    if their_data != note["data"]:
        fix = "Give the same --prompts, or start anew."
        raise CheckpointError("the checkpoint comes from other prompts", where=str(checkpoint), fix=fix)
    check_state_files(checkpoint)


def _train(trainer: Any, run: Path, checkpoint: Path | None) -> None:
    stop, between = StopOnSignal(), BetweenSteps(trainer)
    trainer.add_callback(stop)
    trainer.add_callback(between)
    if checkpoint is not None:
        # TRL counts micro-batches from 0 again, and would collect at other steps than before.
        trainer._step = int(checkpoint.name.split("-")[1]) * trainer.args.gradient_accumulation_steps
    try:
        with stop, _quiet_trl(), talking(trainer):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except OdinError as error:
        step = trainer.state.global_step
        if step and between.done:
            between.put_back()
            trainer._save_checkpoint(trainer.model, trial=None)
            error.fix = f"{error.fix} The state after step {step} is saved in {run / 'checkpoints'}.".strip()
        raise
    if stop.name:
        raise interrupted(stop.name, trainer.state.global_step, run)


@contextmanager
def _quiet_trl() -> Iterator[None]:
    """Leave TRL's warnings and small bars out; what is amiss with a reward is said by our own errors."""
    logger = logging.getLogger("trl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_loading():
            yield
    finally:
        logger.setLevel(level)
