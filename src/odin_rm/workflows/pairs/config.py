"""What ``odin-rm pairs`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odin_rm.core.options import check_options, option


@dataclass(kw_only=True)
class PairsConfig:
    """Everything that ``odin-rm pairs`` takes."""

    input: str = option(
        help="Scored responses: rows of prompt, response and score as odin-rm score writes them, or of prompt, "
        "responses and scores."
    )
    output: str = option(help="File of preferences to write; its suffix chooses the format.")
    prompt_field: str = option("prompt", "Field that holds the prompt.")
    response_field: str = option("response", "Field that holds one response.")
    score_field: str = option("quality", "Field that holds its score.")
    responses_field: str = option("responses", "Field of a list of responses, in rows without a single one.")
    scores_field: str = option("scores", "Field of their scores.")
    min_margin: float = option(
        0.0, "Only pairs whose scores differ by more than this, in units of the score.", at_least=0
    )
    on_bad_row: Literal["error", "skip"] = option("error", "Stop at an unusable row, or leave it out and count it.")
    overwrite_output: bool = option(False, "Replace an existing output file.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        check_options(self)
