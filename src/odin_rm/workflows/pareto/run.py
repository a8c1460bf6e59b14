"""From runs to fronts: what was found in folders and files, brought together, resampled, drawn and written.

The output folder holds ``pareto.json`` (runs, fronts, bands, hypervolume, dominance, scores at equal length),
``pareto.png`` and ``.svg``, ``dominance.png`` and ``.svg``, tables as ``pareto.tex`` and ``pareto.md``, and for each
further recipe its figure and the data that it shows. Nothing is written unless everything went well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.evaluation.bootstrap import LEVEL
from odin_rm.evaluation.pareto import FrontBootstrap, RunPoints
from odin_rm.evaluation.pareto_prompts import PromptColumns, PromptFrontBootstrap
from odin_rm.evaluation.pareto_summary import MARGIN, length_grid, matched_lengths, reference_point, summarise_fronts
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.results.run_records import (
    JUDGED_SCORES,
    RunRecord,
    arms_of,
    as_point,
    bring_together,
    on_shared_prompts,
    refuse_mixture,
    value_text,
)
from odin_rm.results.runs import Found, ReadOptions, read_run_records
from odin_rm.workflows.pareto.config import ParetoConfig
from odin_rm.workflows.pareto.output import FrontFigures, check_output, make_figures, write_output

RECIPE_SETTINGS = ("kl_coef", "clip_epsilon", "experience_size", "reward_clip", "length_penalty")
_MOST_SETTINGS = 12
_BEYOND = f"{100 * MARGIN:g} % of the range beyond all runs"


@dataclass(frozen=True)
class _Fronts:
    """Runs by arm with their resamples."""

    records: list[RunRecord]
    arms: dict[str, list[RunPoint]]
    marks: list[RunPoint]
    bootstrap: FrontBootstrap
    resampled: str
    why: str

    @property
    def points(self) -> list[RunPoint]:
        return [point for runs in self.arms.values() for point in runs]


def run_pareto(config: ParetoConfig) -> dict[str, Any]:
    """Compute, draw and write.

    Returns:
        The content of ``pareto.json`` and, as ``shown``, what the tables show; empty where only ``heads`` is drawn.

    Raises:
        OdinError: bad input, runs that must not be compared, an output folder that holds something else.
    """
    folder = check_output(config.output, overwrite=config.overwrite_output_dir)
    if not config.runs:
        write_output(folder, {}, make_figures(config, None), None)
        return {}
    found = read_run_records(config.runs, ReadOptions(config.x, config.y, *_counter(config), config.on_bad_row))
    fronts = _bring_fronts(config, found)
    points = fronts.points
    matched = sorted(config.matched_length) or matched_lengths(list(fronts.bootstrap.arms.values()))
    reference = reference_point(points, config.reference_length, config.reference_score)
    summary = summarise_fronts(
        fronts.bootstrap,
        fronts.arms,
        grid_M=length_grid(points, config.grid, reference.length),
        matched_K=matched,
        reference=reference,
    )
    unit, length_label, score_label = _labels(config, fronts.records)
    shown = FrontFigures(
        fronts.arms, fronts.marks, summary, matched, length_label, score_label, unit, config.y,
        lengths=_baseline_lengths(config, fronts.records), settings=_varied(points),
    )  # fmt: skip
    content = {
        "length": length_label,
        "score": score_label,
        "x": config.x,
        "y": config.y,
        "length_unit": unit,
        "baseline": fronts.records[0].baseline if config.y in JUDGED_SCORES else None,
        "judge": _judge(config, fronts.records),
        "points": [_point_json(point, shown.settings) for point in points],
        "marks": [_point_json(point, shown.settings) for point in fronts.marks],
        "lengths": shown.lengths,
        "reference_point": {
            "length": reference.length,
            "score": reference.score,
            "length_from": _BEYOND if config.reference_length is None else "--reference_length",
            "score_from": _BEYOND if config.reference_score is None else "--reference_score",
        },
        "resampled": _resampled(config, fronts),
        **_summary_json(summary, matched),
        "left_out": dict(found.left_out),
    }
    write_output(folder, content, make_figures(config, shown), shown)
    return content | {"shown": shown}


def _counter(config: ParetoConfig) -> tuple[Callable[[str], int], str]:
    if config.tokenizer is None or config.x != "tokens":
        return lambda text: len(text.split()), "words"
    from odin_rm.model.scoring import load_tokenizer

    tokenizer = load_tokenizer(config.tokenizer, trust_remote_code=config.trust_remote_code)
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]), config.tokenizer


def _bring_fronts(config: ParetoConfig, found: Found) -> _Fronts:
    records = bring_together(found.records, config.x, config.y)
    arms = arms_of(records, config.arm, config.arm_pattern)
    for flag, names in (("only", config.only), ("mark", config.mark)):
        unknown = [name for name in names if name not in arms.values()]
        if unknown:
            known = ", ".join(dict.fromkeys(arms.values()))
            raise ConfigError(f"there is no arm '{unknown[0]}'", where=f"--{flag}", fix=f"Arms are: {known}.")
    if config.only:
        wanted = [*config.only, *config.mark]
        records = sorted((r for r in records if arms[r.name] in wanted), key=lambda r: wanted.index(arms[r.name]))
    refuse_mixture(records, config.x, config.y, config.prompts)
    by_prompt = config.y in JUDGED_SCORES and all(record.per_prompt for record in records)
    if by_prompt:
        before = max(len(record.per_prompt.prompts) for record in records if record.per_prompt)
        records = on_shared_prompts(records)
        if dropped := before - (records[0].n or 0):
            found.left_out["prompts without a preference for every run"] += dropped
    held = [record for record in records if arms[record.name] not in config.mark]
    if not held:
        raise DataError("every arm is a mark, so there is no front", where="--mark", fix="Leave one of them out.")
    resampled, why = _what_to_resample(config, held, by_prompt)
    grouped: dict[str, list[RunRecord]] = {}
    for record in held:
        grouped.setdefault(arms[record.name], []).append(record)
    points = {arm: [as_point(r, arm, config.x, config.y) for r in group] for arm, group in grouped.items()}
    aside = [as_point(r, arms[r.name], config.x, config.y) for r in records if arms[r.name] in config.mark]
    # A policy that is alone in its arm goes by the arm's name, which was chosen to be read.
    alone = [arm for arm, count in Counter(point.arm for point in aside).items() if count == 1]
    marks = [replace(point, name=point.arm) if point.arm in alone else point for point in aside]
    bootstrap = _bootstrap(config, resampled, grouped, points)
    if isinstance(bootstrap, PromptFrontBootstrap):
        points = {arm: _with_intervals(bootstrap, arm, runs) for arm, runs in points.items()}
    return _Fronts(records, points, marks, bootstrap, resampled, why)


def _what_to_resample(config: ParetoConfig, records: Sequence[RunRecord], by_prompt: bool) -> tuple[str, str]:
    if config.resample == "auto":
        if by_prompt:
            return "prompts", "every run is known prompt by prompt"
        lacking = next((record.name for record in records if record.per_prompt is None), "")
        return "runs", f"{lacking or config.y} is not known prompt by prompt"
    if config.resample == "prompts" and not by_prompt:
        fix = "Give judgements instead of their means, or pass --resample runs."
        raise DataError("not every run is known prompt by prompt", where="--resample prompts", fix=fix)
    without = [record for record in records if record.seed is None]
    if config.resample == "seeds" and without:
        raise DataError("the run has no seed", where=without[0].where, fix="Give its seed, or pass --resample runs.")
    return config.resample, "asked for"


def _bootstrap(
    config: ParetoConfig,
    resampled: str,
    records: Mapping[str, Sequence[RunRecord]],
    points: Mapping[str, Sequence[RunPoint]],
) -> FrontBootstrap:
    options = {"samples": config.bootstrap_samples, "seed": config.seed}
    if resampled == "prompts":
        columns = {
            arm: PromptColumns(
                np.stack([r.per_prompt.lengths[config.x] for r in group if r.per_prompt]),
                np.stack([JUDGED_SCORES[config.y](r.per_prompt.preference_P) for r in group if r.per_prompt]),
            )
            for arm, group in records.items()
        }
        return PromptFrontBootstrap(columns, **options)
    arms = {
        arm: RunPoints(
            np.array([p.mean_length for p in runs]),
            np.array([p.score for p in runs]),
            np.array([p.seed for p in runs]) if resampled == "seeds" else None,
        )
        for arm, runs in points.items()
    }
    return FrontBootstrap(arms, **options)


def _with_intervals(bootstrap: PromptFrontBootstrap, arm: str, runs: Sequence[RunPoint]) -> list[RunPoint]:
    intervals = bootstrap.point_intervals(arm)
    if intervals is None:
        return list(runs)
    return [
        replace(
            run, length_low=float(x[0]), length_high=float(x[1]), score_low=float(y[0]), score_high=float(y[1])
        )
        for run, x, y in zip(runs, *intervals, strict=True)
    ]  # fmt: skip


# ---- words and JSON --------------------------------------------------------------------------------------------------


def _labels(config: ParetoConfig, records: Sequence[RunRecord]) -> tuple[str, str, str]:
    """The unit of length, and the labels of both axes."""
    unit = "characters"
    if config.x == "tokens":
        unit = "words" if records[0].token_unit == "words" else "tokens"
    baseline = next((record.baseline for record in records if record.baseline), None)
    against = f" against {value_text(baseline)}" if baseline else ""
    scores = {
        "win_score": f"win score{against}",
        "win_rate": f"win rate{against} (%)",
        "true_quality": "true quality",
        "quality": "mean quality reward",
    }
    return unit, f"mean response {unit}", scores[config.y]


def _baseline_lengths(config: ParetoConfig, records: Sequence[RunRecord]) -> dict[str, float]:
    known = next((record for record in records if record.baseline_lengths.get(config.x)), None)
    if known is None or config.y not in JUDGED_SCORES:
        return {}
    return {f"baseline {value_text(known.baseline)}": known.baseline_lengths[config.x]}


def _judge(config: ParetoConfig, records: Sequence[RunRecord]) -> str | None:
    if config.y == "quality":
        return next((value_text(record.reward) for record in records if record.reward), None)
    return next((record.judge for record in records if record.judge), None) if config.y in JUDGED_SCORES else None


def _varied(points: Sequence[RunPoint]) -> list[str]:
    """Settings that differ between runs; a folder or a name of a run is no setting."""
    names = dict.fromkeys(name for point in points for name in point.settings)
    plain = (int, float, str, bool, type(None))
    varied = []
    for name in names:
        values = [point.settings.get(name) for point in points]
        if name in ("output_dir", "output") or not all(isinstance(value, plain) for value in values):
            continue
        if len(set(values)) > 1:
            varied.append(name)
    known = [name for name in RECIPE_SETTINGS if name in names and name not in varied]
    return [*varied[:_MOST_SETTINGS], *known]


def _point_json(point: RunPoint, settings: Sequence[str]) -> dict[str, Any]:
    return point.to_json() | {"settings": {n: point.settings[n] for n in settings if point.settings.get(n) is not None}}


def _resampled(config: ParetoConfig, fronts: _Fronts) -> dict[str, Any]:
    prompts = fronts.resampled == "prompts"
    return {
        "unit": fronts.resampled,
        "why": fronts.why,
        "prompts": fronts.records[0].n if prompts else None,
        "samples": config.bootstrap_samples,
        "seed": config.seed,
        "level": LEVEL,
        "intervals": "percentiles, of levels less the excess of picking the best" if prompts else "percentiles",
    }


def _summary_json(summary: Mapping[str, Any], matched: Sequence[float]) -> dict[str, Any]:
    def at(lengths: Sequence[float], figures: Sequence[Figure]) -> list[dict[str, Any]]:
        return [{"length": length} | figure.to_json() for length, figure in zip(lengths, figures, strict=True)]

    arms = {
        name: arm | {"band": at(summary["grid"], arm["band"]), "matched": at(matched, arm["matched"])}
        for name, arm in summary["arms"].items()
    }
    comparisons = [
        {key: value for key, value in pair.items() if key != "matched_dominance"}
        | {
            "matched": [
                row | {"dominance": share}
                for row, share in zip(at(matched, pair["matched"]), pair["matched_dominance"], strict=True)
            ]
        }
        for pair in summary["comparisons"]
    ]
    content = {"grid": summary["grid"], "arms": arms, "comparisons": comparisons}
    return _plain(content | {"not_computed": summary["not_computed"]})


def _plain(value: Any) -> Any:
    """Figures as objects of ``value``, ``low`` and ``high``."""
    if isinstance(value, Figure):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
