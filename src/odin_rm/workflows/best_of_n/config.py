"""What ``odin-rm best-of-n`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option, resamples_option
from odin_rm.core.shared_options import ScorerOptions


@dataclass
class BestOfNConfig(ScorerOptions):
    """Everything that ``odin-rm best-of-n`` takes."""

    output: str = option(help="Folder for best_of_n.json, chosen.jsonl, pairs.jsonl and report.html.", required=True)
    scores: str | None = option(None, "Stored scores of many responses per prompt (docs/audit.md has the forms).")
    model: str | None = option(None, "In place of --scores: the reward model that chooses; with --input.")
    input: str | None = option(None, "Responses for --model: rows of prompt and response, or of prompt and responses.")
    n: list[int] = option([], "How many responses are drawn; default powers of two that the file allows, up to 64.")
    columns: list[str] = option([], "Names of fields, each new=theirs, as in score=rating.")
    attributes: list[str] = option([], "Whose means are followed: names, column:NAME, module:function; default all.")
    on_bad_row: Literal["error", "skip"] = option("error", "Stop at an unusable row, or leave it out and count it.")
    bootstrap_samples: int = resamples_option()
    seed: int = option(0, "Of the resamples.", at_least=0)
    overwrite_output: bool = option(False, "Replace an earlier output folder.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if (self.scores is None) == (self.model is None):
            raise ConfigError("give either --scores or --model", fix="Give one of the two.")
        if (self.model is None) != (self.input is None):
            missing = "--input" if self.input is None else "--model"
            raise ConfigError("is missing", where=missing, fix="--model and --input go together.")
        if self.scores is not None:
            self.check_no_calibration()
        if any(n < 1 for n in self.n) or len(set(self.n)) < len(self.n):
            raise ConfigError("must be different numbers of at least 1", where="--n", fix="Write --n 1 2 4 8.")
        self.n = sorted(self.n)
        check_options(self)
        self.check_layout()
