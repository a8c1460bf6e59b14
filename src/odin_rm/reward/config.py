"""Settings of a reward training run: our fields on top of ``transformers.TrainingArguments``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments

from odin_rm.core.errors import ConfigError
from odin_rm.core.settings import refuse_idle, trajectory
from odin_rm.core.trackers import BY_TRANSFORMERS, check_trackers
from odin_rm.core.training_bounds import check_training_numbers
from odin_rm.objectives.flags import foreign_options, objective_settings, settle_objective
from odin_rm.objectives.registry import OBJECTIVES
from odin_rm.reward.options import AFTER_TRAINING, MEMORY_FIELDS, REFUSED, RewardOptions, token_budget


@dataclass
class RewardConfig(RewardOptions, TrainingArguments):
    """Everything that ``odin-rm reward`` takes; fields of ``TrainingArguments`` keep their names and meaning."""

    def __post_init__(self) -> None:
        if not self.output_dir:  # transformers would make up a folder
            raise ConfigError("is required", where="--output", fix="See odin-rm reward --help.")
        refuse_idle(self, REFUSED, "odin-rm reward")
        self.report_to = check_trackers(self.report_to, (*BY_TRANSFORMERS, "all")) or "none"  # type: ignore[assignment]
        check_training_numbers(self)
        if getattr(self, "disable_tqdm", None) is None:
            # A bar is for a person who looks at it; a log file gets the lines of figures.
            self.disable_tqdm = not sys.stderr.isatty()
        super().__post_init__()
        spec = settle_objective(self)
        if self.normalise_heads is None:
            self.normalise_heads = spec.normalise_heads
        self.microbatch_tokens = token_budget("microbatch_tokens", self.microbatch_tokens)  # type: ignore[assignment]
        self.check_own()

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that the objective trains."""
        return OBJECTIVES[self.objective].heads

    @property
    def objective_settings(self) -> Any:
        """The settings record of the objective."""
        return objective_settings(self)

    def trajectory(self) -> dict[str, Any]:
        """The settings that decide the weights, for comparing a checkpoint with the run that wants to go on from it."""
        return trajectory(self, (*MEMORY_FIELDS, *AFTER_TRAINING, *foreign_options(self.objective)))

    @property
    def recomputes_activations(self) -> bool:
        """Whether activations are computed anew in the backward pass, by either of transformers' names for it."""
        return bool(getattr(self, "activation_checkpointing", None) or getattr(self, "gradient_checkpointing", None))

    @property
    def optimiser(self) -> str:
        """``--optim`` by its name."""
        return str(getattr(self.optim, "value", self.optim))

    @property
    def given_tokens(self) -> int | None:
        """``--microbatch_tokens`` as a number, or ``None`` for ``auto``."""
        return None if self.microbatch_tokens == "auto" else int(self.microbatch_tokens)
