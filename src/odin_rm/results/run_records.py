"""Runs as they were found, brought together: one record per run, its arm, and a refusal of what cannot be compared."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from odin_rm.core.errors import ConfigError, DataError
from odin_rm.core.names import distinct_names, place_name
from odin_rm.evaluation.records import Figure, RunPoint
from odin_rm.evaluation.win_score import win_rate_values, win_score_values

LENGTHS = ("tokens", "characters")
JUDGED_SCORES = {"win_score": win_score_values, "win_rate": win_rate_values}
"""Scores against a baseline, as contributions of each preference."""
SCORES = (*JUDGED_SCORES, "true_quality", "quality")


@dataclass(frozen=True)
class PerPrompt:
    """A run's judgements prompt by prompt.

    Attributes:
        prompts: ``P`` digests of the prompts.
        judged: digests of all prompts, also of those without a preference.
        preference_P: ``(P,)`` 1 the baseline is better, 2 the run.
        lengths: ``(P,)`` lengths of the run's answers, by unit.
        baseline_lengths: the same of the baseline's answers; empty where they are not known.
        baseline_answers: ``P`` digests of the baseline's answers; empty where they are not known.
    """

    prompts: tuple[str, ...]
    judged: frozenset[str]
    preference_P: np.ndarray
    lengths: Mapping[str, np.ndarray]
    baseline_lengths: Mapping[str, np.ndarray] = field(default_factory=dict)
    baseline_answers: tuple[str, ...] = ()

    def only(self, prompts: Sequence[str]) -> PerPrompt:
        """The same on these of its prompts, in this order."""
        place = {prompt: k for k, prompt in enumerate(self.prompts)}
        at = [place[prompt] for prompt in prompts]
        return replace(
            self,
            prompts=tuple(prompts),
            preference_P=self.preference_P[at],
            lengths={unit: values[at] for unit, values in self.lengths.items()},
            baseline_lengths={unit: values[at] for unit, values in self.baseline_lengths.items()},
            baseline_answers=tuple(self.baseline_answers[k] for k in at) if self.baseline_answers else (),
        )


@dataclass(frozen=True)
class RunRecord:
    """What one place says of a run. Two places may know different things of it.

    Attributes:
        name: of the run.
        where: the file, row or folder, for messages.
        arm: where the place itself names it.
        algorithm, seed, n: where they are known.
        settings: of the run, by the names of its command's flags; the further columns of a table.
        lengths: mean lengths, by unit (:data:`LENGTHS`).
        token_unit: what a token is: ``tokens``, ``words``, or a tokenizer's name.
        scores: by name (:data:`SCORES`).
        baseline, judge: of judged scores.
        judge_settings: what else decides the judgements.
        baseline_lengths: mean lengths of the baseline's answers, by unit.
        prompt_set: digest of the prompts.
        per_prompt: judgements one by one.
    """

    name: str
    where: str
    arm: str = ""
    algorithm: str = ""
    seed: int | None = None
    n: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    lengths: Mapping[str, Figure] = field(default_factory=dict)
    token_unit: str = "tokens"
    scores: Mapping[str, Figure] = field(default_factory=dict)
    baseline: str | None = None
    judge: str | None = None
    judge_settings: Mapping[str, Any] | None = None
    baseline_lengths: Mapping[str, float] = field(default_factory=dict)
    prompt_set: str | None = None
    per_prompt: PerPrompt | None = None

    @property
    def reward(self) -> str | None:
        """What the ``quality`` of a training run was measured with."""
        named = self.settings.get("reward")
        return None if named is None else str(named)

    def has(self, length: str, score: str) -> bool:
        """Whether it is a point of a figure of these axes."""
        return length in self.lengths and score in self.scores

    def with_prompts(self, held: PerPrompt) -> RunRecord:
        """The same with these judgements, and the means over them."""
        baseline = {unit: float(values.mean()) for unit, values in held.baseline_lengths.items()}
        return replace(
            self,
            n=len(held.prompts),
            per_prompt=held,
            lengths={unit: Figure(float(values.mean())) for unit, values in held.lengths.items()},
            scores={name: Figure(float(score(held.preference_P).mean())) for name, score in JUDGED_SCORES.items()},
            baseline_lengths=baseline or self.baseline_lengths,
        )

    def fields(self) -> dict[str, Any]:
        """Everything by which runs can be told apart."""
        own = {"name": self.name, "algorithm": self.algorithm, "seed": self.seed, "arm": self.arm}
        return dict(self.settings) | {name: value for name, value in own.items() if value not in ("", None)}


def bring_together(records: Sequence[RunRecord], length: str, score: str) -> list[RunRecord]:
    """One record per run: what a run folder or a table knows of a judged run's settings joins its judgements, by name.

    Several runs of one name that each have the score get the folder that they come from into their names.

    Raises:
        DataError: there is no run, or one that lacks the length or the score.
    """
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.name, []).append(record)
    runs: list[RunRecord] = []
    for group in groups.values():
        points = [record for record in group if record.has(length, score)]
        others = [record for record in group if not record.has(length, score)]
        if not points:
            _refuse_without(group[0], length, score)
        if len(points) > 1:
            runs += [_with_place(record) for record in points]
            if others:
                what = f"belongs to a run called '{others[0].name}', but there are {len(points)}"
                raise DataError(what, where=others[0].where, fix="Give the runs different names.")
        else:
            runs.append(_joined(points[0], others))
    if not runs:
        raise DataError("there is no run", where="--runs", fix="Give folders or files of runs that ended.")
    twice = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    if twice:
        where = next(run.where for run in reversed(runs) if run.name == twice[0])
        raise DataError(f"there are two runs called '{twice[0]}'", where=where, fix="Name each run once.")
    return runs


def _refuse_without(record: RunRecord, length: str, score: str) -> None:
    if score in record.scores:
        known = " and ".join(record.lengths) or "none"
        fix = f"Pass --x {next(iter(record.lengths))}." if record.lengths else "Give runs of known length."
        raise DataError(f"the run has no mean length in {length} (it has {known})", where=record.where, fix=fix)
    known = ", ".join(record.scores) or "none"
    more = f" Or pass --y {next(iter(record.scores))}." if record.scores else ""
    judged = "Judge its outputs and give the judgements too." if score in JUDGED_SCORES else "Leave it out."
    raise DataError(f"the run has no {score} (scores it has: {known})", where=record.where, fix=judged + more)


def _with_place(record: RunRecord) -> RunRecord:
    place = Path(record.where.split(", row ")[0])
    folder = place.parent.name if place.suffix else place.name
    return replace(record, name=f"{folder}/{record.name}")


def _joined(point: RunRecord, others: Sequence[RunRecord]) -> RunRecord:
    for other in others:
        point = replace(
            point,
            arm=point.arm or other.arm,
            algorithm=point.algorithm or other.algorithm,
            seed=other.seed if point.seed is None else point.seed,
            settings={**other.settings, **point.settings},
        )
    return point


def refuse_mixture(records: Sequence[RunRecord], length: str, score: str, prompts: Literal["same", "shared"]) -> None:
    """Refuse runs whose scores or lengths do not mean the same.

    Args:
        records: the runs.
        length, score: the axes.
        prompts: ``shared`` lets runs differ in the prompts that they were judged on, where these are known one by one.

    Raises:
        DataError: different baselines, judges, settings of the judge, units of length or prompts.
    """
    if length == "tokens":
        fix = "Pass --x characters, or count all tokens alike with --tokenizer."
        _one(records, "token_unit", "lengths are in", fix)
    if score in JUDGED_SCORES:
        _one(records, "baseline", "the baseline is", "Scores against different baselines cannot be compared.")
        _refuse_two_answers(records)
        _one(records, "judge", "the judge is", "Compare scores of one judge only.")
        _one_judge_settings(records)
    if score == "quality":
        fix = "Rewards of different models have no common unit; compare win scores, or runs of one reward."
        _one(records, "reward", "the reward is", fix)
    by_prompt = all(record.per_prompt for record in records)
    if not (prompts == "shared" and by_prompt):
        _one_prompt_set(records, " Or pass --prompts shared." if by_prompt else "")


def on_shared_prompts(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs on the prompts for which all of them have a preference, in the same order, with the means over these.

    Raises:
        DataError: there is no such prompt.
    """
    held = [record.per_prompt for record in records if record.per_prompt]
    shared = sorted(set.intersection(*(set(one.prompts) for one in held)))
    if not shared:
        raise DataError("no prompt is judged for all runs", where="--runs", fix="Judge them on the same prompts.")
    return [r.with_prompts(one.only(shared)) for r, one in zip(records, held, strict=True)]


def _one_prompt_set(records: Sequence[RunRecord], more: str) -> None:
    known = [record for record in records if record.prompt_set]
    for record in known[1:]:
        if record.prompt_set != known[0].prompt_set:
            what, here, there = f"judged on other prompts than {known[0].where}", record.per_prompt, known[0].per_prompt
            if here and there:
                counts = len(here.judged - there.judged), len(there.judged - here.judged)
                what += f" ({counts[0]} only here, {counts[1]} only there)"
            raise DataError(what, where=record.where, fix=f"Judge all runs on the same prompts.{more}")


def _one(records: Sequence[RunRecord], name: str, words: str, fix: str) -> None:
    first: dict[Any, RunRecord] = {}
    for record in records:
        if (value := getattr(record, name)) is not None:
            first.setdefault(value, record)
    if len(first) > 1:
        (one, there), (other, here), *_ = first.items()
        raise DataError(f"{words} '{other}', but '{one}' in {there.where}", where=here.where, fix=fix)


def _one_judge_settings(records: Sequence[RunRecord]) -> None:
    known = [record for record in records if record.judge_settings]
    for record in known[1:]:
        there, here = known[0].judge_settings or {}, record.judge_settings or {}
        changed = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
        if changed:
            what = f"the judge has another {changed[0]} than in {known[0].where}"
            raise DataError(what, where=record.where, fix="Compare scores of one judge only.")


def _refuse_two_answers(records: Sequence[RunRecord]) -> None:
    answers: dict[str, tuple[str, RunRecord]] = {}
    for record in records:
        held = record.per_prompt
        for prompt, answer in zip(held.prompts, held.baseline_answers, strict=False) if held else ():
            there, first = answers.setdefault(prompt, (answer, record))
            if there != answer:
                what = f"the baseline '{record.baseline}' gives other answers than in {first.where}"
                raise DataError(what, where=record.where, fix="Judge all runs against one file of outputs.")


# ---- arms ------------------------------------------------------------------------------------------------------------


def arms_of(records: Sequence[RunRecord], fields: Sequence[str] = (), pattern: str = "") -> dict[str, str]:
    """The arm of each run, by its name: :func:`arm_of`, where paths that differ have names that differ."""
    asked = fields or ("reward", "reward_model")
    values = [record.fields().get(name) for record in records for name in asked]
    names = distinct_names(value for value in values if isinstance(value, str) and "/" in value)
    return {record.name: arm_of(record, fields, pattern, names) for record in records}


def arm_of(
    record: RunRecord, fields: Sequence[str] = (), pattern: str = "", names: Mapping[str, str] | None = None
) -> str:
    """The arm of a run.

    Args:
        record: the run.
        fields: settings or columns whose values name the arm, one after the other. Of a path the folder's name is used.
        pattern: a regular expression that is looked for in the run's name, then in its place; its first group (or all
            of it) names the arm.
        names: of paths; their last telling part by default.

    Returns:
        Without both: what the record says; of a training run its reward with clip and penalty; else its name.

    Raises:
        ConfigError: the run has no such field, or the pattern is not found.
    """
    if fields:
        known = record.fields()
        for name in fields:
            if name not in known:
                fix = f"Known there: {', '.join(sorted(known))}."
                raise ConfigError(f"the run '{record.name}' ({record.where}) has no '{name}'", where="--arm", fix=fix)
        return ", ".join(value_text(known[name], names) for name in fields)
    if pattern:
        for text in (record.name, record.where):
            if found := re.search(pattern, text):
                return (found.group(1) if found.re.groups else found.group()) or record.name
        what = f"'{pattern}' is not found in '{record.name}' or '{record.where}'"
        raise ConfigError(what, where="--arm_pattern", fix="Give a pattern that fits every run.")
    return record.arm or reward_arm(record.settings, names) or record.name


def reward_arm(settings: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """A reward with its mitigations, of the settings of a training run; empty where no reward is named."""
    named = settings.get("reward") or settings.get("reward_model")
    if not named:
        return ""
    clip, penalty = (_number(settings.get(name)) for name in ("reward_clip", "length_penalty"))
    words = value_text(named, names)
    words += f" + clip {clip:g}" if clip is not None and clip < math.inf else ""
    return words + (f" + penalty {penalty:g}" if penalty else "")


def value_text(value: Any, names: Mapping[str, str] | None = None) -> str:
    """A setting as a word: numbers short, of a path the name of the run or model (in ``names``, where it is there)."""
    if isinstance(value, str) and "/" in value:
        return (names or {}).get(value) or place_name(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def as_point(record: RunRecord, arm: str, length: str, score: str) -> RunPoint:
    """The run as a point of a figure.

    Raises:
        DataError: its length or score is not a number.
    """
    x, y = record.lengths[length], record.scores[score]
    for name, value in ((length, x.value), (score, y.value)):
        if value is None or not math.isfinite(value):
            what = f"the {name} of the run is not a number"
            raise DataError(what, where=record.where, fix="Leave runs that failed out.")
    assert x.value is not None
    assert y.value is not None
    settings = {n: value_text(v) if isinstance(v, str) else v for n, v in record.settings.items()}
    return RunPoint(
        arm, x.value, y.value, record.name, record.algorithm, settings, record.seed, record.n,
        score_low=y.low, score_high=y.high, length_low=x.low, length_high=x.high,
    )  # fmt: skip
