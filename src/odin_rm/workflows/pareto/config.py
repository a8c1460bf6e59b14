"""The settings of ``odin-rm pareto``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import SEEDS, check_options, option, resamples_option

HEADS, MAIN = "heads", "main"
RECIPE_NAMES = (MAIN, "kl", "epsilon", "experience_size", "clip", "length_penalty", HEADS)


@dataclass
class ParetoConfig:
    """Everything that ``odin-rm pareto`` takes."""

    output: str = option(help="Folder for pareto.json, the figures and the tables.")
    runs: list[str] = option(
        [],
        "Files, folders or patterns in any mixture: judged outputs, annotation files, win-rate's output, "
        "rl run folders, sweeps, summary.json of the testbed, tables.",
    )
    x: Literal["tokens", "characters"] = option("tokens", "Unit of the mean length.")
    y: Literal["win_score", "win_rate", "true_quality", "quality"] = option(
        "win_score", "The score; quality is the mean reward of training runs."
    )
    arm: list[str] = option([], "Settings or columns that tell arms apart; default the reward with its mitigations.")
    arm_pattern: str = option("", "Instead: a regular expression whose first group in a run's name is its arm.")
    only: list[str] = option([], "Only these arms, in this order.")
    mark: list[str] = option([], "Arms whose runs are shown as single policies, without a front.")
    recipe: list[str] = option([MAIN], f"Figures to draw: {', '.join(RECIPE_NAMES)}.")
    panel: str | None = option(None, "What a recipe's panel is for: arm, algorithm or a setting. Default arm.")
    scored: list[str] = option([], "For --recipe heads: outputs of odin-rm score, or audit folders.")
    matched_length: list[float] = option([], "Lengths at which scores are compared; default three common ones.")
    grid: int = option(50, "Lengths of the bands and of the dominance.", at_least=2)
    reference_length: float | None = option(
        None, "Of the hypervolume's reference point. Default: a tenth of the range beyond all runs.", above=0
    )
    reference_score: float | None = option(
        None, "Of the hypervolume's reference point. Default: a tenth of the range below all runs.", finite=True
    )
    resample: Literal["auto", "prompts", "runs", "seeds"] = option(
        "auto", "What intervals resample; auto: prompts where all runs are known by prompt, else runs."
    )
    prompts: Literal["same", "shared"] = option(
        "same", "Refuse runs that were judged on different prompts, or keep the prompts of all of them."
    )
    on_bad_row: Literal["error", "skip"] = option(
        "error", "Stop at judgements without preference and the like, or leave them out."
    )
    tokenizer: str | None = option(None, "Tokenizer (path or hub id) for texts; default words are counted.")
    trust_remote_code: bool = option(False, "Run code that comes with a tokenizer.")
    bootstrap_samples: int = resamples_option(2000)
    seed: int = option(0, "Of the resamples.", at_least=0, below=SEEDS)
    overwrite_output_dir: bool = option(False, "Replace earlier fronts in the folder.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        for name in self.recipe:
            if name not in RECIPE_NAMES:
                raise ConfigError(f"is '{name}'", where="--recipe", fix=f"Use some of: {', '.join(RECIPE_NAMES)}.")
        if (HEADS in self.recipe) != bool(self.scored):
            what, where = (
                ("needs --scored", "--recipe heads") if not self.scored else ("needs --recipe heads", "--scored")
            )
            raise ConfigError(what, where=where, fix="Give both: --recipe heads --scored scored.jsonl.")
        if not self.runs and set(self.recipe) != {HEADS}:
            raise ConfigError("names no run", where="--runs", fix="Give folders, files or patterns.")
        if self.arm and self.arm_pattern:
            raise ConfigError("are given both", where="--arm and --arm_pattern", fix="Give one of them.")
        try:
            re.compile(self.arm_pattern)
        except re.error as error:
            fix = "Escape what is no pattern."
            raise ConfigError(f"is no regular expression ({error})", where="--arm_pattern", fix=fix) from error
        check_options(self)
        if any(not 0 < length < float("inf") for length in self.matched_length):
            raise ConfigError("a length is not above 0", where="--matched_length", fix="Give positive numbers.")
