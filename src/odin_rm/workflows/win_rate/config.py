"""The settings of ``odin-rm win-rate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import SEEDS, check_options, option, resamples_option
from odin_rm.results.preference_codes import preference_codes

CONTROLS = ("length", "headers", "lists", "bold", "markdown")


@dataclass
class WinRateConfig:
    """Everything that ``odin-rm win-rate`` takes."""

    annotations: list[str] = option(
        help="Annotation files or folders of them: AlpacaEval's, or the output of odin-rm judge."
    )
    output: str = option(help="JSON file to write.")
    tokenizer: str | None = option(None, "Tokenizer (path or hub id) that counts tokens; default words are counted.")
    length_unit: Literal["characters", "tokens"] = option(
        "characters", "What length control goes by; AlpacaEval goes by characters."
    )
    difficulty: str | None = option(
        None, "Known prompt difficulty, rows of instruction and difficulty: fills lc_win_rate.difficulty."
    )
    prompts: Literal["same", "shared"] = option(
        "same", "Refuse systems that were judged on different prompts, or keep the prompts of all of them."
    )
    on_bad_row: Literal["error", "skip"] = option(
        "error", "Stop at rows without preference, empty outputs and the like, or leave out and count them."
    )
    preference_codes: list[str] | None = option(
        None, "How the files write a win of output_1, of output_2 and a tie, as in 0 1 0.5 or A B tie; default 1 2 1.5."
    )
    style_control: list[str] = option(
        [], "Hold style equal: length, headers, lists, bold, markdown (the last three); LMArena's regression."
    )
    ratings: bool = option(False, "Also ratings of all models from their battles, controlled with --style_control.")
    style_form: Literal["lmarena", "arena-hard", "arena-hard-counts"] | None = option(
        None, "Whose regression; default arena-hard for Arena-Hard's judgements, else lmarena (docs/win_rate.md)."
    )
    battle_baseline: str | None = option(
        None, "With battles of LMArena or Arena-Hard: the model that win rates are against."
    )
    answers: list[str] = option([], "Arena-Hard's answers, which hold the counts that style control needs.")
    per_prompt: bool = option(
        False, "Also write each prompt's preference and lengths, from which odin-rm pareto resamples."
    )
    bootstrap_samples: int = resamples_option()
    seed: int = option(0, "Of the resamples and of the permutation tests.", at_least=0, below=SEEDS)
    trust_remote_code: bool = option(False, "Run code that comes with a tokenizer.")
    overwrite_output: bool = option(False, "Replace an existing output file.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if not self.annotations:
            raise ConfigError("names no file", where="--annotations", fix="Give files or folders of annotations.")
        unknown = [name for name in self.style_control if name not in CONTROLS]
        if unknown:
            fix = f"Use {', '.join(CONTROLS)}."
            raise ConfigError(f"there is no control '{unknown[0]}'", where="--style_control", fix=fix)
        check_options(self)
        preference_codes(self.preference_codes)
