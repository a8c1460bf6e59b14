"""Calibrating a reward: from a model and responses of a domain, or from stored scores, to ``calibration.json``.

Of a model, ``calibration.json`` goes into its own folder (or ``--output``), where every command that scores finds it.
Of stored scores, the folder also holds ``scores.jsonl``: the same rows with calibrated scores. With several models in a
file each has a folder of its own name.

``--fold`` writes a model instead, from whose head the mean effect of the edits is taken out, and ``folded.json``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError, OutputError
from odin_rm.core.files import atomic_write_json
from odin_rm.data.attributes import LENGTHS, TOKENS, describe, find_attribute
from odin_rm.data.columns import Columns
from odin_rm.data.dial import CALIBRATION_FILE, FORMAT_VERSION
from odin_rm.evaluation.dial_fit import DialPairs, DialRows, FittedDial, fit_dial
from odin_rm.evaluation.dial_rivals import held_out, rival_figures
from odin_rm.evaluation.stored_scores import StoredScores, read_stored_scores
from odin_rm.workflows.calibrate.config import PAIRED, CalibrateConfig
from odin_rm.workflows.calibrate.rows import read_material
from odin_rm.workflows.calibrate.stored import stored_pairs, stored_rows, write_scores
from odin_rm.workflows.calibrate.texts import Texts, attributes_of, plain_scorer, writer_numbers


def run_calibrate(config: CalibrateConfig) -> dict[str, dict[str, Any]]:
    """Fit the dial and write it.

    Returns:
        The content of each ``calibration.json`` (or of ``folded.json``) by its path.

    Raises:
        OdinError: rows that cannot be used, an anchor that decides nothing, a file that is there already.
    """
    if config.scores is not None:
        return _calibrate_scores(config)
    if config.fold:
        from odin_rm.workflows.calibrate.fold import run_fold

        return run_fold(config)
    from odin_rm.model.calibrated import model_folder, weights_digest
    from odin_rm.workflows.model_scores import scored_texts

    assert config.model is not None
    place = model_folder(config.model)
    path = Path(config.output or place) / CALIBRATION_FILE
    _check_free(path, config)
    material = read_material(config)
    scorer = plain_scorer(config)
    order = sorted(range(len(material.prompts)), key=lambda k: material.number[k])
    prompts, responses = [material.prompts[k] for k in order], [material.responses[k] for k in order]
    scored = scored_texts(scorer, prompts, responses, config)
    back = np.argsort(np.array(order))
    texts = Texts(material, scored.quality[back], scored.tokens[back], scored.cut[back], attributes_of(config))
    rows, pairs, counts = texts.material_of()
    began = time.perf_counter()
    content = calibration_content(config, rows, texts.names, pairs)
    content |= {
        "model": {"name": config.model, "digest": weights_digest(place)},
        "fitted_on": {"dataset": config.dataset, "twins": config.twins, **counts},
        "seconds_after_scoring": time.perf_counter() - began,
    }
    atomic_write_json(path, content)
    return {str(path): content}


def _check_free(path: Path, config: CalibrateConfig) -> None:
    if path.exists() and not config.overwrite_output:
        fix = "Pass --overwrite to replace it, or choose another --output."
        raise OutputError("there is a calibration already", where=str(path), fix=fix)


# ---- the content -----------------------------------------------------------------------------------------------------


def calibration_content(
    config: CalibrateConfig, rows: DialRows, names: Sequence[str], pairs: DialPairs | None
) -> dict[str, Any]:
    """What ``calibration.json`` says of the fit, and of every method on responses that it did not see."""
    options = {"bootstrap_samples": config.bootstrap_samples, "seed": config.seed}
    fitted = fit_dial(rows, names, config.anchor, pairs if config.anchor in PAIRED else None, **options)
    calibrated = rows.quality - fitted.dial.taken_off(rows.attributes)
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "anchor": config.anchor,
        "kappa": fitted.kappa.to_json(),
        "curve": [one.to_json() for one in fitted.dial.curves],
        "range": {one.attribute: {"low": one.low, "high": one.high} for one in fitted.dial.curves},
        "slopes": _slopes(fitted),
        "calibrated_reward": {"mean": float(calibrated.mean()), "std": float(calibrated.std())},
        "warnings": list(fitted.warnings),
    }
    try:
        halves = held_out(rows, names, config.anchor, pairs, config.seed)
    except DataError as error:
        content["held_out"] = {"why": error.what}
    else:
        content["held_out"] = {
            "kappa_of_halves": list(halves.kappas),
            "methods": rival_figures(rows, names, pairs, halves, **options),
        }
        content["warnings"] += _loess_warning(content["held_out"]["methods"])
    content["bootstrap"] = {"samples": config.bootstrap_samples, "seed": config.seed, "resampled": "prompts"}
    return content


def _slopes(fitted: FittedDial) -> dict[str, Any]:
    found = {}
    for name, figure in fitted.slopes.items():
        step = find_attribute(name).step if name in LENGTHS else 1
        scaled = {key: None if value is None else value * step for key, value in _bounds(figure).items()}
        found[name] = {"reward_per_unit": scaled, "unit": describe(name)["unit"] if name in LENGTHS else f"1 {name}"}
    return found


def _bounds(figure: Any) -> dict[str, float | None]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def _loess_warning(methods: dict[str, dict[str, Any]]) -> list[str]:
    if not methods["loess"]["flips_sign"]:
        return []
    before, after = (methods[name]["within"]["value"] for name in ("none", "loess"))
    return [f"pooled LOESS would turn the correlation within prompts from {before:+.2f} to {after:+.2f}"]


# ---- stored scores ---------------------------------------------------------------------------------------------------


def _calibrate_scores(config: CalibrateConfig) -> dict[str, dict[str, Any]]:
    assert config.scores is not None  # both checked by the config
    assert config.output is not None
    options: dict[str, Any] = {"attributes": config.attributes, "on_bad_row": config.on_bad_row}
    models = read_stored_scores(config.scores, columns=Columns(config.columns), **options)
    names = score_attributes(config, models[0])
    twins: list[StoredScores] = []
    if config.twins is not None:
        twins = read_stored_scores(config.twins, **{**options, "attributes": config.attributes or names})
    written: dict[str, dict[str, Any]] = {}
    places = {one.model: Path(config.output) / ("" if len(models) == 1 else _folder_name(one.model)) for one in models}
    for folder in places.values():
        _check_free(folder / CALIBRATION_FILE, config)
    for stored in models:
        pairs = None if config.twins is None else stored_pairs(stored, twins, names, config.anchor, config.twins)
        began = time.perf_counter()
        rows = stored_rows(stored, names, writer_numbers(stored.writers))
        content = calibration_content(config, rows, names, pairs)
        content |= {
            "model": {"name": stored.model, "digest": None},
            "fitted_on": {
                "scores": config.scores,
                "twins": config.twins,
                "responses": len(rows.quality),
                "prompts": len(stored.prompt_keys),
                "labelled_pairs": len(rows.chosen),
                "pairs": 0 if pairs is None else len(pairs.first),
                "writers": len({name for name in stored.writers if name is not None}),
                **{name: stored.report[name] for name in ("rows", "skipped_rows", "responses_without_score")},
            },
            "seconds_after_scoring": time.perf_counter() - began,
        }
        folder = places[stored.model]
        write_scores(folder / "scores.jsonl", stored, content)
        atomic_write_json(folder / CALIBRATION_FILE, content)
        written[str(folder / CALIBRATION_FILE)] = content
    return written


def score_attributes(config: CalibrateConfig, stored: StoredScores) -> list[str]:
    """The attributes of the curve: those asked for, else the first length that the rows tell."""
    if config.attributes:
        return [find_attribute(name).name for name in config.attributes]
    found = next((name for name in (TOKENS, "words", "characters") if name in stored.attributes), None)
    if found is None:
        fix = "Give response_tokens in the rows, or --attributes."
        raise DataError("the rows tell no length", where=stored.source, fix=fix)
    return [found]


def _folder_name(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"
