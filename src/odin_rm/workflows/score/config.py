"""What ``odin-rm score`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.options import check_options, option
from odin_rm.core.shared_options import RowOptions, ScorerOptions
from odin_rm.workflows.score.rows import RowFields


@dataclass
class ScoreConfig(RowOptions, ScorerOptions):
    """Everything that ``odin-rm score`` takes."""

    model: str = option(
        help="Reward model: ours, or any that AutoModelForSequenceClassification loads (path or hub id)."
    )
    input: str = option(help="File of rows: .jsonl, .json, .parquet or .csv, each also .gz.")
    output: str = option(help="File to write; its suffix chooses the format.")
    prompt_field: str = option("prompt", "Field that holds the prompt.")
    response_field: str = option("response", "Field that holds the response.")
    text_field: str = option(
        "text", "Field of a text that the model's template has rendered, in rows without a response."
    )
    on_bad_row: Literal["error", "skip"] = option(
        "error", "Stop at an unusable row, or write it unscored and list it in OUTPUT.skipped.jsonl."
    )
    chunk_rows: int = option(8192, "Rows in memory at a time; they share prompts inside.", at_least=1)
    overwrite_scores: bool = option(False, "Replace quality, length_reward and response_tokens where rows have them.")
    overwrite_output: bool = option(False, "Replace an existing output file.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        check_options(self)
        self.check_layout()
        RowFields.of(self.prompt_field, self.response_field, self.text_field, self.columns)
