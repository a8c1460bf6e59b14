"""The settings of ``odin-rm audit``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import SEEDS, check_options, option, resamples_option
from odin_rm.core.shared_options import RowOptions, ScorerOptions


@dataclass
class AuditConfig(RowOptions, ScorerOptions):
    """Everything that ``odin-rm audit`` takes."""

    output: str = option(help="Folder for audit.json, the figures and report.html.", required=True)
    model: str | None = option(
        None, "Reward model: ours, or any that AutoModelForSequenceClassification loads (path or hub id)."
    )
    dataset: str | None = option(None, "Preference data: file, dataset folder or hub id (docs/data_formats.md).")
    scores: str | None = option(
        None, "Scores that somebody stored, in place of a model: pairs, lists or single responses (docs/audit.md)."
    )
    attributes: list[str] = option(
        [], "What to hold the reward against: names, column:NAME, module:function; default 20 of them (docs/audit.md)."
    )
    compare: list[str] = option([], "Further models to show beside it: model folders, hub ids, or earlier audits.")
    twins: str | None = option(
        None, "Verbosity twins: rows of prompt, shorter, longer; how often does the wordier one win?"
    )
    length_unit: Literal["tokens", "characters", "words"] = option(
        "tokens", "What length is measured in; tokens are the model's own."
    )
    on_bad_row: Literal["error", "skip"] = option("error", "Stop at an unusable row, or leave it out and count it.")
    bootstrap_samples: int = resamples_option()
    seed: int = option(0, "Of the resamples and of the cross-validation folds.", at_least=0, below=SEEDS)
    overwrite_output_dir: bool = option(False, "Replace an earlier audit in the folder.", flag="overwrite")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        if self.scores is not None:
            self._check_scores()
            return
        if self.model is None and not self.compare:
            fix = "Give --model, --compare A B ..., or --scores F."
            raise ConfigError("there is no model to audit", where="--model", fix=fix)
        scored = [self.model, *self.compare] if self.model else list(self.compare)
        if self.dataset is None and any(earlier_audit(str(place)) is None for place in scored):
            raise ConfigError("is missing", where="--dataset", fix="Give a file, dataset folder or hub id.")
        check_options(self)
        self.check_layout()

    def _check_scores(self) -> None:
        """Stored scores are audited alone."""
        for name in ("model", "compare", "dataset", "twins"):
            if getattr(self, name):
                what = "does not go with --scores, which needs no model and brings its own rows"
                raise ConfigError(what, where=f"--{name}", fix="Leave one of them out.")
        self.check_no_calibration()
        check_options(self)


def earlier_audit(place: str) -> Path | None:
    """The ``audit.json`` that ``place`` names: the file itself or an audit's folder; ``None`` where it is a model."""
    path = Path(place)
    if path.suffix == ".json" and (path.is_file() or not path.exists()):
        return path
    is_model = (path / "config.json").exists() or (path / "model").exists() or (path / "adapter_config.json").exists()
    return path / "audit.json" if (path / "audit.json").is_file() and not is_model else None
