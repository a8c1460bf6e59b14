"""Exporting the quality head as a stock one-label classifier, with the parity of scores proved on texts first."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import DataError
from odin_rm.core.reading import read_json
from odin_rm.runs.output_folder import check_output_folder, command_note, was_cut_short, writer_of
from odin_rm.workflows.export.config import ExportConfig

if TYPE_CHECKING:
    from odin_rm.data.tokenise import EncodingSettings
    from odin_rm.model.export import ParityReport

log = logging.getLogger(__name__)


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
    note = command_note("export", config)
    overwrite = config.overwrite_output_dir or was_cut_short(config.output, note)
    check_output_folder(config.output, "export", overwrite=overwrite)
    with writer_of(config.output, note):
        return _export(config, overwrite)


def _export(config: ExportConfig, overwrite: bool) -> ParityReport:
    from odin_rm.model.calibrated import calibration_file
    from odin_rm.model.device import pick_device
    from odin_rm.model.export import export_quality_head, within_window
    from odin_rm.model.pad_token import ensure_sound_pad_token
    from odin_rm.model.reward_model import RewardModel
    from odin_rm.model.saved_reading import saved_settings
    from odin_rm.model.scoring import DTYPES, load_tokenizer

    certificate = {} if config.certificate is None else _read_certificate(config.certificate)
    device = pick_device(config.device)
    path = Path(config.model) / "model" if (Path(config.model) / "model").is_dir() else config.model
    if (calibration := calibration_file(path, None)) is not None:
        what = "an export sees text alone and does not carry the calibration"
        log.warning("%s: %s; odin-rm calibrate --fold writes a model that needs none", calibration, what)
    model = RewardModel.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    model.to(device)
    tokenizer = load_tokenizer(path, trust_remote_code=config.trust_remote_code)
    said = saved_settings(model.info, tokenizer, model.config, config.model, read_at=config.read_at)
    settings = within_window(said, model, tokenizer)
    ensure_sound_pad_token(tokenizer, model.config, settings)
    model.grow_vocabulary(int(tokenizer.pad_token_id) + 1)
    model.info = model.info.with_(encoding=vars(settings), certificate=certificate or model.info.certificate)
    sequences = [] if config.parity_dataset is None else _dataset_sequences(config, tokenizer, settings)
    return export_quality_head(
        model,
        config.output,
        sequences=sequences,
        tokenizer=tokenizer,
        dtype=DTYPES[config.dtype],
        tolerance=config.tolerance,
        overwrite=overwrite,
    )


def _read_certificate(place: str) -> dict[str, Any]:
    """What a model card says of a certificate.

    Raises:
        DataError: it cannot be read or is none.
    """
    path = Path(place) / "certificate.json" if Path(place).is_dir() else Path(place)
    content = read_json(path)
    if not isinstance(content, dict) or not {"overall", "attributes", "tolerance"} <= set(content):
        raise DataError("is no certificate", where=str(path), fix="Give certificate.json of odin-rm certify.")
    attributes = {
        name: {"words": one["words"], "verdict": one["verdict"], "effect": one["measured"]["effect"]}
        for name, one in content["attributes"].items()
        if one["measured"].get("effect", {}).get("value") is not None
    }
    names = ("model", "baseline", "overall", "tolerance", "missing")
    return {**{name: content.get(name) for name in names}, "attributes": attributes}


def _dataset_sequences(config: ExportConfig, tokenizer: Any, settings: EncodingSettings) -> list[list[int]]:
    from odin_rm.data.load import load_preferences

    assert config.parity_dataset is not None
    data = load_preferences(config.parity_dataset, tokenizer, settings, columns=config.columns)
    return [data.input_ids(r).tolist() for r in range(min(config.parity_rows, data.num_responses))]
