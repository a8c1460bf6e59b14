"""Auditing reward models: from model folders and a preference set to ``audit.json``, figures and a page.

Everything is measured before the output folder is touched. The folder then holds

- ``audit.json`` of ``--model``, ``report.html`` and its figures, ``config.yaml``, ``environment.json``;
- with ``--compare``, and with ``--scores`` of several models, also ``comparison.json`` (all audits by name) and
  ``<name>/audit.json`` of each further model that was scored.

Models side by side are measured on the same pairs, those that all of them can read: see
:mod:`odin_rm.workflows.audit.shared_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from odin_rm.core.errors import MachineError, OdinError, RunInterrupted
from odin_rm.core.files import atomic_write_json, atomic_write_text, environment_record
from odin_rm.core.progress import Progress
from odin_rm.data.attributes import find_attribute, text_attributes
from odin_rm.data.columns import Columns
from odin_rm.evaluation.audit import AuditResult, audit_preferences
from odin_rm.evaluation.paired_audit import paired_audit, same_pairs
from odin_rm.evaluation.records import ScoredPreferences
from odin_rm.evaluation.twins import verbosity_twins
from odin_rm.results.contents import read_audit
from odin_rm.runs.output_folder import check_output_folder, command_note, replaced_folder, was_cut_short, writer_of
from odin_rm.workflows.audit.config import AuditConfig, earlier_audit
from odin_rm.workflows.audit.data import (
    OF_TWINS,
    Twins,
    audited_lengths,
    load_audit_data,
    read_twins,
    wanted_attributes,
)
from odin_rm.workflows.audit.done import ScoredModels
from odin_rm.workflows.audit.shared_rows import (
    Measured,
    ScoredTwins,
    SharedRows,
    check_same_pairs,
    on_shared_pairs,
    twin_counts,
)
from odin_rm.workflows.audit.stored import audit_stored

if TYPE_CHECKING:
    from odin_rm.model.scoring import Scorer

TWINS_FIGURE = "verbosity_twins_longer_wins"


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
    note = command_note("audit", config)
    overwrite = config.overwrite_output_dir or was_cut_short(config.output, note)
    check_output_folder(config.output, "audit", overwrite=overwrite)
    with writer_of(config.output, note):
        folder = check_output_folder(config.output, "audit", overwrite=overwrite)
        if config.scores is not None:
            stored = [_Audited(result, scored) for result, scored in audit_stored(config)]
            _write(config, folder, stored)
            return [item.result for item in stored]
        return _audit_into(config, folder)


def _audit_into(config: AuditConfig, folder: Path) -> list[AuditResult]:
    twins = (
        None if config.twins is None else read_twins(config.twins, on_bad_row=config.on_bad_row, columns=config.columns)
    )
    places = ([config.model] if config.model else []) + list(config.compare)
    shared, scored_models = SharedRows(), ScoredModels(config, places)
    try:
        found = _find_all(config, places, twins, shared, scored_models)
        audited = _audit_all(config, folder, places, found, twins, shared)
    except KeyboardInterrupt as stop:
        if not scored_models.done:
            raise
        what = f"the scores of {scored_models.done} of {len(places)} models are saved"
        raise RunInterrupted(what, where=str(folder), fix="Run the same command again to go on.") from stop
    except OdinError as error:
        if not isinstance(error, MachineError):
            scored_models.journal.remove()  # a flag or a file must change, and then nothing of it counts
        raise
    scored_models.journal.remove()
    return [item.result for item in audited]


def _find_all(
    config: AuditConfig, places: Sequence[str], twins: Twins | None, shared: SharedRows, scored_models: ScoredModels
) -> list[AuditResult | Measured]:
    """Each model's scores, or its earlier audit."""
    found: list[AuditResult | Measured] = []
    for place in places:
        # --model is always scored; only --compare may name an earlier audit.
        earlier = None if config.model and not found else earlier_audit(place)
        if earlier is not None:
            found.append(read_audit(earlier))
            continue
        measured = scored_models.next(shared)
        if measured is None:
            measured = _measure(config, place, twins, shared)
            scored_models.add(measured, shared)
        found.append(measured)
    return found


def _audit_all(
    config: AuditConfig,
    folder: Path,
    places: Sequence[str],
    found: Sequence[AuditResult | Measured],
    twins: Twins | None,
    shared: SharedRows,
) -> list[_Audited]:
    audited = [
        _Audited(item) if isinstance(item, AuditResult) else _audited(config, item, twins, shared) for item in found
    ]
    audited = _with_own_names(audited, places)
    check_same_pairs([item.result for item in audited])
    _write(config, folder, audited)
    return audited


def _measure(config: AuditConfig, place: str, twins: Twins | None, shared: SharedRows) -> Measured:
    """A model's scores of the rows that it and the models before it can read."""
    from odin_rm.model import scoring
    from odin_rm.model.calibrated import NONE
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
        calibration=config.calibration if place == config.model or config.calibration == NONE else None,
    )
    scorer.batch_layout, scorer.tree_attention = config.batch_layout, config.tree_attention
    scorer.settings = scoring.text_settings(scorer, max_length=config.max_length, overlong=config.overlong)
    wanted = wanted_attributes(config.attributes)
    there = {*text_attributes(), *(one.name for one in wanted)}
    of_dial = [] if scorer.dial is None else scorer.dial.text_attributes
    for_dial = [find_attribute(name) for name in of_dial if name not in there]
    data = load_audit_data(
        config.dataset,
        scorer.tokenizer,
        scorer.settings,
        on_bad_row=config.on_bad_row,
        length_unit=config.length_unit,
        columns=config.columns if twins is None else Columns(config.columns).but(OF_TWINS),
        attributes=[*wanted, *for_dial],
    )
    data = shared.narrow(scorer.name, data)
    with Progress(f"scoring with {scorer.name}", data.num_responses, unit="responses") as bar:
        scored = score_preferences(scorer, data, microbatch_tokens=config.microbatch_tokens, progress=bar.advance)
    lengths = audited_lengths(data, config.length_unit)
    carried = {one.name: data.extra[one.name] for one in wanted if one.measure is None}
    attributes = scored.attributes | carried
    for one in for_dial:
        del attributes[one.name]
    unit = f"response {config.length_unit}"
    scored = replace(scored, response_tokens=lengths, length_unit=unit, attributes=attributes)
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
    described = {a.name: {"words": a.words, "unit": a.unit} for a in wanted_attributes(config.attributes)}
    result = audit_preferences(
        scored, bootstrap_samples=config.bootstrap_samples, seed=config.seed, described=described
    )
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


def _write(config: AuditConfig, folder: Path, audited: Sequence[_Audited]) -> None:
    """Write everything beside the folder first, then swap it in."""
    from odin_rm.reports.audit_report import write_audit_report
    from odin_rm.reports.audit_rows import shared_pairs

    differences = _differences(config, audited)
    with replaced_folder(folder, "audit") as stage:
        results = [item.result for item in audited]
        write_audit_report(results, stage, [item.scored for item in audited], differences=differences)
        atomic_write_text(stage / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
        atomic_write_json(stage / "environment.json", environment_record())
        if len(audited) > 1:
            content = {
                "models": [r.name for r in results],
                "shared_pairs": shared_pairs(results),
                "differences": differences,
                "audits": {r.name: r.to_json() for r in results},
            }
            atomic_write_json(stage / "comparison.json", content)
        for k, item in enumerate(audited):
            if item.scored is None or (_first_stands_alone(config) and k == 0):
                continue
            place = stage / folder_name(item.result.name)
            place.mkdir()
            atomic_write_json(place / "audit.json", item.result.to_json())
        if _first_stands_alone(config):
            atomic_write_json(stage / "audit.json", results[0].to_json())


def _differences(config: AuditConfig, audited: Sequence[_Audited]) -> list[dict[str, Any]]:
    """Each further model against the first, on the same pairs; an earlier audit has figures and no scores to pair."""
    if len(audited) < 2 or audited[0].scored is None:
        return []
    first = audited[0].scored
    options = {"bootstrap_samples": config.bootstrap_samples, "seed": config.seed}
    others = [item.scored for item in audited[1:] if item.scored is not None]
    return [paired_audit(first, scored, **options) for scored in others if same_pairs(first, scored)]


def _first_stands_alone(config: AuditConfig) -> bool:
    """Whether the folder's own ``audit.json`` is that of the first model: of ``--model``, or of ``--scores``."""
    return bool(config.model or config.scores)


def folder_name(name: str) -> str:
    """A model's name as a folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
