"""Settings of a reward training run: our fields on top of ``transformers.TrainingArguments``."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from odin_rm.core.errors import ConfigError
from odin_rm.core.settings import at_least, one_of, refuse_idle, trajectory
from odin_rm.core.types import LENGTH, QUALITY
from odin_rm.model.layout import BATCH_LAYOUTS, TREE_ATTENTION
from odin_rm.model.products import CPU_PRODUCTS

OBJECTIVES = ("odin", "bradley_terry")
LENGTH_SCOPES = ("batch", "prompt")
POOLINGS = ("backbone", "mean")
READ_AT = ("end_of_turn", "end")
OVERLONG = ("drop", "truncate_prompt_left", "truncate_response", "error")

# Fields of TrainingArguments that would do nothing here, and what to use instead. Setting one is an error.
REFUSED = {
    "per_device_train_batch_size": "use --batch_pairs (pairs per step over all ranks) and --microbatch_tokens",
    "per_device_eval_batch_size": "use --microbatch_tokens",
    "gradient_accumulation_steps": "use --batch_pairs: the whole optimiser batch is one step, split by "
    "--microbatch_tokens",
    "auto_find_batch_size": "use --microbatch_tokens, which bounds memory and does not change the gradient",
    "average_tokens_across_devices": "the gradient is exact over ranks already",
    "label_smoothing_factor": "the ranking loss has no label smoothing",
    "label_names": "the data have no label column",
    "train_sampling_strategy": "batches are planned from pairs, lengths and --seed",
    "length_column_name": "lengths are known from tokenisation",
    "dataloader_drop_last": "the last optimiser batch is always used",
    "dataloader_persistent_workers": "workers are renewed each epoch to carry the epoch's plan",
    "prediction_loss_only": "evaluation always measures every figure",
    "eval_accumulation_steps": "evaluation keeps two numbers per response only",
    "eval_do_concat_batches": "evaluation keeps two numbers per response only",
    "eval_use_gather_object": "evaluation keeps two numbers per response only",
    "batch_eval_metrics": "evaluation keeps two numbers per response only",
    "include_for_metrics": "evaluation always measures every figure",
    "include_num_input_tokens_seen": "tokens_per_second is logged in each step",
    "neftune_noise_alpha": "noise would make the two passes of a step disagree",
    "remove_unused_columns": "columns are chosen by the preference reader",
    "logging_nan_inf_filter": "a loss that is not finite stops the run and saves the batch",
    "use_cache": "training needs no key-value cache",
    "use_liger_kernel": "its kernels know transformers' own models only",
    "do_train": "the command trains",
    "do_eval": "give --eval_dataset and --eval_strategy",
    "do_predict": "use odin-rm score",
    "parallelism_config": "only data-parallel splits are supported",
}

# They decide how fast and in what memory the same gradient is computed.
MEMORY_FIELDS = (
    "microbatch_tokens",
    "single_pass_tokens",
    "batch_layout",
    "tree_attention",
    "cpu_products",
    "compile_layers",
    "dry_run",
)


@dataclass
class RewardConfig(TrainingArguments):
    """Everything that ``odin-rm reward`` takes; fields of ``TrainingArguments`` keep their names and meaning."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, local causal or encoder model, or a reward model saved by odin-rm (goes on from it)."
        },
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Preference data: file, dataset folder or hub id (docs/data_formats.md)."}
    )
    eval_dataset: str | None = field(default=None, metadata={"help": "Held-out preference data for --eval_strategy."})
    eval_fraction: float = field(
        default=0.0, metadata={"help": "Share of the training prompts held out where there is no --eval_dataset."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace another run in --output_dir instead of refusing."}
    )

    # The objective.
    objective: str = field(
        default="odin",
        metadata={
            "help": "odin (two heads, disentangled) or bradley_terry (the vanilla arm).",
            "choices": list(OBJECTIVES),
        },
    )
    length_weight: float | None = field(
        default=None, metadata={"help": "lambda_L of the length-correlation loss. Default 1 for odin, 0 otherwise."}
    )
    orthogonality_weight: float | None = field(
        default=None, metadata={"help": "lambda_O of the orthogonality loss. Default 1 for odin, 0 otherwise."}
    )
    length_warmup: float = field(
        default=0.0, metadata={"help": "Share of the steps over which both weights rise linearly from 0."}
    )
    length_scope: str = field(
        default="batch",
        metadata={
            "help": "Correlation over the whole batch (the paper) or of responses centred within each prompt.",
            "choices": list(LENGTH_SCOPES),
        },
    )
    normalise_heads: bool | None = field(
        default=None,
        metadata={"help": "Normalise head vectors in the forward pass. Default true for odin, else false."},
    )
    head_scale: float = field(
        default=1.0,
        metadata={"help": "Constant that multiplies normalised heads (the paper: 1); raise it for encoders."},
    )
    pooling: str = field(
        default="backbone",
        metadata={
            "help": "What the heads read: the backbone's own read-out (exportable), or the mean of the last hidden "
            "states (sentence encoders; no export).",
            "choices": list(POOLINGS),
        },
    )
    read_at: str | None = field(
        default=None,
        metadata={
            "help": "Where a text ends and the reward is read: end_of_turn (the response's end-of-turn token, where a "
            "policy stops) or end (all that the chat template writes). Default end_of_turn, or the reward model's own.",
            "choices": list(READ_AT),
        },
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the heads. Default: --learning_rate."}
    )

    # The exact batch.
    batch_pairs: int = field(default=128, metadata={"help": "Pairs per optimiser step, over all ranks."})
    max_pairs_per_prompt: int = field(
        default=8, metadata={"help": "At most this many pairs of one prompt enter one optimiser step."}
    )
    microbatch_tokens: str = field(
        default="auto",
        metadata={
            "help": "Computed tokens per forward pass and rank, or auto: as many as memory holds. Bounds memory, "
            "changes no gradient; where memory runs out it is halved and the step taken again."
        },
    )
    single_pass_tokens: int = field(
        default=0,
        metadata={
            "help": "Of this many computed tokens per step and rank the graphs of the scoring pass are kept, which "
            "saves their second forward pass. With --microbatch_tokens auto 0 means: as many as fit."
        },
    )
    batch_layout: str = field(
        default="auto",
        metadata={
            "help": "How responses share a forward pass: tree (shared prompts once, no padding), packed (no padding), "
            "padded, single (one at a time), or auto: the first of them that gives this model's own scores.",
            "choices": list(BATCH_LAYOUTS),
        },
    )
    tree_attention: str = field(
        default="auto",
        metadata={
            "help": "How tree and packed rows are attended to: segments, varlen, flex, dense, or auto.",
            "choices": list(TREE_ATTENTION),
        },
    )
    cpu_products: str = field(
        default="auto",
        metadata={
            "help": "Library that multiplies large float32 matrices on a CPU: torch's usual one (torch), onednn, or "
            "auto: the faster.",
            "choices": list(CPU_PRODUCTS),
        },
    )
    compile_layers: bool = field(
        default=False,
        metadata={"help": "Compile the backbone's layers with torch.compile, which takes a minute at the start."},
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the plan of the run (steps, tokens, memory) and end; write nothing."}
    )

    # Text.
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Longest sequence (prompt and response), in tokens. Default: 1024, or the model's positions if "
            "it has fewer."
        },
    )
    overlong: str = field(
        default="drop",
        metadata={
            "help": "What to do with longer ones: drop the pair, truncate_prompt_left, truncate_response "
            "(opt-in, cuts the end), or error.",
            "choices": list(OVERLONG),
        },
    )
    on_bad_row: str = field(
        default="error",
        metadata={
            "help": "A malformed row ends the run (error) or is counted and written to a file (skip).",
            "choices": ["error", "skip"],
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where tokenised data are cached."})
    num_proc: int | None = field(default=None, metadata={"help": "Processes for tokenisation."})

    # The backbone.
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention of transformers: sdpa, eager, flash_attention_2, ..."}
    )
    model_dtype: str = field(
        default="float32",
        metadata={
            "help": "Dtype of the trained weights; use --bf16 for mixed precision.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    lora_r: int = field(default=0, metadata={"help": "Rank of a LoRA adapter; 0 trains all weights."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale of the LoRA update (alpha / r)."})
    lora_target_modules: str | None = field(
        default=None, metadata={"help": "Comma-separated linear layers for LoRA. Default: all of the base model."}
    )

    # Other defaults than transformers': the paper's where it names one, and no network or tracker unasked.
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of the backbone."})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW weight decay; never applied to the heads."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up steps; below 1 a share of all steps."})
    logging_steps: float = field(default=1, metadata={"help": "Log every so many steps."})
    report_to: str | None = field(default="none", metadata={"help": "Trackers: none, tensorboard, wandb, trackio, ..."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for weights without a gradient in each step; none are expected."}
    )

    def __post_init__(self) -> None:
        if not self.output_dir:  # transformers would make up a folder
            raise ConfigError("is required", where="--output_dir", fix="See odin-rm reward --help.")
        refuse_idle(self, REFUSED, "odin-rm reward")
        if getattr(self, "disable_tqdm", None) is None:
            # A bar is for a person who looks at it; a log file gets the lines of figures.
            self.disable_tqdm = not sys.stderr.isatty()
        super().__post_init__()
        is_odin = self.objective == "odin"
        if self.length_weight is None:
            self.length_weight = 1.0 if is_odin else 0.0
        if self.orthogonality_weight is None:
            self.orthogonality_weight = 1.0 if is_odin else 0.0
        if self.normalise_heads is None:
            self.normalise_heads = is_odin
        self.microbatch_tokens = token_budget("microbatch_tokens", self.microbatch_tokens)  # type: ignore[assignment]
        self._check_own()

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that the objective trains."""
        return (QUALITY, LENGTH) if self.objective == "odin" else (QUALITY,)

    def trajectory(self) -> dict[str, Any]:
        """The settings that decide the weights, for comparing a checkpoint with the run that wants to go on from it."""
        return trajectory(self, MEMORY_FIELDS)

    @property
    def recomputes_activations(self) -> bool:
        """Whether activations are computed anew in the backward pass, by either of transformers' names for it."""
        return bool(getattr(self, "activation_checkpointing", None) or getattr(self, "gradient_checkpointing", None))

    @property
    def given_tokens(self) -> int | None:
        """``--microbatch_tokens`` as a number, or ``None`` for ``auto``."""
        return None if self.microbatch_tokens == "auto" else int(self.microbatch_tokens)

    def _check_own(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        one_of("length_scope", self.length_scope, LENGTH_SCOPES)
        one_of("pooling", self.pooling, POOLINGS)
        one_of("overlong", self.overlong, OVERLONG)
        if self.read_at is not None:
            one_of("read_at", self.read_at, READ_AT)
        one_of("on_bad_row", self.on_bad_row, ("error", "skip"))
        one_of("batch_layout", self.batch_layout, BATCH_LAYOUTS)
        one_of("tree_attention", self.tree_attention, TREE_ATTENTION)
        one_of("cpu_products", self.cpu_products, CPU_PRODUCTS)
        if self.torch_compile:
            fix = "Use --compile_layers, which compiles the layers one by one."
            raise ConfigError("compiles the heads away", where="--torch_compile", fix=fix)
        if self.batch_layout in ("padded", "single") and self.tree_attention != "auto":
            fix = "Use --batch_layout tree or packed, or leave it out."
            raise ConfigError("has no effect on padded batches", where="--tree_attention", fix=fix)
        for name in ("batch_pairs", "max_pairs_per_prompt"):
            at_least(name, getattr(self, name), 1)
        if self.max_length is not None:
            at_least("max_length", self.max_length, 1)
        for name in ("length_weight", "orthogonality_weight", "single_pass_tokens", "lora_r", "learning_rate"):
            at_least(name, getattr(self, name), 0)
        if self.head_learning_rate is not None:
            at_least("head_learning_rate", self.head_learning_rate, 0)
        at_least("weight_decay", self.weight_decay, 0)
        if self.max_steps <= 0 and not 0 < self.num_train_epochs < math.inf:
            raise ConfigError(f"must be positive, it is {self.num_train_epochs}", where="--num_train_epochs")
        for name in ("length_warmup", "eval_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"must be in [0, 1), it is {getattr(self, name)}", where=f"--{name}")
        if self.objective == "bradley_terry" and self.orthogonality_weight:
            raise ConfigError("needs a length head", where="--orthogonality_weight", fix="Use --objective odin.")
        if self.head_scale != 1.0 and not self.normalise_heads:
            raise ConfigError(
                "scales normalised heads only", where="--head_scale", fix="Add --normalise_heads true or leave it out."
            )
        if not 0 < self.head_scale < math.inf:
            raise ConfigError(f"must be positive, it is {self.head_scale}", where="--head_scale")
        if self.lora_r == 0 and (self.lora_target_modules is not None or self.lora_alpha != 16):
            raise ConfigError("has no effect without LoRA", where="--lora_*", fix="Give --lora_r.")


def token_budget(name: str, value: Any) -> int | str:
    """A flag's number of tokens, or ``auto``.

    Raises:
        ConfigError: it is neither a whole number of at least 1 nor ``auto``.
    """
    if value == "auto":
        return "auto"
    try:
        number = int(str(value))
    except (TypeError, ValueError):
        fix = "Give a number of tokens, or auto."
        raise ConfigError(f"must be a whole number or auto, it is {value!r}", where=f"--{name}", fix=fix) from None
    at_least(name, number, 1)
    return number
