"""What ``odin-rm benchmark`` takes."""

from __future__ import annotations

from dataclasses import dataclass

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option, resamples_option
from odin_rm.core.shared_options import ScorerOptions

NAMES = ("judgebench", "rm-bench", "evalbiasbench", "llmbar", "rewardbench", "rewardbench2", "ppe", "rmb")


@dataclass
class BenchmarkConfig(ScorerOptions):
    """Everything that ``odin-rm benchmark`` takes."""

    name: str = option(help="Which benchmark.", choices=NAMES, positional=True)
    path: str = option(help="Its published file, or a folder of them.")
    output: str = option(help="JSON file to write.")
    model: str | None = option(
        None, "Reward model: ours, or any that AutoModelForSequenceClassification loads (path or hub id)."
    )
    scores: str | None = option(
        None, "In place of a model: rows of the benchmark's id, response (its label, or the text) and score."
    )
    columns: list[str] = option([], "With --scores: names of fields, each new=theirs.")
    attributes: list[str] = option([], "What to hold the reward against; default 20 (docs/audit.md).")
    bootstrap_samples: int = resamples_option()
    seed: int = option(0, "Of the resamples.", at_least=0)
    overwrite_output: bool = option(False, "Replace an existing output file.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        if (self.scores is None) == (self.model is None):
            raise ConfigError("give either --scores or --model", fix="Give one of the two.")
        if self.scores is not None:
            self.check_no_calibration()
        if self.columns and self.scores is None:
            raise ConfigError("has no effect without --scores", where="--columns", fix="Leave it out.")
        check_options(self)
        self.check_layout()
