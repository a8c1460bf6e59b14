"""The settings that ``odin-rm sft`` and ``odin-rm dpo`` add to TRL's configs, without importing TRL."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import DTYPES, ON_BAD_ROW, check_options, option, options_of
from odin_rm.core.settings import one_of, refuse_idle
from odin_rm.core.shared_options import LoraOptions, RowOptions, TrainerOptions
from odin_rm.core.trackers import BY_TRANSFORMERS, check_trackers
from odin_rm.core.training_bounds import check_training_numbers

# Fields of TRL's and transformers' arguments that would do nothing here, and what to do instead.
REFUSED = {
    "batch_eval_metrics": "evaluation measures the loss",
    "dataset_num_proc": "texts are tokenised before TRL sees them",
    "do_eval": "give --eval_dataset and --eval_strategy",
    "do_predict": "use odin-rm generate",
    "do_train": "the command trains",
    "hub_always_push": "upload the policy folder when it is written",
    "hub_model_id": "upload the policy folder when it is written",
    "hub_private_repo": "upload the policy folder when it is written",
    "hub_revision": "upload the policy folder when it is written",
    "hub_strategy": "upload the policy folder when it is written",
    "include_for_metrics": "evaluation measures the loss",
    "label_names": "the rows have no label column",
    "label_smoothing_factor": "TRL gives it up, for it needs all logits",
    "length_column_name": "lengths are known from tokenisation",
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
    "model_init_kwargs": "use --dtype, --attn_implementation and --trust_remote_code",
    "pad_token": "it is the tokenizer's",
    "padding_free": "set a smaller --per_device_train_batch_size, or --train_sampling_strategy group_by_length",
    "push_to_hub": "upload the policy folder when it is written",
    "remove_unused_columns": "columns are chosen by the reader",
    "truncation_mode": "a policy that sees cut responses does not learn to end; see --overlong",
    "use_liger_kernel": "TRL has its own kernel for the loss",
}


SFT_REFUSED = REFUSED | {
    "assistant_only_loss": "the loss is taken of the response and its end token",
    "chat_template_path": "use --chat_template",
    "completion_only_loss": "the loss is taken of the response and its end token",
    "dataset_kwargs": "rows are read by odin-rm",
    "dataset_text_field": "rows have 'prompt' and 'response' (or 'chosen')",
    "eos_token": "it is the tokenizer's",
    "eval_packing": "rows are not packed",
    "packing": "packed responses see each other without a special attention kernel",
    "packing_strategy": "rows are not packed",
    "shuffle_dataset": "rows are shuffled each epoch by --seed",
}


_FIXED = "the reference is the model that the run starts from"
DPO_REFUSED = REFUSED | {
    "disable_dropout": "dropout is off, as in every policy stage",
    "precompute_ref_batch_size": "reference log-probs are computed in each step",
    "precompute_ref_log_probs": "reference log-probs are computed in each step; with --lora_r they take no memory",
    "ref_model_mixup_alpha": _FIXED,
    "ref_model_sync_steps": _FIXED,
    "sync_ref_model": _FIXED,
}


_of_text = options_of("text")
_of_batch = options_of("batches and memory")
_of_policy = options_of("policy")
_of_optimiser = options_of("optimiser")


DPO_LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass
class PolicyTrainingFields(RowOptions, LoraOptions, TrainerOptions):
    """Our fields of both commands; the base class beside it is TRL's config, whose fields keep their names."""

    command: ClassVar[str]
    refused: ClassVar[Mapping[str, str]]
    words: ClassVar[Mapping[str, tuple[str, ...]]]
    """What TRL's settings that are texts may say; it looks at some of them in the first step only."""

    model: str | None = option(None, "The policy to start from: hub id or local causal model.")
    dataset: str | None = option(None, "Training rows: file, dataset folder or hub id (docs/data_formats.md).")
    eval_dataset: str | None = option(None, "Held-out rows for --eval_strategy.")
    overwrite_output_dir: bool = option(False, "Replace another run in --output instead of refusing.", flag="overwrite")

    max_length: int | None = _of_text(
        None, "Most tokens of prompt and response. Default: 1024, or the model's positions if it has fewer.", at_least=2
    )
    overlong: str = _of_text(
        "drop", "A longer row is left out and counted (drop), or an error.", choices=("drop", "error")
    )
    on_bad_row: str = _of_text(
        "error", "A malformed row ends the run (error) or is counted and written to a file (skip).", choices=ON_BAD_ROW
    )
    chat_template: str | None = _of_text(None, "Jinja template, or 'plain'; default the policy tokenizer's own.")

    per_device_train_batch_size: int = _of_batch(8, "Rows per forward pass and process.")
    gradient_accumulation_steps: int = _of_batch(1, "Forward passes per optimiser step.")

    model_dtype: str = _of_policy(
        "float32", "Dtype of the trained weights; use --bf16 for mixed precision.", choices=DTYPES, flag="dtype"
    )
    attn_implementation: str | None = _of_policy(None, "Attention of transformers: sdpa, eager, flash_attention_2, ...")

    logging_nan_inf_filter: bool = option(False, "Refused: a loss that is not finite ends the run.")

    def check(self) -> None:
        """Refuse what has no effect or cannot work; before the base class looks at the fields.

        Raises:
            ConfigError: with the flag and how to mend it.
        """
        if not self.output_dir:  # transformers would make up a folder
            raise ConfigError("is required", where="--output", fix=f"See odin-rm {self.command} --help.")
        refuse_idle(self, self.refused, f"odin-rm {self.command}")
        check_options(self)
        check_training_numbers(self)
        for name, known in self.words.items():
            given = getattr(self, name, known[0])
            for word in given if isinstance(given, list) else [given]:
                if word is not None:  # TRL's own choice
                    one_of(name, word, known)
        self.check_lora()
        best = getattr(self, "metric_for_best_model", None)
        if best is not None:
            one_of("metric_for_best_model", best.removeprefix("eval_"), ("loss",))
        self.report_to = check_trackers(self.report_to, (*BY_TRANSFORMERS, "all")) or "none"  # type: ignore[assignment]
        if getattr(self, "disable_tqdm", None) is None:
            self.disable_tqdm = not sys.stderr.isatty()  # a bar is for a person who looks at it


@dataclass
class SFTOptions(PolicyTrainingFields):
    """What ``odin-rm sft`` adds."""

    command: ClassVar[str] = "sft"
    refused: ClassVar[Mapping[str, str]] = SFT_REFUSED
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {"loss_type": ("nll", "dft")}

    learning_rate: float = _of_optimiser(2e-5, "Peak learning rate.")


@dataclass
class DPOOptions(PolicyTrainingFields):
    """What ``odin-rm dpo`` adds."""

    command: ClassVar[str] = "dpo"
    refused: ClassVar[Mapping[str, str]] = DPO_REFUSED
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {"loss_type": DPO_LOSSES, "f_divergence_type": DIVERGENCES}

    beta: float = option(0.1, "Strength of the pull towards the model that the run starts from.")
    learning_rate: float = _of_optimiser(1e-6, "Peak learning rate.")
