"""What ``odin-rm probe`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.options import check_options, option, resamples_option
from odin_rm.core.shared_options import ScorerOptions


@dataclass
class ProbeConfig(ScorerOptions):
    """Everything that ``odin-rm probe`` takes."""

    model: str = option(
        help="Reward model: ours, or any that AutoModelForSequenceClassification loads (path or hub id)."
    )
    dataset: str = option(help="Rows to edit: preference data, or rows of prompt and response (docs/probe.md).")
    output: str = option(help="Folder for probe.json and report.html.")
    pairs: str | None = option(
        None,
        "Pairs of your own: rows of prompt with shorter and longer, or with original and edited (edit names them).",
    )
    edits: list[str] = option([], "Which edits to make; default all (docs/probe.md lists them).")
    columns: list[str] = option([], "Names of the dataset's fields, each new=theirs.")
    responses: int = option(
        400, "Most responses to edit; whole rows drawn by --seed. Each costs one score per edit.", at_least=2
    )
    on_bad_row: Literal["error", "skip"] = option("error", "Stop at an unusable row, or leave it out and count it.")
    bootstrap_samples: int = resamples_option()
    seed: int = option(0, "Of the rows drawn and of the resamples.", at_least=0)
    overwrite_output: bool = option(False, "Replace an earlier output folder.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        check_options(self)
        self.check_layout()
