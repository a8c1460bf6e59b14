"""Settings that several commands have, described once: dataclasses to inherit from."""

from __future__ import annotations

from dataclasses import dataclass

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import option, options_of

_of_lora = options_of("LoRA")
_of_length = options_of("length of the run")
_of_evaluation = options_of("evaluation, logs and checkpoints")
_of_device = options_of("device and precision")


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

    output_dir: str = option(None, "The run folder.")
    resume_from_checkpoint: str | None = option(None, "'true' for the newest checkpoint of the run, or a path.")
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
    use_cpu: bool = _of_device(False, "Stay on the CPU where there is an accelerator.")
    # Ours: no weights without a gradient are expected.
    ddp_find_unused_parameters: bool | None = _of_device(
        False, "Search for weights without a gradient in each step; none are expected."
    )
