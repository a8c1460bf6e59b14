"""The settings of ``odin-rm retention``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import SEEDS, check_options, option


@dataclass
class RetentionConfig:
    """Everything that ``odin-rm retention`` takes."""

    models: list[str] = option(
        help="The policy before and those after: folders, run folders (also of LoRA runs) or hub ids."
    )
    output: str = option(help="Folder for retention.json, .md, .tex and the results of each task.")
    tasks: list[str] = option(
        ["mmlu", "bbh", "drop", "truthfulqa_mc2"],
        "Tasks or groups of lm-eval, with spaces or commas between; * stands for any text.",
    )
    include_path: str | None = option(None, "Folder with task files (YAML) of your own.")
    num_fewshot: int | None = option(None, "Examples in the prompt; default each task's own number.", at_least=0)
    limit: int | None = option(None, "Only the first so many questions of each task, for a trial.", at_least=1)
    apply_chat_template: bool = option(False, "Put the questions into the tokenizer's chat template.")
    batch_size: int = option(8, "Questions per forward pass (memory).", at_least=1)
    max_length: int | None = option(None, "Most tokens of a sequence; default the model's window.", at_least=2)
    seed: int = option(0, "Of the choice of examples and of what tasks draw.", at_least=0, below=SEEDS)
    dtype: Literal["float32", "bfloat16", "float16"] | None = option(None, "Precision; default float32.")
    device: str | None = option(None, "cpu, cuda, ...; default CUDA if there is one.")
    attn_implementation: str | None = option(None, "Attention of transformers: sdpa, eager, ...")
    trust_remote_code: bool = option(False, "Run code that comes with a model.")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if len(self.models) < 2:
            fix = "Give the policy before and at least one after: --models BEFORE AFTER."
            raise ConfigError(f"names {len(self.models)} model", where="--models", fix=fix)
        twice = [path for path, count in Counter(self.models).items() if count > 1]
        if twice:
            raise ConfigError(f"names {twice[0]} twice", where="--models", fix="Name each model once.")
        self.tasks = [name for words in self.tasks for name in re.split(r"[\s,]+", words) if name]
        if not self.tasks:
            raise ConfigError("names no task", where="--tasks", fix="Leave it out for mmlu, bbh, drop, truthfulqa_mc2.")
        check_options(self)
        if self.include_path is not None and not Path(self.include_path).is_dir():
            fix = "Give a folder of task files."
            raise ConfigError(f"there is no folder {self.include_path}", where="--include_path", fix=fix)
