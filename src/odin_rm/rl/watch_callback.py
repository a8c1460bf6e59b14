"""The hacking watch for TRL's online trainers (``GRPOTrainer``, ``RLOOTrainer``), as a ``TrainerCallback``."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.files import PathLike, append_jsonl, atomic_write_text, dump_json
from odin_rm.core.reading import read_lines
from odin_rm.data.prompts import PromptSet
from odin_rm.data.render import Prompt, dated_template
from odin_rm.model.policy import ResponseBatch, adapter_disabled, end_token_ids, response_log_probs
from odin_rm.rl.records import RewardSource, RolloutEngine, SamplingSettings
from odin_rm.rl.rollout import TransformersEngine
from odin_rm.rl.watch import WATCH_FILE, HackingWatch, WatchLimits, look_row, metrics_row
from odin_rm.rl.watch_look import observe_policy

SAMPLES_FILE = "samples.jsonl"
logger = logging.getLogger(__name__)

EngineFactory = Callable[[Any, Any], RolloutEngine]
"""Makes an engine of ``(policy, tokenizer)``."""


class WatchCallback(TrainerCallback):
    """Looks at the policy before training, every ``steps`` steps and at the end; warns of hacking, or ends the run.

    Give it to the trainer's ``callbacks``: there it meets the policy before a checkpoint is loaded into it, and keeps a
    frozen copy as the reference (a LoRA policy needs none: its reference is the adapter switched off).

    Each look is a line of ``watch.jsonl`` (the fields of :class:`odin_rm.rl.watch.WatchRecord` and ``alarms``), its
    texts are lines of ``samples.jsonl`` (:func:`odin_rm.rl.watch_look.observe_policy`). A run that is resumed from a
    checkpoint goes on from these files; a new run begins them anew. Alarms are logged as warnings. With several
    processes each one looks, and they end the run together; sharded weights (FSDP, ZeRO 3) are refused.

    Args:
        prompts: the fixed prompts: rows of a TRL data set, each with a ``prompt`` (text, or chat messages) and whatever
            other columns the reward needs; or a :class:`odin_rm.data.prompts.PromptSet`.
        source: the reward that is trained on.
        held_out: a second reward that training never sees; without it length drift is judged by the length alone.
        steps: look every so many optimiser steps.
        limits: where alarms begin.
        action: ``"warn"``, or ``"stop"`` to end the run at an alarm (the trainer then saves as at its end).
        output_dir: where the files go; default the trainer's own.
        sampling: how to write; default the trainer's ``max_completion_length``, ``temperature``, ``top_p``, ``top_k``.
        prompt_ids: the prompts as the policy reads them; default as TRL renders them (text as it is, messages by the
            chat template).
        engine: makes the engine that writes; default transformers' ``generate``.
        reference: the reference policy, instead of a copy of the policy at the start.
        microbatch_tokens: padded tokens per batch, in writing and in measuring.
        seed: decides what is drawn; the same at each look.
        metrics: a file of logged steps that gets each look too, as ``watch_<field>``.

    Attributes:
        watch: the history, with ``watch.best_step``.

    Raises:
        ConfigError: ``action`` or ``steps`` is not one of those.
        DataError: there are no rows, or one has no ``prompt``.
    """

    def __init__(
        self,
        prompts: Iterable[Mapping[str, Any]] | PromptSet,
        source: RewardSource,
        *,
        held_out: RewardSource | None = None,
        steps: int = 20,
        limits: WatchLimits | None = None,
        action: Literal["warn", "stop"] = "warn",
        output_dir: PathLike | None = None,
        sampling: SamplingSettings | None = None,
        prompt_ids: Sequence[Sequence[int]] | None = None,
        engine: EngineFactory | None = None,
        reference: Any = None,
        microbatch_tokens: int = 16384,
        seed: int = 0,
        metrics: PathLike | None = None,
    ) -> None:
        if action not in ("warn", "stop"):
            raise ConfigError(f"the action of the watch is '{action}'", fix="Use warn or stop.")
        if steps < 1:
            raise ConfigError(f"the watch looks every {steps} steps", fix="Give a number of at least 1.")
        self.prompts = prompts if isinstance(prompts, PromptSet) else _prompt_set(prompts)
        if not self.prompts.prompts:
            raise DataError("the watch has no prompts", fix="Give at least one.")
        self.source, self.held_out = source, held_out
        self.steps, self.action, self.seed = steps, action, seed
        self.output_dir, self.sampling, self.prompt_ids = output_dir, sampling, prompt_ids
        self.reference, self.microbatch_tokens = reference, microbatch_tokens
        self.metrics = metrics
        self.engine = engine or self._transformers_engine
        self.watch = HackingWatch(limits)

    # ---- the trainer's events ----------------------------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Keep the reference."""
        if self.reference is None and not hasattr(model, "peft_config"):
            self.reference = _frozen_copy(model)

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> Any:
        """Take up the files of a resumed run; otherwise look at the reference."""
        if _is_sharded(args):
            fix = "Watch with whole weights on each process (one process or DDP), or use odin-rm rl."
            raise ConfigError("the watch cannot read a policy that is sharded over processes", fix=fix)
        if self.reference is None and not hasattr(model, "peft_config"):
            if state.global_step:
                fix = "Give the callback to the trainer's callbacks, or a reference policy to the callback."
                raise ConfigError("the watch met the policy after its checkpoint was loaded", fix=fix)
            self.reference = _frozen_copy(model)
        self._take_up_files(args, state)
        return control if self.watch.records else self._look(args, state, control, model, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> Any:
        """Look where it is time."""
        return control if state.global_step % self.steps else self._look(args, state, control, model, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> Any:
        """A last look, unless the last step had one."""
        seen = self.watch.records and self.watch.records[-1].step == state.global_step
        return control if seen else self._look(args, state, control, model, **kwargs)

    # ---- looking -----------------------------------------------------------------------------------------------------

    def _look(self, args: Any, state: Any, control: Any, model: Any, *, processing_class: Any, **kwargs: Any) -> Any:
        sampling = self.sampling or SamplingSettings(
            args.max_completion_length, args.temperature, args.top_p, args.top_k or 0
        )
        prompt_ids = self.prompt_ids
        if prompt_ids is None:
            prompt_ids = _as_trl_reads(processing_class, self.prompts.prompts, args)
        record, samples = observe_policy(
            engine=self.engine(model, processing_class),
            policy=model,
            reference_pass=lambda batch: self._reference_log_probs(args, model, batch, sampling.temperature),
            prompts=self.prompts,
            prompt_ids=prompt_ids,
            sampling=sampling,
            source=self.source,
            held_out=self.held_out,
            pad_token_id=int(processing_class.pad_token_id),
            microbatch_tokens=self.microbatch_tokens,
            seed=self.seed,
            step=state.global_step,
        )
        alarms = self.watch.observe(record)
        if state.is_world_process_zero:
            folder = self._folder(args)
            for sample in samples:
                append_jsonl(folder / SAMPLES_FILE, sample)
            append_jsonl(folder / WATCH_FILE, look_row(record, alarms))
            if self.metrics is not None:
                append_jsonl(Path(self.metrics), metrics_row(record, alarms))
            for alarm in alarms:
                logger.warning(alarm.message)
        if self.action == "stop" and _on_any_process(bool(alarms), args):
            control.should_training_stop = True
        return control

    def _reference_log_probs(self, args: Any, model: Any, batch: ResponseBatch, temperature: float) -> Tensor:
        if self.reference is None:
            with adapter_disabled(model):
                return response_log_probs(model, batch, temperature)
        device = batch.input_ids_BS.device
        self.reference.to(device)
        # The Trainer has wrapped the policy's forward in its autocast, but not the copy's.
        dtype = torch.bfloat16 if args.bf16 else torch.float16
        with torch.autocast(device.type, dtype=dtype, enabled=args.bf16 or args.fp16):
            return response_log_probs(self.reference, batch, temperature)

    def _transformers_engine(self, policy: Any, tokenizer: Any) -> RolloutEngine:
        ends = end_token_ids(policy, tokenizer)
        return TransformersEngine(policy, tokenizer, rollout_tokens=self.microbatch_tokens, end_token_ids=ends)

    # ---- files -------------------------------------------------------------------------------------------------------

    def _folder(self, args: Any) -> Path:
        return Path(args.output_dir if self.output_dir is None else self.output_dir)

    def _take_up_files(self, args: Any, state: Any) -> None:
        """Drop the looks that are not of this run up to its checkpoint, and remember those that are."""
        folder = self._folder(args)
        last = state.global_step if state.global_step else -1
        rows = _rows_until(folder / WATCH_FILE, last)
        self.watch.load({"records": rows})
        if state.is_world_process_zero:
            folder.mkdir(parents=True, exist_ok=True)
            for name, kept in ((WATCH_FILE, rows), (SAMPLES_FILE, _rows_until(folder / SAMPLES_FILE, last))):
                if (folder / name).exists():
                    atomic_write_text(folder / name, "".join(f"{dump_json(row)}\n" for row in kept))


def _prompt_set(rows: Iterable[Mapping[str, Any]]) -> PromptSet:
    """Rows as they are: to TRL a text and a conversation of one message are different prompts."""
    rows = list(rows)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or "prompt" not in row:
            raise DataError("has no 'prompt'", where=f"row {number} of the watch", fix="Give rows of a TRL data set.")
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    columns = {name: [row.get(name) for row in rows] for name in names}
    return PromptSet([row["prompt"] for row in rows], columns, "the watch")


def _rows_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a JSON lines file up to a step; a line that a killed run left half is no row."""
    if not path.exists():
        return []
    return [row for row in read_lines(path) if row.get("step", 0) <= step]


def _frozen_copy(model: Any) -> Any:
    reference = copy.deepcopy(model)
    # A forward that was replaced on the instance still belongs to the original, and would read its weights.
    reference.__dict__.pop("forward", None)
    return reference.eval().requires_grad_(False)


def _as_trl_reads(tokenizer: Any, prompts: list[Prompt], args: Any) -> list[list[int]]:
    options = getattr(args, "chat_template_kwargs", None) or {}
    ids: list[list[int]] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids.append(tokenizer(text=prompt)["input_ids"])
        else:
            # A template's date is ours, so that looks of one run on two days are of the same prompts.
            template = dated_template(tokenizer, options.get("chat_template"))
            chat = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "chat_template": template}
            ids.append(tokenizer.apply_chat_template(prompt, **options | chat)["input_ids"])
    return ids


def _is_sharded(args: Any) -> bool:
    from transformers.integrations import is_deepspeed_zero3_enabled

    return bool(args.fsdp) or is_deepspeed_zero3_enabled()


def _on_any_process(flag: bool, args: Any) -> bool:
    """The processes must stop together, though their arithmetic may differ in the last digit."""
    if args.world_size == 1:
        return flag
    votes = torch.tensor(int(flag), device=args.device)
    torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
    return bool(votes)
