"""What ``odin-rm calibrate`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import SEEDS, check_options, option, resamples_option
from odin_rm.core.shared_options import RowOptions, ScorerOptions
from odin_rm.data.dial import ANCHORS

PAIRED = ("interventions", "twins")
"""Anchors that compare two responses which say the same."""


@dataclass
class CalibrateConfig(RowOptions, ScorerOptions):
    """Everything that ``odin-rm calibrate`` takes."""

    anchor: str = option(
        None,
        "What says how much of the curve to take off: interventions or twins (each side wins half), writers (no "
        "correlation given prompt and writer), or zero (all of it).",
        choices=ANCHORS,
        required=True,
    )
    model: str | None = option(
        None, "Reward model: ours, or any that AutoModelForSequenceClassification loads (path or hub id)."
    )
    scores: str | None = option(
        None, "In place of a model: stored scores of several responses per prompt (docs/audit.md has the forms)."
    )
    dataset: str | None = option(
        None, "With --model: responses of your domain, several per prompt, labelled or not (docs/calibrate.md)."
    )
    output: str | None = option(
        None, "Folder for calibration.json; default the model's own, where every command that scores finds it."
    )
    twins: str | None = option(
        None,
        "Pairs that say the same: rows of prompt with shorter and longer, or with original and edited. With --scores "
        "stored scores of such responses, every two of a prompt a pair.",
    )
    attributes: list[str] = option(
        [], "What the curve is of: names, column:NAME (--scores), module:function; default response_tokens."
    )
    edits: list[str] = option([], "With interventions: which edits; default those that change the attributes.")
    responses: int = option(
        400, "With interventions: most responses to edit, drawn by --seed. Each costs one score per edit.", at_least=2
    )
    fold: bool = option(
        False,
        "Write a stock model to --output, from whose head the mean effect of the edits or twins on the features is "
        "taken out. It needs no lengths.",
    )
    on_bad_row: Literal["error", "skip"] = option("error", "Stop at an unusable row, or leave it out and count it.")
    bootstrap_samples: int = resamples_option()
    seed: int = option(0, "Of the halves, the edited rows and the resamples.", at_least=0, below=SEEDS)
    overwrite_output: bool = option(False, "Replace an earlier calibration.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is read."""
        check_options(self)
        self.check_layout()
        if (self.scores is None) == (self.model is None):
            raise ConfigError("give either --scores or --model", fix="Give one of the two.")
        if self.calibration is not None:
            what = "has no effect: a calibration is fitted to the model's own scores"
            raise ConfigError(what, where="--calibration", fix="Leave it out.")
        if self.scores is not None:
            self._check_scores()
        else:
            self._check_model()
        if self.edits and self.anchor != "interventions":
            raise ConfigError("has no effect without --anchor interventions", where="--edits", fix="Leave it out.")
        if self.twins is not None and self.anchor not in PAIRED:
            raise ConfigError(f"has no effect with --anchor {self.anchor}", where="--twins", fix="Leave it out.")

    def _check_scores(self) -> None:
        if self.dataset is not None:
            what = "does not go with --scores, which bring their own rows"
            raise ConfigError(what, where="--dataset", fix="Leave it out.")
        if self.fold:
            raise ConfigError("needs a model", where="--fold", fix="Give --model and --dataset.")
        if self.output is None:
            raise ConfigError("is missing", where="--output", fix="Give a folder.")
        if self.anchor in PAIRED and self.twins is None:
            fix = "Give --twins F with scores of both sides, or --anchor writers or zero."
            raise ConfigError(f"--anchor {self.anchor} needs scored pairs", where="--twins", fix=fix)

    def _check_model(self) -> None:
        if self.dataset is None:
            raise ConfigError("is missing", where="--dataset", fix="Give responses of your domain.")
        if self.fold and self.anchor not in PAIRED:
            fix = "Use --anchor interventions or twins."
            raise ConfigError("needs pairs whose difference is taken out", where="--fold", fix=fix)
        if self.fold and self.output is None:
            raise ConfigError("is missing", where="--output", fix="Give the folder of the new model.")
        if self.output is None and not Path(str(self.model)).is_dir():
            raise ConfigError(
                "is missing", where="--output", fix="Give a folder: the model is not one of this machine."
            )
        for name in self.attributes:
            if name.startswith("column:"):
                what = f"'{name}' is a number of the rows, and new responses come without rows"
                raise ConfigError(what, where="--attributes", fix="Name an attribute of the text, or a function.")
