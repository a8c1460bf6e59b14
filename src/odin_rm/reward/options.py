"""The settings that ``odin-rm reward`` adds to ``transformers.TrainingArguments``, without importing it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import (
    BATCH_LAYOUTS,
    CPU_PRODUCTS,
    DTYPES,
    ON_BAD_ROW,
    TREE_ATTENTION,
    check_options,
    option,
    options_of,
)
from odin_rm.core.settings import at_least, non_default_fields
from odin_rm.core.shared_options import LoraOptions, RowOptions, TrainerOptions
from odin_rm.data.dial import ANCHORS
from odin_rm.objectives.flags import GROUP, ObjectiveOptions
from odin_rm.objectives.registry import OBJECTIVES

TRAINED = ("all", "heads")
HEADS_RATE = 1e-3
"""Learning rate of heads on frozen features, by default."""
# What does nothing where the backbone is only read, and why.
_IDLE_FOR_HEADS = {
    "learning_rate": "the backbone is not trained; use --head_learning_rate",
    "weight_decay": "it is never applied to the heads",
    "lora_r": "the backbone is not trained",
    "single_pass_tokens": "no graph of the backbone is kept",
    "compile_layers": "the backbone is run once",
    "dry_run": "features are computed once and the heads train in seconds",
    "gradient_checkpointing": "no graph of the backbone is kept",
    "activation_checkpointing": "no graph of the backbone is kept",
}
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


AFTER_TRAINING = ("calibrate", "calibrate_twins")
"""They decide what is done with the finished model, and none of its weights."""


_of_objective = options_of(GROUP)
_of_batch = options_of("exact batch, speed and memory")
_of_text = options_of("text")
_of_backbone = options_of("backbone")
_of_optimiser = options_of("optimiser")
_of_dial = options_of("calibration of the finished model (docs/calibrate.md)")


@dataclass
class RewardOptions(ObjectiveOptions, RowOptions, LoraOptions, TrainerOptions):
    """Our own settings of a reward training run, and those of ``TrainingArguments`` that have other defaults here."""

    refused: ClassVar[Mapping[str, str]] = REFUSED

    model: str | None = option(
        None, "Hub id, local causal or encoder model, or a reward model saved by odin-rm (goes on from it)."
    )
    dataset: str | None = option(None, "Preference data: file, dataset folder or hub id (docs/data_formats.md).")
    eval_dataset: str | None = option(None, "Held-out preference data for --eval_strategy.")
    eval_fraction: float = option(
        0.0, "Share of the training prompts held out where there is no --eval_dataset.", at_least=0, below=1
    )
    overwrite_output_dir: bool = option(False, "Replace another run in --output instead of refusing.", flag="overwrite")
    dry_run: bool = option(False, "Print the plan of the run (steps, tokens, memory) and end; write nothing.")

    objective: str = _of_objective(
        "odin",
        f"What is trained: {', '.join(f'{name} ({spec.summary})' for name, spec in OBJECTIVES.items())}.",
        choices=tuple(OBJECTIVES),
    )
    train: str = _of_objective(
        "all",
        "What is trained: all weights, or the heads alone on the features of the frozen backbone, which are computed "
        f"once and cached. Heads have a rate of {HEADS_RATE:g} then, unless --head_learning_rate says otherwise.",
        choices=TRAINED,
    )
    normalise_heads: bool | None = _of_objective(
        None,
        "Normalise head vectors in the forward pass. Default true for "
        f"{', '.join(name for name, spec in OBJECTIVES.items() if spec.normalise_heads)}, else false.",
    )
    head_scale: float | None = _of_objective(
        None,
        "Constant that multiplies normalised heads. Default 1 (the paper); with --train heads on an encoder the one at "
        "which rewards begin with a deviation of 0.5, by the features of some responses.",
        above=0,
    )
    pooling: str = _of_objective(
        "backbone",
        "What the heads read: the backbone's own read-out (exportable), or the mean of the last hidden states "
        "(sentence encoders; no export).",
        choices=POOLINGS,
    )
    read_at: str | None = _of_objective(
        None,
        "Where a text ends and the reward is read: end_of_turn (the response's end-of-turn token, where a policy "
        "stops) or end (all that the chat template writes). Default end_of_turn, or the reward model's own.",
        choices=READ_AT,
    )

    batch_pairs: int = _of_batch(128, "Pairs per optimiser step, over all ranks.", at_least=1)
    max_pairs_per_prompt: int = _of_batch(
        8, "At most this many pairs of one prompt enter one optimiser step.", at_least=1
    )
    microbatch_tokens: str = _of_batch(
        "auto",
        "Computed tokens per forward pass and rank, or auto: as many as memory holds. Bounds memory, changes no "
        "gradient; where memory runs out it is halved and the step taken again.",
    )
    single_pass_tokens: int = _of_batch(
        0,
        "Of this many computed tokens per step and rank the graphs of the scoring pass are kept, which saves their "
        "second forward pass. With --microbatch_tokens auto 0 means: as many as fit.",
        at_least=0,
    )
    batch_layout: str = _of_batch(
        "auto",
        "How responses share a forward pass: tree (shared prompts once, no padding), packed (no padding), padded, "
        "single (one at a time), or auto: the first of them that gives this model's own scores.",
        choices=BATCH_LAYOUTS,
    )
    tree_attention: str = _of_batch(
        "auto",
        "How tree and packed rows are attended to: segments, varlen, flex, dense, or auto.",
        choices=TREE_ATTENTION,
    )
    cpu_products: str = _of_batch(
        "auto",
        "Library that multiplies large float32 matrices on a CPU: torch's usual one (torch), onednn, or auto: the "
        "faster.",
        choices=CPU_PRODUCTS,
    )
    compile_layers: bool = _of_batch(
        False, "Compile the backbone's layers with torch.compile, which takes a minute at the start."
    )

    max_length: int | None = _of_text(
        None,
        "Longest sequence (prompt and response), in tokens. Default: 1024, or the model's positions if it has fewer.",
        at_least=1,
    )
    overlong: str = _of_text(
        "drop",
        "What to do with longer ones: drop the pair, truncate_prompt_left, truncate_response (opt-in, cuts the end), "
        "or error.",
        choices=OVERLONG,
    )
    on_bad_row: str = _of_text(
        "error", "A malformed row ends the run (error) or is counted and written to a file (skip).", choices=ON_BAD_ROW
    )
    cache_dir: str | None = _of_text(None, "Where tokenised data are cached.")
    num_proc: int | None = _of_text(None, "Processes for tokenisation.")

    attn_implementation: str | None = _of_backbone(
        None, "Attention of transformers: sdpa, eager, flash_attention_2, ..."
    )
    model_dtype: str = _of_backbone(
        "float32", "Dtype of the trained weights; use --bf16 for mixed precision.", choices=DTYPES, flag="dtype"
    )
    trust_remote_code: bool = _of_backbone(False, "Run code that comes with the model.")

    # Other defaults than transformers': the paper's where it names one.
    learning_rate: float = _of_optimiser(1e-5, "Peak learning rate of the backbone.", at_least=0)
    head_learning_rate: float | None = _of_optimiser(
        None, "Learning rate of the heads. Default: --learning_rate.", at_least=0
    )
    weight_decay: float = _of_optimiser(0.0, "AdamW weight decay; never applied to the heads.", at_least=0)
    lr_scheduler_type: str = _of_optimiser("cosine", "Schedule of the learning rate.")
    warmup_steps: float = _of_optimiser(0.03, "Warm-up steps; below 1 a share of all steps.")

    calibrate: str | None = _of_dial(
        None,
        "Fit the dial at the end by this anchor, on --eval_dataset or else on all rows of --dataset; it is stored with "
        "the model.",
        choices=ANCHORS,
    )
    calibrate_twins: str | None = _of_dial(
        None, "Rows of prompt, shorter, longer for --calibrate twins or interventions."
    )

    def check_own(self) -> None:
        """Refuse what cannot work or would do nothing.

        Raises:
            ConfigError: with the flag and how to mend it.
        """
        check_options(self)
        if getattr(self, "torch_compile", False):
            fix = "Use --compile_layers, which compiles the layers one by one."
            raise ConfigError("compiles the heads away", where="--torch_compile", fix=fix)
        if self.batch_layout in ("padded", "single") and self.tree_attention != "auto":
            fix = "Use --batch_layout tree or packed, or leave it out."
            raise ConfigError("has no effect on padded batches", where="--tree_attention", fix=fix)
        if self.max_steps <= 0 and not 0 < self.num_train_epochs < math.inf:
            raise ConfigError(f"must be positive, it is {self.num_train_epochs}", where="--num_train_epochs")
        if self.head_scale not in (None, 1.0) and not self.normalise_heads:
            raise ConfigError(
                "scales normalised heads only", where="--head_scale", fix="Add --normalise_heads true or leave it out."
            )
        self.check_lora()
        if self.calibrate_twins is not None and self.calibrate not in ("twins", "interventions"):
            fix = "Add --calibrate twins, or leave it out."
            raise ConfigError("has no effect without --calibrate twins", where="--calibrate_twins", fix=fix)
        if self.calibrate == "twins" and self.calibrate_twins is None:
            fix = "Give --calibrate_twins F, or --calibrate interventions, which needs no file."
            raise ConfigError("needs twins", where="--calibrate twins", fix=fix)
        if self.train == "heads":
            self._check_heads_alone()

    def _check_heads_alone(self) -> None:
        """Refuse what would do nothing where the backbone is frozen, and settle the heads' rate."""
        # transformers turns some of its own defaults into others that mean the same: off.
        for name in filter(lambda one: getattr(self, one), non_default_fields(self, _IDLE_FOR_HEADS)):
            why = _IDLE_FOR_HEADS[name]
            raise ConfigError("has no effect with --train heads", where=f"--{name}", fix=f"{why[0].upper()}{why[1:]}.")
        if self.objective == "dir" and vars(self)["information_of"] == "feature":
            what = "has no gradient in heads on frozen features"
            raise ConfigError(what, where="--objective dir", fix="Add --information_of reward, or leave --train out.")
        if getattr(self, "world_size", 1) > 1 or getattr(self, "fsdp", None) or getattr(self, "deepspeed", None):
            fix = "Start one process without --fsdp and --deepspeed."
            raise ConfigError("runs in one process", where="--train heads", fix=fix)
        if self.head_learning_rate is None:
            self.head_learning_rate = HEADS_RATE


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
