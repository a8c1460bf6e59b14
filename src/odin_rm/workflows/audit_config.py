"""The settings of ``odin-rm audit``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option


@dataclass
class AuditConfig:
    """Everything that ``odin-rm audit`` takes."""

    output: str = option(help="Folder for audit.json, the figures and report.html.", required=True)
    model: str | None = option(
        None, "Reward model: ours, or any that AutoModelForSequenceClassification loads (path or hub id)."
    )
    dataset: str | None = option(None, "Preference data: file, dataset folder or hub id (docs/data_formats.md).")
    compare: list[str] = option([], "Further models to show beside it: model folders, hub ids, or earlier audits.")
    column: str | None = option(None, "Label (name or index) to audit of classifiers with several labels.")
    twins: str | None = option(
        None, "Verbosity twins: rows of prompt, shorter, longer; how often does the wordier one win?"
    )
    length_unit: Literal["tokens", "characters", "words"] = option(
        "tokens", "What length is measured in; tokens are the model's own."
    )
    max_length: int | None = option(None, "Most tokens of a sequence; default the model's own setting, or its window.")
    overlong: Literal["drop", "truncate_prompt_left", "truncate_response", "error"] | None = option(
        None, "What to do with longer ones; default the model's own setting, or drop."
    )
    read_at: str | None = option(
        None, "end or before_pad: where a model of an earlier odin-rm that does not say it was read."
    )
    on_bad_row: Literal["error", "skip"] = option("error", "Stop at an unusable row, or leave it out and count it.")
    microbatch_tokens: int = option(16384, "Computed tokens per forward pass (memory).", at_least=1)
    batch_layout: Literal["auto", "tree", "packed", "padded", "single"] = option(
        "auto",
        "How responses share a forward pass: tree (shared prompts once), packed (no padding), padded, "
        "single (one at a time), or auto: the first of them that gives the model's own scores.",
    )
    tree_attention: Literal["auto", "segments", "varlen", "flex", "dense"] = option(
        "auto", "Attention of tree and packed rows."
    )
    bootstrap_samples: int = option(1000, "Resamples of the intervals, at least 2.", at_least=2)
    seed: int = option(0, "Of the resamples and of the cross-validation folds.")
    torch_dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        None, "Precision of the model; default float32."
    )
    attn_implementation: str | None = option(None, "Attention of transformers: eager, sdpa, flash_attention_2, ...")
    device: str | None = option(None, "cpu, cuda, cuda:1, ...; default CUDA if there is one.")
    trust_remote_code: bool = option(False, "Run code that comes with a model.")
    overwrite_output_dir: bool = option(False, "Replace an earlier audit in the folder.")

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        if self.model is None and not self.compare:
            raise ConfigError("there is no model to audit", where="--model", fix="Give --model, or --compare A B ...")
        scored = [self.model, *self.compare] if self.model else list(self.compare)
        if self.dataset is None and any(earlier_audit(str(place)) is None for place in scored):
            raise ConfigError("is missing", where="--dataset", fix="Give a file, dataset folder or hub id.")
        check_options(self)
        if self.batch_layout in ("padded", "single") and self.tree_attention != "auto":
            what = "has no effect on padded batches"
            raise ConfigError(what, where="--tree_attention", fix="Choose another --batch_layout, or leave it out.")


def earlier_audit(place: str) -> Path | None:
    """The ``audit.json`` that ``place`` names: the file itself or an audit's folder; ``None`` where it is a model."""
    path = Path(place)
    if path.suffix == ".json" and (path.is_file() or not path.exists()):
        return path
    is_model = (path / "config.json").exists() or (path / "model").exists() or (path / "adapter_config.json").exists()
    return path / "audit.json" if (path / "audit.json").is_file() and not is_model else None
