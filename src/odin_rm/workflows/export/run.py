"""Exporting the quality head as a stock one-label classifier, with the parity of scores proved on texts first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import OutputError
from odin_rm.core.reading import read_json
from odin_rm.core.types import QUALITY
from odin_rm.runs.output_folder import check_run_folder
from odin_rm.workflows.export.config import ExportConfig

if TYPE_CHECKING:
    from odin_rm.data.tokenise import EncodingSettings
    from odin_rm.model.export import ParityReport

# A folder with one of these is more than an export and is never replaced by one.
_FOREIGN = ("odin_rm.json", "metrics.jsonl", "audit.json", "summary.json", "config.yaml", "model", "checkpoints")


def run_export(config: ExportConfig) -> ParityReport:
    """Export the quality head.

    Args:
        config: the settings.

    Returns:
        What the comparison of scores measured.

    Raises:
        ExportError: the scores differ; nothing is written.
        OdinError: the model cannot be loaded, or the output folder holds something else.
    """
    _check_output(config)
    from odin_rm.model.device import pick_device
    from odin_rm.model.export import export_quality_head, within_window
    from odin_rm.model.pad_token import ensure_sound_pad_token
    from odin_rm.model.reward_model import RewardModel
    from odin_rm.model.saved_reading import saved_settings
    from odin_rm.model.scoring import DTYPES, load_tokenizer

    device = pick_device(config.device)
    path = Path(config.model) / "model" if (Path(config.model) / "model").is_dir() else config.model
    model = RewardModel.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    model.to(device)
    tokenizer = load_tokenizer(path, trust_remote_code=config.trust_remote_code)
    said = saved_settings(model.info, tokenizer, model.config, config.model, read_at=config.read_at)
    settings = within_window(said, model, tokenizer)
    ensure_sound_pad_token(tokenizer, model.config, settings)
    model.grow_vocabulary(int(tokenizer.pad_token_id) + 1)
    model.info = model.info.with_(encoding=vars(settings))
    sequences = [] if config.parity_dataset is None else _dataset_sequences(config, tokenizer, settings)
    return export_quality_head(
        model,
        config.output,
        sequences=sequences,
        tokenizer=tokenizer,
        dtype=DTYPES[config.dtype],
        tolerance=config.tolerance,
        overwrite=config.overwrite_output_dir,
    )


def _dataset_sequences(config: ExportConfig, tokenizer: Any, settings: EncodingSettings) -> list[list[int]]:
    from odin_rm.data.load import load_preferences

    assert config.parity_dataset is not None
    data = load_preferences(config.parity_dataset, tokenizer, settings)
    return [data.input_ids(r).tolist() for r in range(min(config.parity_rows, data.num_responses))]


def _is_export(folder: Path) -> bool:
    """Whether the folder is a classifier whose one label is quality: nothing else is ever replaced."""
    try:
        content = read_json(folder / "config.json")
        return bool(content.get("id2label") == {"0": QUALITY})
    except (OSError, ValueError, AttributeError):
        return False


def _check_output(config: ExportConfig) -> None:
    """Refuse a folder that holds anything but an earlier export, and that one too unless it may be replaced."""
    folder = Path(config.output)
    if folder.is_dir() and any(folder.iterdir()):
        foreign = [name for name in _FOREIGN if (folder / name).exists()]
        if foreign or not _is_export(folder):
            what = f"the output folder holds something else ({', '.join(foreign) or 'no earlier export'})"
            raise OutputError(what, where=str(folder), fix="Choose another folder; an export replaces only an export.")
        if not config.overwrite_output_dir:
            fix = "Choose another folder, or pass --overwrite to replace it."
            raise OutputError("the output folder already holds a model", where=str(folder), fix=fix)
    check_run_folder(folder, overwrite=config.overwrite_output_dir, resume=False)
