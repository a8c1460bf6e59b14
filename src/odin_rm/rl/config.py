"""Settings of a reinforcement-learning run; fields that ``TrainingArguments`` also has keep their names."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import DTYPES, ON_BAD_ROW, SEEDS, check_options, option, options_of
from odin_rm.core.shared_options import CALIBRATION_HELP, RESUME_HELP, LoraOptions, RowOptions
from odin_rm.core.trackers import BY_ACCELERATE, BY_TRANSFORMERS, check_trackers

ALGORITHMS = ("ppo", "remax", "rloo", "grpo")
OWN_ALGORITHMS = ("ppo", "remax")
KL_ESTIMATORS = ("k1", "k2", "k3")
KL_PLACES = ("reward", "loss")
STANDARDISE = ("none", "model", "reference")
WATCH_ACTIONS = ("warn", "stop", "rollback")
CRITIC_INITS = ("policy", "reward")
SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt",
)  # fmt: skip
"""Those of transformers that need no settings of their own."""


_of_size = options_of("length of the run and batches")
_of_optimiser = options_of("optimiser")
_of_reward = options_of("sequence reward, in the order of its steps")
_of_kl = options_of("KL to the reference policy")
_of_ppo = options_of("PPO")
_of_groups = options_of("responses to one prompt")
_of_text = options_of("text and sampling")
_of_model = options_of("policy, device and precision")
_of_watch = options_of("hacking watch")
_of_logs = options_of("logs and checkpoints")


@dataclass
class RLConfig(RowOptions, LoraOptions):
    """Everything that ``odin-rm rl`` takes."""

    algorithm: str = option("ppo", "ppo and remax are ours; rloo and grpo run TRL's trainers.", choices=ALGORITHMS)
    model: str | None = option(None, "The policy to start from, also the reference: hub id or local causal model.")
    reward: str | None = option(
        None,
        "A reward model (ours or any one-label classifier), an http(s) address, module:function or file.py:function "
        "in TRL's reward_funcs signature, length_only, or gold (the testbed's truth).",
    )
    prompts: str | None = option(None, "Rows with a prompt: file, dataset folder or hub id; preference data serve too.")
    output_dir: str | None = option(None, "The run folder.", flag="output", stock=True)
    overwrite_output_dir: bool = option(False, "Replace another run in --output instead of refusing.", flag="overwrite")
    resume_from_checkpoint: str | None = option(None, RESUME_HELP)

    max_steps: int = _of_size(200, "Optimiser steps (minibatches) of the policy.", at_least=1)
    experience_size: int | None = _of_size(
        None,
        "N: responses collected with one policy, over all ranks; N > b is stale. Default: 2 b for ppo, else b.",
        at_least=1,
    )
    minibatch_size: int = _of_size(32, "b: responses per optimiser step, over all ranks; must divide N.", at_least=1)
    microbatch_tokens: int = _of_size(
        16384, "Padded tokens per forward pass and rank; changes no gradient.", at_least=1
    )
    rollout_tokens: int = _of_size(
        65536, "Padded tokens (prompt and response) per generation batch and rank.", at_least=1
    )

    learning_rate: float = _of_optimiser(1e-6, "Peak learning rate of the policy.", at_least=0)
    critic_learning_rate: float | None = _of_optimiser(
        None, "Learning rate of the critic. Default: --learning_rate. (ppo)", at_least=0
    )
    lr_scheduler_type: str = _of_optimiser("constant", "Schedule of the learning rate.", choices=SCHEDULES)
    warmup_steps: int = _of_optimiser(0, "Steps over which the learning rate rises from 0.", at_least=0)
    weight_decay: float = _of_optimiser(0.0, "AdamW weight decay.", at_least=0)
    adam_beta1: float = _of_optimiser(0.9, "AdamW beta 1.", at_least=0)
    adam_beta2: float = _of_optimiser(0.95, "AdamW beta 2.", at_least=0)
    adam_epsilon: float = _of_optimiser(1e-8, "AdamW epsilon.", at_least=0)
    max_grad_norm: float = _of_optimiser(1.0, "Clip the gradient's norm; 0 turns it off.", at_least=0, infinite=True)
    seed: int = _of_optimiser(0, "Decides order of prompts, sampling and new weights.", at_least=0, below=SEEDS)

    calibration: str | None = _of_reward(None, CALIBRATION_HELP)
    standardise: str | None = _of_reward(
        None,
        "Mean and deviation that the quality reward is standardised with: those stored with the reward model (the "
        "default where there are some), those of the reference policy's responses (else), or none.",
        choices=STANDARDISE,
    )
    standardise_responses: int = _of_reward(
        256, "Responses of the reference policy for --standardise reference.", at_least=2
    )
    reward_clip: float = _of_reward(
        math.inf, "c: the standardised reward is clipped to [-c, c].", above=0, infinite=True
    )
    preference_reference: str | None = _of_reward(
        None,
        "Column of the prompts that holds an answer, or several, to be better than: the quality reward becomes "
        "sigmoid(quality - the answer's quality), the mean over several.",
    )
    group_length_rescaling: float = _of_reward(
        0.0,
        "gamma: a reward is scaled by (1 + gamma) / (1 + gamma L / mean L of the responses to the same prompt). "
        "Needs --num_generations 2 or more.",
        at_least=0,
    )
    length_penalty: float = _of_reward(
        0.0, "alpha: taken off per response token, in standardised reward units.", at_least=0
    )
    overlong_penalty: float = _of_reward(
        0.0,
        "Taken off a response of --max_new_tokens, in standardised reward units, and a part of it over the last "
        "--overlong_buffer tokens (DAPO's soft overlong punishment).",
        at_least=0,
    )
    overlong_buffer: int | None = _of_reward(
        None, "Tokens over which --overlong_penalty rises. Default: a fifth of --max_new_tokens.", at_least=1
    )
    missing_end_penalty: float = _of_reward(
        0.0, "Taken off a response that did not end, in standardised reward units.", at_least=0
    )
    on_bad_reward: str = _of_reward(
        "error",
        "A reward that is not finite ends the run (error) or its response is left out (skip).",
        choices=("error", "skip"),
    )

    kl_coef: float = _of_kl(0.05, "beta: weight of the KL to the reference policy.", at_least=0)
    kl_estimator: str = _of_kl("k1", "k1, k2 or k3 (Schulman's names).", choices=KL_ESTIMATORS)
    kl_place: str = _of_kl(
        "reward", "KL as a cost per token in the reward, or as a term of the loss.", choices=KL_PLACES
    )
    kl_target: float | None = _of_kl(None, "Adapt beta towards this KL per response, in nats.", above=0)
    kl_horizon: int = _of_kl(10000, "Responses over which an adaptive beta moves.", at_least=1)

    clip_epsilon: float = _of_ppo(0.2, "epsilon of the ratio clipping. (ppo)", above=0, infinite=True)
    value_clip: float = _of_ppo(0.2, "Clip of the value's move; 0 turns it off. (ppo)", at_least=0, infinite=True)
    value_coef: float = _of_ppo(1.0, "Weight of the critic's loss. (ppo)", at_least=0)
    gamma: float = _of_ppo(1.0, "Discount per token.", at_least=0, at_most=1)
    gae_lambda: float = _of_ppo(0.95, "lambda of GAE. (ppo)", at_least=0, at_most=1)
    ppo_epochs: int = _of_ppo(1, "Passes over the N responses before new ones are collected. (ppo)", at_least=1)
    whiten_advantages: bool = _of_ppo(True, "Advantages with mean 0 and deviation 1 over the N responses. (ppo)")
    critic_init: str = _of_ppo(
        "policy", "Backbone of the critic: the policy's or the reward model's.", choices=CRITIC_INITS
    )
    critic_warmup_steps: int = _of_ppo(0, "First steps in which only the critic learns. (ppo)", at_least=0)

    num_generations: int | None = _of_groups(
        None,
        "Responses per prompt; must divide N. Default: 4 for rloo and grpo, which compare them, 1 for ppo and remax.",
        at_least=1,
    )

    max_prompt_tokens: int | None = _of_text(
        None, "Longest prompt. Default: 512, or what the policy's window leaves beside --max_new_tokens.", at_least=1
    )
    on_bad_row: str = _of_text(
        "error", "An unusable prompt ends the run (error) or is left out and counted (skip).", choices=ON_BAD_ROW
    )
    overlong_prompt: str = _of_text(
        "error", "A longer prompt: error, drop, or truncate_left.", choices=("error", "drop", "truncate_left")
    )
    max_new_tokens: int = _of_text(256, "Longest response, end token included.", at_least=1)
    temperature: float = _of_text(1.0, "Sampling temperature; the log-probs are of the same distribution.", above=0)
    top_p: float = _of_text(
        1.0, "Refused below 1: log-probs would be of another distribution than the samples.", above=0, at_most=1
    )
    top_k: int = _of_text(0, "Refused above 0, for the same reason.", at_least=0)
    chat_template: str | None = _of_text(None, "Jinja template, or 'plain'; default the policy tokenizer's own.")
    rollout_engine: str = _of_text(
        "transformers", "transformers, or vllm (an extra).", choices=("transformers", "vllm")
    )
    vllm_server: str | None = _of_text(None, "Address of a vLLM server; without it vLLM runs in this process.")

    model_dtype: str = _of_model("float32", "Dtype of the trained weights.", choices=DTYPES, flag="dtype")
    bf16: bool = _of_model(False, "Mixed precision.")
    attn_implementation: str | None = _of_model(None, "Attention of transformers: sdpa, eager, flash_attention_2, ...")
    gradient_checkpointing: bool = _of_model(
        False, "Recompute activations to save memory.", flag="activation_checkpointing"
    )
    trust_remote_code: bool = _of_model(False, "Run code that comes with the model.")
    offload_reference: bool = _of_model(False, "Keep the frozen reference policy in main memory between its passes.")
    use_cpu: bool = _of_model(False, "Stay on the CPU where there is an accelerator.")

    watch_steps: int = _of_watch(20, "Look at fixed prompts every so many steps; 0 turns the watch off.", at_least=0)
    watch_prompts: str | None = _of_watch(None, "Prompts of the watch. Default: the first of --prompts.")
    watch_size: int = _of_watch(64, "How many prompts the watch uses.", at_least=1)
    watch_reward: str | None = _of_watch(None, "A second reward source that training never sees, as --reward.")
    watch_action: str = _of_watch(
        "warn", "What an alarm does: warn, stop, or rollback to the best checkpoint.", choices=WATCH_ACTIONS
    )
    watch_length_ratio: float = _of_watch(
        1.5, "Alarm: mean length beyond this times the reference's while reward falls.", at_least=0, infinite=True
    )
    watch_kl: float = _of_watch(50.0, "Alarm: KL per response beyond this many nats.", at_least=0, infinite=True)
    watch_entropy: float = _of_watch(
        0.1, "Alarm: entropy per token below this share of the reference's.", at_least=0, infinite=True
    )

    logging_steps: int = _of_logs(1, "Write metrics every so many steps.", at_least=1)
    sample_steps: int = _of_logs(20, "Write sample responses every so many steps; 0 turns it off.", at_least=0)
    save_steps: int = _of_logs(
        50, "Checkpoint every so many steps; 0 saves at the end and on interruption only.", at_least=0
    )
    save_total_limit: int = _of_logs(2, "Checkpoints to keep; the watch's best one is kept besides.", at_least=1)
    report_to: str = _of_logs("none", "Trackers: none, tensorboard, wandb, trackio (comma-separated).")

    def __post_init__(self) -> None:
        check_rl_config(self)

    @property
    def responses_per_collection(self) -> int:
        """``N`` with its default filled in."""
        assert self.experience_size is not None
        return self.experience_size

    @property
    def responses_per_prompt(self) -> int:
        """``--num_generations`` with its default filled in."""
        assert self.num_generations is not None
        return self.num_generations

    @property
    def overlong_tokens(self) -> int:
        """Tokens over which the overlong penalty rises, with its default filled in."""
        return self.overlong_buffer or max(1, self.max_new_tokens // 5)

    @property
    def optimiser_steps_per_collection(self) -> int:
        """Minibatches before new responses are collected."""
        epochs = self.ppo_epochs if self.algorithm == "ppo" else 1
        return epochs * self.responses_per_collection // self.minibatch_size

    def trajectory(self) -> dict[str, Any]:
        """The settings that decide the weights, for comparing a checkpoint with the run that wants to go on from it."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in NOT_TRAJECTORY}
        # Other schedules than a constant one depend on where they end.
        return values if self.lr_scheduler_type.startswith("constant") else values | {"max_steps": self.max_steps}


NOT_TRAJECTORY = frozenset(
    {
        "attn_implementation",
        "gradient_checkpointing",
        "logging_steps",
        "max_steps",
        "offload_reference",
        "output_dir",
        "overwrite_output_dir",
        "report_to",
        "resume_from_checkpoint",
        "sample_steps",
        "save_steps",
        "save_total_limit",
        "use_cpu",
        "vllm_server",
    }
)
"""What may differ between the run that wrote a checkpoint and the one that continues it."""


def check_rl_config(config: RLConfig) -> None:
    """Fill in the defaults that depend on other fields and refuse what cannot work.

    Raises:
        ConfigError: a value outside its range, or a combination in which an option would do nothing.
    """
    trackers = BY_ACCELERATE if config.algorithm in ("ppo", "remax") else BY_TRANSFORMERS
    config.report_to = ",".join(check_trackers(config.report_to, trackers)) or "none"
    check_options(config)
    if config.experience_size is None:
        config.experience_size = config.minibatch_size * (2 if config.algorithm == "ppo" else 1)
    if config.critic_learning_rate is None:
        config.critic_learning_rate = config.learning_rate
    if config.num_generations is None:
        config.num_generations = 1 if config.algorithm in OWN_ALGORITHMS else 4
    _check_combinations(config)


def _check_combinations(config: RLConfig) -> None:
    n, b = config.responses_per_collection, config.minibatch_size
    if n % b:
        raise ConfigError(f"must be a multiple of --minibatch_size ({b}), it is {n}", where="--experience_size")
    if config.algorithm == "remax" and n != b:
        raise ConfigError(
            f"is {n}, but ReMax has no ratio that would correct stale responses",
            where="--experience_size",
            fix=f"Leave it out, or give --minibatch_size ({b}).",
        )
    if config.algorithm in OWN_ALGORITHMS and (config.top_p < 1 or config.top_k > 0):
        name = "top_p" if config.top_p < 1 else "top_k"
        raise ConfigError(
            "would make the log-probs those of another distribution than the samples are from",
            where=f"--{name}",
            fix="Leave it out; --temperature is reflected in the log-probs.",
        )
    if config.kl_place == "loss" and config.kl_estimator == "k1":
        raise ConfigError(
            "k1 as a term of the loss has a gradient of zero on average",
            where="--kl_estimator",
            fix="Use k2 or k3 with --kl_place loss.",
        )
    if config.kl_target is not None and config.kl_coef == 0:
        raise ConfigError("cannot move a coefficient of 0", where="--kl_target", fix="Give a positive --kl_coef.")
    if config.overlong_buffer is not None and not config.overlong_penalty:
        what = "has no effect without --overlong_penalty"
        raise ConfigError(what, where="--overlong_buffer", fix="Give both, or neither.")
    if config.overlong_buffer is not None and config.overlong_buffer > config.max_new_tokens:
        what = f"is {config.overlong_buffer}, more than --max_new_tokens ({config.max_new_tokens})"
        raise ConfigError(what, where="--overlong_buffer", fix="Lower it.")
    if config.preference_reference is not None and config.standardise == "model":
        what = "has no effect on a preference, which is no quality reward any more"
        raise ConfigError(what, where="--standardise model", fix="Use none or reference.")
    if config.length_penalty and config.reward == "length_only":
        raise ConfigError("only rescales a reward that is length alone", where="--length_penalty", fix="Leave it out.")
    if config.vllm_server is not None and config.rollout_engine != "vllm":
        raise ConfigError("is not used by this engine", where="--vllm_server", fix="Add --rollout_engine vllm.")
    config.check_lora()
    if config.offload_reference and config.lora_r:
        raise ConfigError(
            "has no effect under LoRA, where the reference is the adapter switched off", where="--offload_reference"
        )
    _check_groups(config)
    _refuse_foreign(config)


def _check_groups(config: RLConfig) -> None:
    n, group = config.responses_per_collection, config.responses_per_prompt
    if group < 2 and config.algorithm not in OWN_ALGORITHMS:
        what = f"must be at least 2 with --algorithm {config.algorithm}, it is {group}"
        raise ConfigError(what, where="--num_generations", fix="It compares the responses to a prompt.")
    if n % group:
        what = f"must divide --experience_size ({n}), it is {group}"
        raise ConfigError(what, where="--num_generations", fix="Change one of them.")
    if config.group_length_rescaling and group < 2:
        what = "compares the responses to one prompt, and there is one to each"
        raise ConfigError(what, where="--group_length_rescaling", fix="Give --num_generations 2 or more.")


_OF_PPO = (
    "clip_epsilon",
    "value_clip",
    "value_coef",
    "gae_lambda",
    "ppo_epochs",
    "whiten_advantages",
    "critic_init",
    "critic_warmup_steps",
)


def _refuse_foreign(config: RLConfig) -> None:
    """An option of another algorithm would do nothing, so setting it is an error."""
    defaults = {f.name: f.default for f in fields(config)}
    for name in _OF_PPO if config.algorithm == "remax" else ():
        if getattr(config, name) != defaults[name]:
            raise ConfigError(
                f"has no effect with --algorithm {config.algorithm}", where=f"--{name}", fix="Leave it out."
            )
