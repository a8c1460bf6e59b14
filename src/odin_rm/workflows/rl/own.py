"""A run of PPO or ReMax from a config to a run folder.

Everything that can be refused is refused before the run folder is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import get_scheduler, set_seed
from transformers.integrations import unset_hf_deepspeed_config

from odin_rm.core.console import say
from odin_rm.core.errors import ConfigError
from odin_rm.core.files import append_jsonl, atomic_write_json
from odin_rm.core.ranks import fail_on_all_ranks
from odin_rm.core.system import writing
from odin_rm.model.policy import (
    ResponseBatch,
    adapter_disabled,
    end_token_ids,
    response_log_probs,
    save_policy,
)
from odin_rm.rl.actor_critic import ActorCritic
from odin_rm.rl.algorithms import build_algorithm
from odin_rm.rl.checkpoint import STATE_FILE, check_settings, read_state
from odin_rm.rl.collect import Collector
from odin_rm.rl.config import RLConfig
from odin_rm.rl.learn import Learner
from odin_rm.rl.ranks import EngineOfFirst, Ranks, SourceOfRanks
from odin_rm.rl.records import RolloutEngine, SamplingSettings
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.rl.trainer import Look, RLTrainer
from odin_rm.rl.watch import WATCH_FILE, HackingWatch, WatchLimits
from odin_rm.rl.watch_look import observe_policy
from odin_rm.runs.checkpoints import GO_ON
from odin_rm.runs.data_record import DATA_FILE
from odin_rm.runs.output_folder import OutputFolder, replaced_model
from odin_rm.runs.run_folder import Start, drop_later_lines, write_settings
from odin_rm.workflows.rl.parts import Parts, load_parts, shaping_settings


def run_own(config: RLConfig) -> Path:
    """Train a policy by PPO or ReMax and write its run folder.

    Args:
        config: the settings, checked by :func:`odin_rm.workflows.rl.run.train_policy`.

    Returns:
        The run folder.

    Raises:
        OdinError: bad input, a folder that holds another run, a foreign checkpoint, a reward source that fails.
        RunInterrupted: a signal came; a checkpoint is saved.
    """
    with OutputFolder(str(config.output_dir), "rl", overwrite=config.overwrite_output_dir) as output:
        return _run(config, output)


def _run(config: RLConfig, output: OutputFolder) -> Path:
    run = output.path
    accelerator = _accelerator(config)
    with fail_on_all_ranks():
        start = Start.find(output, config.resume_from_checkpoint, STATE_FILE)
        set_seed(config.seed)
        _load_whole(accelerator)
        parts = load_parts(config, accelerator.device)
    with fail_on_all_ranks():
        trainer = build_trainer(config, parts, accelerator, run)
        start = start.verified(
            lambda checkpoint: check_settings(
                checkpoint, read_state(checkpoint), config.trajectory(), trainer.ranks.size
            )
        )
        if start.nothing_left(config, ()):
            return run
    with fail_on_all_ranks():
        if accelerator.is_main_process:
            start.claim()
            write_settings(run, config, (), start.checkpoint)
            atomic_write_json(run / DATA_FILE, parts.data)
            if start.checkpoint is not None:
                for name in ("samples.jsonl", WATCH_FILE):
                    drop_later_lines(run / name, int(read_state(start.checkpoint)["step"]))
    if config.report_to not in ("none", ""):
        accelerator.init_trackers("odin-rm", config={k: str(v) for k, v in asdict(config).items()})
    # From here on ranks draw different samples.
    set_seed(config.seed + accelerator.process_index)
    stopped_by = trainer.train(start.checkpoint)
    _finish(trainer, parts, stopped_by)
    if accelerator.is_main_process:
        output.complete()
    return run


def build_trainer(config: RLConfig, parts: Parts, accelerator: Any, run: Path) -> RLTrainer:
    """Wrap the models for the engine and connect the pieces of the loop."""
    ranks = Ranks(accelerator)
    _check_ranks(config, ranks)
    held_out = None if parts.held_out is None else SourceOfRanks(parts.held_out)
    parts = replace(parts, source=SourceOfRanks(parts.source), held_out=held_out)
    plain_model = ActorCritic(parts.policy, parts.critic).train()
    groups = plain_model.parameter_groups(config.learning_rate, float(config.critic_learning_rate or 0.0))
    optimiser = torch.optim.AdamW(
        groups,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    if ranks.deepspeed:
        _set_up_deepspeed(config, ranks)
    model, optimiser = accelerator.prepare(plain_model, optimiser)
    plain_model = accelerator.unwrap_model(model)
    if ranks.sharded and not ranks.deepspeed:
        register_fsdp_forward_method(plain_model, "begin")
        plain_model.begin()
    # transformers' plain "constant" knows no warm-up.
    warmed = config.lr_scheduler_type == "constant" and config.warmup_steps > 0
    scheduler = get_scheduler(
        "constant_with_warmup" if warmed else config.lr_scheduler_type,
        optimiser,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=config.max_steps,
    )
    algorithm = build_algorithm(config)
    pad_token_id = int(parts.tokenizer.pad_token_id)
    engine = build_engine(config, parts, plain_model.policy, ranks)
    reference_pass = _reference_pass(config, parts, plain_model, accelerator)

    def old_pass(batch: ResponseBatch) -> tuple[Tensor, Tensor | None]:
        policy_log_probs_BT, _, values_BT = model(batch, config.temperature)
        return policy_log_probs_BT, values_BT

    collector = Collector(
        prompts=parts.prompts,
        prompt_ids=parts.prompt_ids,
        engine=engine,
        sampling=SamplingSettings(config.max_new_tokens, config.temperature),
        source=parts.source,
        algorithm=algorithm,
        shaping=shaping_settings(config, parts.source),
        old_pass=old_pass,
        reference_pass=reference_pass,
        ranks=ranks,
        pad_token_id=pad_token_id,
        microbatch_tokens=config.microbatch_tokens,
        kl_estimator=config.kl_estimator,
        kl_in_reward=config.kl_place == "reward",
        skip_bad_rewards=config.on_bad_reward == "skip",
        device=accelerator.device,
        responses_per_prompt=config.responses_per_prompt,
    )
    learner = Learner(
        accelerator=accelerator,
        ranks=ranks,
        model=model,
        plain_model=plain_model,
        optimiser=optimiser,
        scheduler=scheduler,
        algorithm=algorithm,
        temperature=config.temperature,
        kl_estimator=config.kl_estimator,
        kl_in_loss=config.kl_place == "loss",
        microbatch_tokens=config.microbatch_tokens,
        max_grad_norm=config.max_grad_norm,
        pad_token_id=pad_token_id,
    )
    limits = WatchLimits(config.watch_length_ratio, config.watch_kl, config.watch_entropy)
    look = _look(config, parts, plain_model, engine, reference_pass, ranks)
    return RLTrainer(
        config,
        run,
        accelerator,
        ranks,
        collector,
        learner,
        HackingWatch(limits),
        look if config.watch_steps else None,
        say=_say,
    )


def build_engine(config: RLConfig, parts: Parts, policy: torch.nn.Module, ranks: Ranks) -> RolloutEngine:
    """The engine that writes responses."""
    ends = end_token_ids(policy, parts.tokenizer)
    if config.rollout_engine == "vllm":
        from odin_rm.rl.vllm import build_vllm_engine

        return build_vllm_engine(config.vllm_server, policy, parts.tokenizer, ends)
    return TransformersEngine(
        policy,
        parts.tokenizer,
        rollout_tokens=config.rollout_tokens,
        end_token_ids=ends,
        precision=ranks.accelerator.autocast,
        synced=ranks.sharded,
    )


# ---- internals -------------------------------------------------------------------------------------------------------


def _accelerator(config: RLConfig) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    trackers = [name.strip() for name in config.report_to.split(",") if name.strip() not in ("", "none")]
    try:
        return Accelerator(
            cpu=config.use_cpu,
            mixed_precision="bf16" if config.bf16 else "no",
            log_with=trackers or None,
            project_dir=config.output_dir,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except (ImportError, ValueError, RuntimeError) as error:
        raise ConfigError(" ".join(str(error).split())[:300], fix="See odin-rm rl --help.") from error


def _load_whole(accelerator: Any) -> None:
    """Under ZeRO 3 transformers would load every model in parts, also those that no engine gathers again."""
    if Ranks(accelerator).deepspeed:
        unset_hf_deepspeed_config()


def _check_ranks(config: RLConfig, ranks: Ranks) -> None:
    for name in ("minibatch_size", "experience_size"):
        if getattr(config, name) % ranks.size:
            raise ConfigError(
                f"is {getattr(config, name)}, which {ranks.size} processes cannot share evenly",
                where=f"--{name}",
                fix=f"Use a multiple of {ranks.size}.",
            )
    prompts = config.responses_per_collection // config.responses_per_prompt
    if prompts % ranks.size:  # the responses to a prompt are compared on one rank
        raise ConfigError(
            f"leaves {prompts} prompts for a collection, which {ranks.size} processes cannot share evenly",
            where="--num_generations",
            fix="Change it, or --experience_size.",
        )
    plugin = getattr(ranks.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and (plugin.fsdp_version != 2 or plugin.cpu_ram_efficient_loading):
        raise ConfigError(
            "the accelerate config needs fsdp_version 2 and fsdp_cpu_ram_efficient_loading false",
            fix="See examples/accelerate/fsdp2.yaml.",
        )


def _set_up_deepspeed(config: RLConfig, ranks: Ranks) -> None:
    """DeepSpeed clips policy and critic as one and steps inside the backward pass."""
    if config.critic_warmup_steps:
        raise ConfigError(
            "does not work under DeepSpeed", where="--critic_warmup_steps", fix="Use FSDP2, or leave it out."
        )
    settings = ranks.accelerator.state.deepspeed_plugin.deepspeed_config
    settings["train_micro_batch_size_per_gpu"] = config.minibatch_size // ranks.size
    settings["gradient_clipping"] = config.max_grad_norm


def _reference_pass(
    config: RLConfig, parts: Parts, plain_model: ActorCritic, accelerator: Any
) -> Callable[[ResponseBatch], Tensor]:
    if parts.reference is None:

        def by_adapter(batch: ResponseBatch) -> Tensor:
            with torch.no_grad(), accelerator.autocast(), adapter_disabled(plain_model.policy):
                return response_log_probs(plain_model.policy, batch, config.temperature)

        return by_adapter
    reference, device = parts.reference, accelerator.device
    if not config.offload_reference:
        reference.to(device)

    def by_copy(batch: ResponseBatch) -> Tensor:
        with torch.no_grad(), accelerator.autocast(), _visiting(reference, device, config.offload_reference):
            return response_log_probs(reference, batch, config.temperature)

    return by_copy


@contextmanager
def _visiting(model: torch.nn.Module, device: torch.device, away: bool) -> Iterator[None]:
    """A frozen model on the accelerator for the block, in main memory otherwise."""
    if away:
        model.to(device)
    yield
    if away:
        model.to("cpu")


def _look(
    config: RLConfig,
    parts: Parts,
    plain_model: ActorCritic,
    engine: RolloutEngine,
    reference_pass: Callable[[ResponseBatch], Tensor],
    ranks: Ranks,
) -> Look:
    def look(step: int) -> Any:
        return observe_policy(
            engine=EngineOfFirst(engine, ranks),
            policy=plain_model.policy,
            reference_pass=reference_pass,
            prompts=parts.watch_prompts,
            prompt_ids=parts.watch_ids,
            sampling=SamplingSettings(config.max_new_tokens, config.temperature),
            source=parts.source,
            held_out=parts.held_out,
            pad_token_id=int(parts.tokenizer.pad_token_id),
            microbatch_tokens=config.microbatch_tokens,
            seed=config.seed,
            step=step,
            precision=ranks.accelerator.autocast,
        )

    return look


def _say(line: str) -> None:
    say(f"odin-rm rl: watch: {line}", error=True)


def _finish(trainer: RLTrainer, parts: Parts, stopped_by: str | None) -> None:
    accelerator, run = trainer.accelerator, trainer.run
    state_dict = _whole_policy(trainer) if trainer.ranks.sharded else None
    with fail_on_all_ranks():
        if accelerator.is_main_process:
            with writing(run / "policy", kept=GO_ON), replaced_model(run / "policy") as folder:
                save_policy(trainer.learner.plain_model.policy, parts.tokenizer, folder, state_dict=state_dict)
            row: dict[str, Any] = {"step": trainer.state.step, "finished": True}
            append_jsonl(run / "metrics.jsonl", row | ({"stopped_by": stopped_by} if stopped_by else {}))
    # Not accelerator.end_training(), which also leaves the process group: DDP's reducer would then be its last owner,
    # and gloo deadlocks where its threads are joined by whoever holds Python's lock. See end_processes().
    for tracker in accelerator.trackers:
        tracker.finish()


def _whole_policy(trainer: RLTrainer) -> dict[str, Tensor]:
    """The policy's tensors, gathered from all ranks on the first one; a tied weight once."""
    whole = trainer.accelerator.get_state_dict(trainer.learner.model) or {}
    policy = trainer.learner.plain_model.policy
    names = [name for name, _ in (*policy.named_parameters(), *policy.named_buffers())]
    return {name: whole[f"policy.{name}"] for name in names if f"policy.{name}" in whole}
