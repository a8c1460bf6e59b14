"""Settings that several commands have, described once: dataclasses to inherit from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import option, options_of

RESUME_HELP = (
    "'auto' goes on from the newest sound checkpoint of the run, or begins where there is none: the same command line "
    "works from every state. 'true': there must be one. Or a path."
)
CALIBRATION_HELP = (
    "A calibration.json to take off the scores, or none; default the one that stands beside the model "
    "(docs/calibrate.md)."
)
_of_lora = options_of("LoRA")
_of_length = options_of("length of the run")
_of_evaluation = options_of("evaluation, logs and checkpoints")
_of_device = options_of("device and precision")
_of_scorer = options_of("reward model")
_of_speed = options_of("speed and memory")
_of_endpoint = options_of("endpoint")


@dataclass(kw_only=True)
class RowOptions:
    """How rows are read, of the commands that read any."""

    columns: list[str] = option(
        [],
        "What the rows call a field otherwise: new=theirs each, as in prompt=question chosen=answer_a; new= leaves the "
        "column new out.",
    )


@dataclass
class LoraOptions:
    """A LoRA adapter instead of all weights."""

    lora_r: int = _of_lora(0, "Rank of a LoRA adapter; 0 trains all weights.", at_least=0)
    lora_alpha: int = _of_lora(16, "Scale of the LoRA update (alpha / r).")
    lora_target_modules: str | None = _of_lora(
        None, "Comma-separated linear layers for LoRA. Default: all of the base model."
    )

    def check_lora(self) -> None:
        """Refuse settings of an adapter that is not asked for.

        Raises:
            ConfigError: there is no ``--lora_r``.
        """
        if self.lora_r == 0 and (self.lora_target_modules is not None or self.lora_alpha != 16):
            raise ConfigError("has no effect without LoRA", where="--lora_*", fix="Give --lora_r.")


@dataclass
class TrainerOptions:
    """What most users set of ``transformers.TrainingArguments``, which all have by the same names.

    They are described here so that ``--help`` need not import it. Defaults are its own but for those marked as ours.
    """

    output_dir: str = option(None, "The run folder.", flag="output", stock=True)
    resume_from_checkpoint: str | None = option(None, RESUME_HELP)
    seed: int = option(42, "Decides the order of rows and new weights.")

    num_train_epochs: float = _of_length(3.0, "Passes over the training rows.")
    max_steps: int = _of_length(-1, "Optimiser steps; above 0 it counts instead of --num_train_epochs.")

    eval_strategy: str = _of_evaluation("no", "When to evaluate.", choices=("no", "steps", "epoch"))
    eval_steps: float | None = _of_evaluation(None, "Evaluate every so many steps; below 1 a share of all steps.")
    save_strategy: str = _of_evaluation("steps", "When to save.", choices=("no", "steps", "epoch", "best"))
    save_steps: float = _of_evaluation(500, "Save every so many steps; below 1 a share of all steps.")
    load_best_model_at_end: bool = _of_evaluation(False, "Keep the checkpoint of the best evaluation as the model.")
    # Ours: no network or tracker unasked, every step logged.
    save_total_limit: int | None = _of_evaluation(2, "Checkpoints to keep.")
    logging_steps: float = _of_evaluation(1, "Log every so many steps.")
    report_to: str | None = _of_evaluation("none", "Trackers: none, tensorboard, wandb, trackio, ...")

    bf16: bool = _of_device(False, "Mixed precision.")
    activation_checkpointing: bool | None = _of_device(None, "Recompute activations to save memory.")
    gradient_checkpointing: bool | None = _of_device(
        None, "Older name of --activation_checkpointing.", instead="activation_checkpointing"
    )
    use_cpu: bool = _of_device(False, "Stay on the CPU where there is an accelerator.")
    # Ours: no weights without a gradient are expected.
    ddp_find_unused_parameters: bool | None = _of_device(
        False, "Search for weights without a gradient in each step; none are expected."
    )


@dataclass(kw_only=True)
class ScorerOptions:
    """How a reward model is loaded and read, of the commands that score with any."""

    column: str | None = _of_scorer(None, "Label (name or index) to read of classifiers with several labels.")
    max_length: int | None = _of_scorer(
        None, "Most tokens of a sequence; default the model's own setting, or its window.", at_least=1
    )
    overlong: Literal["drop", "truncate_prompt_left", "truncate_response", "error"] | None = _of_scorer(
        None,
        "What to do with longer ones; default the model's own setting, or drop (score keeps such rows, without "
        "quality).",
    )
    read_at: str | None = _of_scorer(
        None, "end or before_pad: where a model of an earlier odin-rm that does not say it was read."
    )
    calibration: str | None = _of_scorer(None, CALIBRATION_HELP)
    dtype: Literal["float32", "bfloat16", "float16"] | None = _of_scorer(
        None, "Precision of the model; default float32.", old=("torch_dtype",)
    )
    attn_implementation: str | None = _of_scorer(None, "Attention of transformers: eager, sdpa, flash_attention_2, ...")
    device: str | None = _of_scorer(None, "cpu, cuda, cuda:1, ...; default CUDA if there is one.")
    trust_remote_code: bool = _of_scorer(False, "Run code that comes with a model.")
    microbatch_tokens: int = _of_speed(16384, "Computed tokens per forward pass (memory).", at_least=1)
    batch_layout: Literal["auto", "tree", "packed", "padded", "single"] = _of_speed(
        "auto",
        "How rows share a forward pass: tree (shared prompts once), packed (no padding), padded, single (one at a "
        "time), or auto: the first of them that gives this model's own scores.",
    )
    tree_attention: Literal["auto", "segments", "varlen", "flex", "dense"] = _of_speed(
        "auto", "Attention of tree and packed rows."
    )

    def check_no_calibration(self) -> None:
        """Refuse a calibration of scores that are stored.

        Raises:
            ConfigError: there is one.
        """
        if self.calibration not in (None, "none"):
            fix = "Give the scores.jsonl that odin-rm calibrate --scores writes."
            raise ConfigError("does not go with --scores", where="--calibration", fix=fix)

    def check_layout(self) -> None:
        """Refuse a choice of attention that no row would see.

        Raises:
            ConfigError: rows are padded.
        """
        if self.batch_layout in ("padded", "single") and self.tree_attention != "auto":
            what = "has no effect on padded batches"
            raise ConfigError(what, where="--tree_attention", fix="Choose another --batch_layout, or leave it out.")


@dataclass(kw_only=True)
class EndpointOptions:
    """An OpenAI-compatible endpoint: where it is and how fast it is asked."""

    base_url: str | None = _of_endpoint(None, "Address of the API; default OPENAI_BASE_URL, or OpenAI's.")
    api_key_env: str = _of_endpoint("OPENAI_API_KEY", "The environment variable that holds the key.")
    concurrency: int = _of_endpoint(8, "Calls under way at a time.", at_least=1)
    requests_per_minute: float | None = _of_endpoint(None, "At most so many calls a minute.", above=0, infinite=True)
    timeout: float = _of_endpoint(120.0, "Seconds for a whole call.", above=0, infinite=True)
    retries: int = _of_endpoint(8, "How often a call that failed is made again, after growing pauses.", at_least=0)
