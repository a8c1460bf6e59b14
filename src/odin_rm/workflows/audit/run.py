"""Auditing reward models: from model folders and a preference set to ``audit.json``, figures and a page.

Everything is measured before the output folder is touched. The folder then holds

- ``audit.json`` of ``--model``, ``report.html`` and its figures, ``config.yaml``, ``environment.json``;
- with ``--compare`` also ``comparison.json`` (all audits by name) and ``<name>/audit.json`` of each further model that
  was scored.

Models side by side are measured on the same pairs, those that all of them can read: see
:mod:`odin_rm.workflows.audit.shared_rows`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from odin_rm.core.errors import OutputError
from odin_rm.core.files import atomic_write_json, atomic_write_text, environment_record
from odin_rm.core.progress import Progress
from odin_rm.evaluation.audit import AuditResult, audit_preferences
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.evaluation.twins import verbosity_twins
from odin_rm.runs.output_folder import check_run_folder
from odin_rm.workflows.audit.config import AuditConfig, earlier_audit
from odin_rm.workflows.audit.data import (
    Twins,
    audited_lengths,
    load_audit_data,
    read_audit,
    read_twins,
)
from odin_rm.workflows.audit.shared_rows import (
    Measured,
    ScoredTwins,
    SharedRows,
    check_same_pairs,
    on_shared_pairs,
    twin_counts,
)

if TYPE_CHECKING:
    from odin_rm.model.scoring import Scorer

TWINS_FIGURE = "verbosity_twins_longer_wins"
# A folder with one of these holds more than an audit and is never overwritten by one.
_FOREIGN = ("metrics.jsonl", "summary.json", "model", "checkpoints")
_OURS = ("audit.json", "comparison.json", "report.html", "config.yaml", "environment.json")


@dataclass(frozen=True)
class _Audited:
    """One model's audit, with the scores behind it where it was scored now."""

    result: AuditResult
    scored: ScoredPreferences | None = None


def run_audit(config: AuditConfig) -> list[AuditResult]:
    """Audit ``--model`` and every ``--compare``, and write the output folder.

    Args:
        config: the settings.

    Returns:
        One result per model, ``--model`` first.

    Raises:
        OdinError: bad input, an output folder that holds something else, a model that cannot be scored, models that
            have no pair in common, an earlier audit of other pairs of the same data.
    """
    folder = _check_output(config.output, config.overwrite_output_dir)
    twins = None if config.twins is None else read_twins(config.twins, on_bad_row=config.on_bad_row)
    places = ([config.model] if config.model else []) + list(config.compare)
    shared = SharedRows()
    found: list[AuditResult | Measured] = []
    for place in places:
        # --model is always scored; only --compare may name an earlier audit.
        earlier = None if config.model and not found else earlier_audit(place)
        found.append(_measure(config, place, twins, shared) if earlier is None else read_audit(earlier))
    audited = [
        _Audited(item) if isinstance(item, AuditResult) else _audited(config, item, twins, shared) for item in found
    ]
    audited = _with_own_names(audited, places)
    check_same_pairs([item.result for item in audited])
    _write(config, folder, audited)
    return [item.result for item in audited]


def _measure(config: AuditConfig, place: str, twins: Twins | None, shared: SharedRows) -> Measured:
    """A model's scores of the rows that it and the models before it can read."""
    from odin_rm.model import scoring
    from odin_rm.model.info import is_reward_model_folder
    from odin_rm.reward.scoring import score_preferences

    assert config.dataset is not None  # checked by the config
    # Beside somebody's classifier, our models may be compared: --column is not for them.
    ours = is_reward_model_folder(place) or is_reward_model_folder(Path(place) / "model")
    scorer = scoring.load_scorer(
        place,
        column=None if ours and place != config.model else config.column,
        dtype=config.dtype,
        device=config.device,
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
        read_at=config.read_at if ours or place == config.model else None,
    )
    scorer.batch_layout, scorer.tree_attention = config.batch_layout, config.tree_attention
    scorer.settings = scoring.text_settings(scorer, max_length=config.max_length, overlong=config.overlong)
    data = load_audit_data(
        config.dataset,
        scorer.tokenizer,
        scorer.settings,
        on_bad_row=config.on_bad_row,
        length_unit=config.length_unit,
    )
    data = shared.narrow(scorer.name, data)
    with Progress(f"scoring with {scorer.name}", data.num_responses, unit="responses") as bar:
        scored = score_preferences(scorer, data, microbatch_tokens=config.microbatch_tokens, progress=bar.advance)
    lengths = audited_lengths(data, config.length_unit)
    scored = replace(scored, response_tokens=lengths, length_unit=f"response {config.length_unit}")
    scored_twins = None if twins is None else _score_twins(config, scorer, twins, shared)
    return Measured(scored, np.asarray(data.pair_key), scored_twins)


def _score_twins(config: AuditConfig, scorer: Scorer, twins: Twins, shared: SharedRows) -> ScoredTwins:
    """Rewards of the twins; those that do not fit the window, or are the same tokens, are left out."""
    from odin_rm.data.tokenise import encode_responses
    from odin_rm.model import scoring

    sides = (twins.shorter, twins.longer)
    encoded = [encode_responses(scorer.tokenizer, twins.prompts, side, scorer.settings) for side in sides]
    overlong_T = np.array([a.dropped or b.dropped for a, b in zip(*encoded, strict=True)])
    identical_T = ~overlong_T & np.array([a.input_ids == b.input_ids for a, b in zip(*encoded, strict=True)])
    asked_T = shared.narrow_twins(~(overlong_T | identical_T), scorer.name, str(config.twins))
    prompts = _kept(twins.prompts, asked_T)
    quality: list[np.ndarray] = []
    for side in sides:
        quality_T = np.full(len(asked_T), np.nan)
        quality_T[asked_T], *_ = scoring.score_texts(
            scorer, prompts, _kept(side, asked_T), microbatch_tokens=config.microbatch_tokens
        )
        quality.append(quality_T)
    return ScoredTwins(quality[0], quality[1], overlong=int(overlong_T.sum()), identical=int(identical_T.sum()))


def _kept(values: Sequence[Any], keep: np.ndarray) -> list[Any]:
    return [value for value, wanted in zip(values, keep, strict=True) if wanted]


def _audited(config: AuditConfig, measured: Measured, twins: Twins | None, shared: SharedRows) -> _Audited:
    """All figures of one model, of the rows that all models can read."""
    scored = on_shared_pairs(measured, shared)
    result = audit_preferences(scored, bootstrap_samples=config.bootstrap_samples, seed=config.seed)
    if twins is None or measured.twins is None or shared.twins is None:
        return _Audited(result, scored)
    figure = verbosity_twins(
        measured.twins.shorter[shared.twins],
        measured.twins.longer[shared.twins],
        prompt=np.array(_kept(twins.prompts, shared.twins)),
        bootstrap_samples=config.bootstrap_samples,
        seed=config.seed,
    )
    result = result.with_figure(TWINS_FIGURE, figure)
    counts = twin_counts(twins, measured.twins, shared)
    return _Audited(replace(result, data_report=result.data_report | counts), scored)


def _with_own_names(audited: list[_Audited], places: Sequence[str]) -> list[_Audited]:
    """The audits with a name each: the parent folder goes in front where two share one, else a number behind."""
    names = [item.result.name for item in audited]
    for k, place in enumerate(places):
        if names.count(audited[k].result.name) > 1:
            parts = [p for p in Path(place).parts if p not in ("/", "audit.json")]
            names[k] = "/".join(parts[-2:]) or names[k]
    for k, name in enumerate(names):
        if name in names[:k]:
            names[k] = f"{name} ({names[:k].count(name) + 1})"
    return [
        _Audited(replace(item.result, name=name), None if item.scored is None else replace(item.scored, name=name))
        for item, name in zip(audited, names, strict=True)
    ]


def _check_output(output: str, overwrite: bool) -> Path:
    """Refuse a folder that holds another audit (unless it may be replaced) or anything that is more than an audit."""
    folder = Path(output)
    foreign = [name for name in _FOREIGN if (folder / name).exists()]
    if foreign:
        what = f"the output folder holds another run ({', '.join(foreign)})"
        raise OutputError(what, where=str(folder), fix="Choose another folder; an audit never replaces a run.")
    check_run_folder(folder, overwrite=overwrite, resume=False)
    if (folder / "comparison.json").exists() and not overwrite:
        fix = "Choose another folder, or pass --overwrite to replace it."
        raise OutputError("the output folder already holds another audit (comparison.json)", where=str(folder), fix=fix)
    return folder


def _write(config: AuditConfig, folder: Path, audited: Sequence[_Audited]) -> None:
    """Write everything beside the folder first, then move it in, ``audit.json`` last."""
    from odin_rm.reports.audit_report import write_audit_report
    from odin_rm.reports.audit_rows import shared_pairs

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, where=str(folder), fix="Choose another output folder.") from error
    try:
        results = [item.result for item in audited]
        write_audit_report(results, stage, [item.scored for item in audited])
        atomic_write_text(stage / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
        atomic_write_json(stage / "environment.json", environment_record())
        if len(audited) > 1:
            content = {
                "models": [r.name for r in results],
                "shared_pairs": shared_pairs(results),
                "audits": {r.name: r.to_json() for r in results},
            }
            atomic_write_json(stage / "comparison.json", content)
        for k, item in enumerate(audited):
            if item.scored is None or (config.model and k == 0):
                continue
            place = stage / folder_name(item.result.name)
            place.mkdir()
            atomic_write_json(place / "audit.json", item.result.to_json())
        if config.model:
            atomic_write_json(stage / "audit.json", results[0].to_json())
        _move_in(stage, folder, config.overwrite_output_dir)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def folder_name(name: str) -> str:
    """A model's name as a folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _move_in(stage: Path, folder: Path, overwrite: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        _clear(folder)
    entries = sorted(stage.iterdir(), key=lambda entry: entry.name == "audit.json")
    for entry in entries:
        if entry.is_dir():
            (folder / entry.name).mkdir(exist_ok=True)
            os.replace(entry / "audit.json", folder / entry.name / "audit.json")
        else:
            os.replace(entry, folder / entry.name)


def _clear(folder: Path) -> None:
    """Remove what an earlier audit left, so that none of it passes for the new one's; nothing else is touched."""
    comparison = folder / "comparison.json"
    if comparison.is_file():
        try:
            names = json.loads(comparison.read_text(encoding="utf-8"))["models"]
        except (ValueError, KeyError, TypeError):
            names = []
        for name in names:
            place = folder / folder_name(str(name))
            (place / "audit.json").unlink(missing_ok=True)
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
    for name in _OURS:
        (folder / name).unlink(missing_ok=True)
