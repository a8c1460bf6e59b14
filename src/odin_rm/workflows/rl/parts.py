"""What a reinforcement-learning run is made of: policy, reference, critic, reward sources and prompts, checked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch

from odin_rm.core.errors import ConfigError
from odin_rm.data.prompts import PromptSet, encode_prompts, load_prompts, template_takes
from odin_rm.data.render import unrendered
from odin_rm.model.backbone import model_window
from odin_rm.model.critic import Critic
from odin_rm.model.policy import load_policy
from odin_rm.model.scoring import DTYPES
from odin_rm.rl.algorithms import needs_critic
from odin_rm.rl.config import RLConfig
from odin_rm.rl.records import RewardSource
from odin_rm.rl.reward_source import load_reward_source
from odin_rm.rl.shaping import ShapingSettings
from odin_rm.rl.sources.preference import PreferenceSource, check_reference_answers
from odin_rm.runs.data_record import Records, data_record, say_data

DEFAULT_PROMPT_TOKENS = 512
"""Tokens of the longest prompt, where the policy's window has room for them."""


@dataclass
class Parts:
    """What a run is made of, loaded and checked."""

    policy: torch.nn.Module
    tokenizer: Any
    reference: torch.nn.Module | None
    critic: Critic | None
    source: RewardSource
    held_out: RewardSource | None
    prompts: PromptSet
    prompt_ids: list[list[int]]
    watch_prompts: PromptSet
    watch_ids: list[list[int]]
    data: Records


def load_parts(config: RLConfig, device: torch.device) -> Parts:
    """Load policy, reference, critic, reward sources and prompts, and refuse what does not fit together."""
    kwargs: dict[str, Any] = {
        "dtype": DTYPES[config.model_dtype],
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }
    names = config.lora_target_modules.split(",") if config.lora_target_modules else None
    policy, tokenizer = load_policy(
        str(config.model),
        lora_r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_target_modules=names,
        gradient_checkpointing=config.gradient_checkpointing,
        **kwargs,
    )
    _set_prompt_window(config, policy, tokenizer)
    prompts, prompt_ids, counts = _load_prompts(config, str(config.prompts), tokenizer)
    records = {"prompts": counts}
    watch_prompts, watch_ids = prompts, prompt_ids
    if config.watch_prompts is not None:
        watch_prompts, watch_ids, records["watch_prompts"] = _load_prompts(config, config.watch_prompts, tokenizer)
    say_data(records, noun="prompts", limit="max_prompt_tokens")
    source = _load_source(config, str(config.reward), tokenizer, device)
    held_out = _load_source(config, config.watch_reward, tokenizer, device) if config.watch_reward else None
    if config.preference_reference is not None:
        for prompt_set in (prompts, watch_prompts):
            check_reference_answers(prompt_set, config.preference_reference)
        source = PreferenceSource(source, config.preference_reference, tokenizer=tokenizer)
    _set_standardisation(config, source)
    reference = None if config.lora_r else load_policy(str(config.model), **kwargs)[0].requires_grad_(False).eval()
    critic = _load_critic(config, tokenizer, source, kwargs) if needs_critic(config.algorithm) else None
    watch_set = PromptSet(
        watch_prompts.prompts[: config.watch_size],
        {name: values[: config.watch_size] for name, values in watch_prompts.columns.items()},
        watch_prompts.source,
    )
    watch_ids = watch_ids[: config.watch_size]
    return Parts(
        policy, tokenizer, reference, critic, source, held_out, prompts, prompt_ids, watch_set, watch_ids, records
    )


def _load_prompts(config: RLConfig, source: str, tokenizer: Any) -> tuple[PromptSet, list[list[int]], dict[str, Any]]:
    """Prompts that fit, their ids, and how many do not."""
    check = template_takes(tokenizer, config.chat_template)
    mode: Literal["error", "skip"] = "skip" if config.on_bad_row == "skip" else "error"
    prompts = load_prompts(source, on_bad_row=mode, columns=config.columns, check=check)
    stated, layouts, skipped = len(prompts.prompts), prompts.layouts, prompts.skipped
    assert config.max_prompt_tokens is not None
    ids, kept = encode_prompts(
        tokenizer,
        prompts.prompts,
        max_prompt_tokens=config.max_prompt_tokens,
        chat_template=config.chat_template,
        overlong=config.overlong_prompt,  # type: ignore[arg-type]
        places=prompts.places,
    )
    if len(kept) < len(prompts.prompts):
        columns = {name: [values[i] for i in kept] for name, values in prompts.columns.items()}
        prompts = PromptSet([prompts.prompts[i] for i in kept], columns, prompts.source)
    counts: dict[str, Any] = {
        "prompts": len(kept),
        "prompts_stated": stated,
        "dropped_overlong_prompts": stated - len(kept),
        "max_prompt_tokens": config.max_prompt_tokens,
    }
    found = {
        "skipped_rows": skipped,
        "layouts": layouts,
        "unrendered": sorted(unrendered(tokenizer, config.chat_template, *prompts.prompts)),
    }
    counts |= {name: value for name, value in found.items() if value}
    return prompts, ids, data_record(counts, prompts.source)


def _set_prompt_window(config: RLConfig, policy: torch.nn.Module, tokenizer: Any) -> None:
    window = model_window(policy, tokenizer) or sys.maxsize
    if config.max_prompt_tokens is None:
        config.max_prompt_tokens = min(DEFAULT_PROMPT_TOKENS, max(1, window - config.max_new_tokens))
    if config.max_prompt_tokens + config.max_new_tokens > window:
        raise ConfigError(
            f"{config.max_prompt_tokens} prompt tokens and {config.max_new_tokens} response tokens do not fit into the "
            f"policy's window of {window}",
            where="--max_new_tokens",
            fix="Lower --max_new_tokens or --max_prompt_tokens.",
        )


def _load_source(config: RLConfig, spec: str, tokenizer: Any, device: torch.device) -> RewardSource:
    return load_reward_source(
        spec,
        policy_tokenizer=tokenizer,
        device=str(device),
        microbatch_tokens=config.microbatch_tokens,
        trust_remote_code=config.trust_remote_code,
        chat_template=config.chat_template,
        # A file belongs to the model in --reward; the one that watches has its own beside it.
        calibration=config.calibration if spec == config.reward or config.calibration == "none" else None,
    )


def _set_standardisation(config: RLConfig, source: RewardSource) -> None:
    known = source.reward_mean is not None and bool(source.reward_std)
    if config.standardise is None:
        config.standardise = "model" if known else "reference"
    if config.standardise == "model" and not known:
        raise ConfigError(
            f"the reward source {source.name} has no mean and deviation stored",
            where="--standardise",
            fix="Use --standardise reference.",
        )


def _load_critic(config: RLConfig, tokenizer: Any, source: RewardSource, kwargs: dict[str, Any]) -> Critic:
    if config.critic_init == "policy":
        return Critic.from_policy(str(config.model), **kwargs)
    scorer = getattr(source, "scorer", None)
    if scorer is None:
        what = f"needs a reward model in --reward, not {source.name}"
        raise ConfigError(what, where="--critic_init reward", fix="Use --critic_init policy.")
    if scorer.tokenizer.get_vocab() != tokenizer.get_vocab():
        what = "needs a reward model that reads the policy's tokens; its tokenizer is another one"
        raise ConfigError(what, where="--critic_init reward", fix="Use --critic_init policy.")
    known = config.standardise == "model"
    mean, std = (source.reward_mean, source.reward_std) if known else (None, None)
    return Critic.from_reward_model(str(config.reward), mean=mean, std=std, **kwargs)


def shaping_settings(config: RLConfig, source: RewardSource) -> ShapingSettings:
    """The steps between quality reward and sequence reward; mean and deviation of the reference come later."""
    mean, std = 0.0, 1.0
    if config.standardise == "model":
        mean, std = float(source.reward_mean or 0.0), float(source.reward_std or 1.0)
    return ShapingSettings(
        mean=mean,
        std=std,
        clip=config.reward_clip,
        length_penalty=config.length_penalty,
        missing_end_penalty=config.missing_end_penalty,
        group_length_rescaling=config.group_length_rescaling,
        overlong_penalty=config.overlong_penalty,
        overlong_length=config.max_new_tokens if config.overlong_penalty else 0,
        overlong_buffer=config.overlong_tokens if config.overlong_penalty else 0,
    )
