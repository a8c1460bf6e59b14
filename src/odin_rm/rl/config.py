"""Settings of a reinforcement-learning run; fields that ``TrainingArguments`` also has keep their names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from odin_rm.core.errors import ConfigError

ALGORITHMS = ("ppo", "remax", "rloo", "grpo")
OWN_ALGORITHMS = ("ppo", "remax")
KL_ESTIMATORS = ("k1", "k2", "k3")
KL_PLACES = ("reward", "loss")
STANDARDISE = ("none", "model", "reference")
WATCH_ACTIONS = ("warn", "stop", "rollback")
CRITIC_INITS = ("policy", "reward")


def setting(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field with its help text."""
    metadata: dict[str, Any] = {"help": help}
    if choices is not None:
        metadata["choices"] = list(choices)
    return field(default=default, metadata=metadata)


@dataclass
class RLConfig:
    """Everything that ``odin-rm rl`` takes."""

    algorithm: str = setting("ppo", "ppo and remax are ours; rloo and grpo run TRL's trainers.", ALGORITHMS)
    model: str | None = setting(None, "The policy to start from, also the reference: hub id or local causal model.")
    reward: str | None = setting(
        None,
        "A reward model (ours or any one-label classifier), an http(s) address, module:function or file.py:function "
        "in TRL's reward_funcs signature, length_only, or gold (the testbed's truth).",
    )
    prompts: str | None = setting(
        None, "Rows with a prompt: file, dataset folder or hub id; preference data serve too."
    )
    output_dir: str | None = setting(None, "The run folder.")
    overwrite_output_dir: bool = setting(False, "Replace another run in --output_dir instead of refusing.")
    resume_from_checkpoint: str | None = setting(None, "'true' for the newest checkpoint of the run, or a path.")

    # How much.
    max_steps: int = setting(200, "Optimiser steps (minibatches) of the policy.")
    experience_size: int | None = setting(
        None, "N: responses collected with one policy, over all ranks; N > b is stale. Default: 2 b for ppo, else b."
    )
    minibatch_size: int = setting(32, "b: responses per optimiser step, over all ranks; must divide N.")
    microbatch_tokens: int = setting(16384, "Padded tokens per forward pass and rank; changes no gradient.")
    rollout_tokens: int = setting(65536, "Padded tokens (prompt and response) per generation batch and rank.")

    # Optimisation.
    learning_rate: float = setting(1e-6, "Peak learning rate of the policy.")
    critic_learning_rate: float | None = setting(None, "Learning rate of the critic. Default: --learning_rate. (ppo)")
    lr_scheduler_type: str = setting("constant", "Schedule: constant, linear, cosine, ...")
    warmup_steps: int = setting(0, "Steps over which the learning rate rises from 0.")
    weight_decay: float = setting(0.0, "AdamW weight decay.")
    adam_beta1: float = setting(0.9, "AdamW beta 1.")
    adam_beta2: float = setting(0.95, "AdamW beta 2.")
    adam_epsilon: float = setting(1e-8, "AdamW epsilon.")
    max_grad_norm: float = setting(1.0, "Clip the gradient's norm; 0 turns it off.")
    seed: int = setting(0, "Decides order of prompts, sampling and new weights.")

    # The sequence reward, in the order of its steps.
    standardise: str | None = setting(
        None,
        "Mean and deviation that the quality reward is standardised with: those stored with the reward model (the "
        "default where there are some), those of the reference policy's responses (else), or none.",
        STANDARDISE,
    )
    standardise_responses: int = setting(256, "Responses of the reference policy for --standardise reference.")
    reward_clip: float = setting(math.inf, "c: the standardised reward is clipped to [-c, c].")
    length_penalty: float = setting(0.0, "alpha: taken off per response token, in standardised reward units.")
    missing_end_penalty: float = setting(0.0, "Taken off a response that did not end, in standardised reward units.")
    on_bad_reward: str = setting(
        "error",
        "A reward that is not finite ends the run (error) or its response is left out (skip).",
        ("error", "skip"),
    )

    # The KL to the reference policy.
    kl_coef: float = setting(0.05, "beta: weight of the KL to the reference policy.")
    kl_estimator: str = setting("k1", "k1, k2 or k3 (Schulman's names).", KL_ESTIMATORS)
    kl_place: str = setting("reward", "KL as a cost per token in the reward, or as a term of the loss.", KL_PLACES)
    kl_target: float | None = setting(None, "Adapt beta towards this KL per response, in nats.")
    kl_horizon: int = setting(10000, "Responses over which an adaptive beta moves.")

    # PPO.
    clip_epsilon: float = setting(0.2, "epsilon of the ratio clipping. (ppo)")
    value_clip: float = setting(0.2, "Clip of the value's move; 0 turns it off. (ppo)")
    value_coef: float = setting(1.0, "Weight of the critic's loss. (ppo)")
    gamma: float = setting(1.0, "Discount per token.")
    gae_lambda: float = setting(0.95, "lambda of GAE. (ppo)")
    ppo_epochs: int = setting(1, "Passes over the N responses before new ones are collected. (ppo)")
    whiten_advantages: bool = setting(True, "Advantages with mean 0 and deviation 1 over the N responses. (ppo)")
    critic_init: str = setting("policy", "Backbone of the critic: the policy's or the reward model's.", CRITIC_INITS)
    critic_warmup_steps: int = setting(0, "First steps in which only the critic learns. (ppo)")

    # RLOO and GRPO.
    num_generations: int = setting(4, "Responses per prompt. (rloo, grpo)")

    # Text and sampling.
    max_prompt_tokens: int | None = setting(
        None, "Longest prompt. Default: 512, or what the policy's window leaves beside --max_new_tokens."
    )
    overlong_prompt: str = setting(
        "error", "A longer prompt: error, drop, or truncate_left.", ("error", "drop", "truncate_left")
    )
    max_new_tokens: int = setting(256, "Longest response, end token included.")
    temperature: float = setting(1.0, "Sampling temperature; the log-probs are of the same distribution.")
    top_p: float = setting(1.0, "Refused below 1: log-probs would be of another distribution than the samples.")
    top_k: int = setting(0, "Refused above 0, for the same reason.")
    chat_template: str | None = setting(None, "Jinja template, or 'plain'; default the policy tokenizer's own.")
    rollout_engine: str = setting("transformers", "transformers, or vllm (an extra).", ("transformers", "vllm"))
    vllm_server: str | None = setting(None, "Address of a vLLM server; without it vLLM runs in this process.")

    # The model.
    model_dtype: str = setting("float32", "Dtype of the trained weights.", ("float32", "bfloat16", "float16"))
    bf16: bool = setting(False, "Mixed precision.")
    attn_implementation: str | None = setting(None, "Attention of transformers: sdpa, eager, flash_attention_2, ...")
    gradient_checkpointing: bool = setting(False, "Recompute activations to save memory.")
    trust_remote_code: bool = setting(False, "Run code that comes with the model.")
    lora_r: int = setting(
        0, "Rank of a LoRA adapter; 0 trains all weights. The reference is then the adapter switched off."
    )
    lora_alpha: int = setting(16, "Scale of the LoRA update (alpha / r).")
    lora_target_modules: str | None = setting(None, "Comma-separated linear layers for LoRA. Default: all.")
    offload_reference: bool = setting(False, "Keep the frozen reference policy in main memory between its passes.")
    use_cpu: bool = setting(False, "Stay on the CPU where there is an accelerator.")

    # The hacking watch.
    watch_steps: int = setting(20, "Look at fixed prompts every so many steps; 0 turns the watch off.")
    watch_prompts: str | None = setting(None, "Prompts of the watch. Default: the first of --prompts.")
    watch_size: int = setting(64, "How many prompts the watch uses.")
    watch_reward: str | None = setting(None, "A second reward source that training never sees, as --reward.")
    watch_action: str = setting(
        "warn", "What an alarm does: warn, stop, or rollback to the best checkpoint.", WATCH_ACTIONS
    )
    watch_length_ratio: float = setting(1.5, "Alarm: mean length beyond this times the reference's while reward falls.")
    watch_kl: float = setting(50.0, "Alarm: KL per response beyond this many nats.")
    watch_entropy: float = setting(0.1, "Alarm: entropy per token below this share of the reference's.")

    # Logs and checkpoints.
    logging_steps: int = setting(1, "Write metrics every so many steps.")
    sample_steps: int = setting(20, "Write sample responses every so many steps; 0 turns it off.")
    save_steps: int = setting(50, "Checkpoint every so many steps; 0 saves at the end and on interruption only.")
    save_total_limit: int = setting(2, "Checkpoints to keep; the watch's best one is kept besides.")
    report_to: str = setting("none", "Trackers: none, tensorboard, wandb, trackio (comma-separated).")

    def __post_init__(self) -> None:
        check_rl_config(self)

    @property
    def responses_per_collection(self) -> int:
        """``N`` with its default filled in."""
        assert self.experience_size is not None
        return self.experience_size

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
    for item in fields(config):
        choices = item.metadata.get("choices")
        value = getattr(config, item.name)
        if choices and value not in choices and value is not None:
            raise ConfigError(f"must be one of {', '.join(choices)}, it is {value!r}", where=f"--{item.name}")
    _check_ranges(config)
    if config.experience_size is None:
        config.experience_size = config.minibatch_size * (2 if config.algorithm == "ppo" else 1)
    if config.critic_learning_rate is None:
        config.critic_learning_rate = config.learning_rate
    _check_combinations(config)


def _check_ranges(config: RLConfig) -> None:
    least: dict[str, float] = dict.fromkeys(
        ("max_steps", "minibatch_size", "microbatch_tokens", "rollout_tokens", "ppo_epochs", "kl_horizon"), 1
    )
    least |= dict.fromkeys(("max_new_tokens", "logging_steps", "watch_size", "save_total_limit"), 1)
    least |= {"num_generations": 2, "standardise_responses": 2}
    not_negative = (
        "learning_rate critic_learning_rate warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm "
        "length_penalty missing_end_penalty kl_coef value_clip value_coef gamma gae_lambda critic_warmup_steps lora_r "
        "watch_steps sample_steps save_steps watch_length_ratio watch_kl watch_entropy top_k seed"
    )
    least |= dict.fromkeys(not_negative.split(), 0)
    least |= dict.fromkeys(("experience_size", "max_prompt_tokens"), 1)
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise ConfigError(f"must be at least {low:g}, it is {value}", where=f"--{name}")
    for name in ("clip_epsilon", "temperature", "reward_clip", "kl_target"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(f"must be positive, it is {value}", where=f"--{name}")
    for name in ("gamma", "gae_lambda"):
        if getattr(config, name) > 1:
            raise ConfigError(f"must be at most 1, it is {getattr(config, name)}", where=f"--{name}")


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
    if config.length_penalty and config.reward == "length_only":
        raise ConfigError("only rescales a reward that is length alone", where="--length_penalty", fix="Leave it out.")
    if config.vllm_server is not None and config.rollout_engine != "vllm":
        raise ConfigError("is not used by this engine", where="--vllm_server", fix="Add --rollout_engine vllm.")
    if config.lora_r == 0 and (config.lora_target_modules is not None or config.lora_alpha != 16):
        raise ConfigError("has no effect without LoRA", where="--lora_*", fix="Give --lora_r.")
    if config.offload_reference and config.lora_r:
        raise ConfigError(
            "has no effect under LoRA, where the reference is the adapter switched off", where="--offload_reference"
        )
    _refuse_foreign(config)


_OWN_BY = {
    "ppo": [
        "clip_epsilon",
        "value_clip",
        "value_coef",
        "gae_lambda",
        "ppo_epochs",
        "whiten_advantages",
        "critic_init",
        "critic_warmup_steps",
    ],
    "rloo": ["num_generations"],
}


def _refuse_foreign(config: RLConfig) -> None:
    """An option of another algorithm would do nothing, so setting it is an error."""
    defaults = {f.name: f.default for f in fields(config)}
    foreign = [n for n in _OWN_BY["ppo"] if config.algorithm == "remax"]
    foreign += [n for n in _OWN_BY["rloo"] if config.algorithm in OWN_ALGORITHMS]
    for name in foreign:
        if getattr(config, name) != defaults[name]:
            raise ConfigError(
                f"has no effect with --algorithm {config.algorithm}", where=f"--{name}", fix="Leave it out."
            )
