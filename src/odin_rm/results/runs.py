"""Where runs lie: judged outputs, win rates, training runs, sweeps, experiments of the testbed, tables.

What a folder or file is follows from what it holds; :func:`read_run_records` says of each run what that place knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.core.files import FORMATS, read_rows
from odin_rm.core.reading import read_bytes
from odin_rm.evaluation.records import Figure
from odin_rm.results.annotations import (
    SystemAnnotations,
    annotation_files,
    prompt_digest,
    prompt_set_digest,
    read_annotations,
)
from odin_rm.results.contents import (
    METRICS,
    as_written,
    expanded,
    figure_of,
    kind_of_folder,
    read_log,
    read_object,
    read_settings,
    read_sweep,
)
from odin_rm.results.run_records import JUDGED_SCORES, LENGTHS, PerPrompt, RunRecord, reward_arm
from odin_rm.results.run_table import read_table

LAST_SHARE = 0.1
"""Of a training run's logged rows, the share at its end whose mean is the run's."""
START, TRUTH = "the starting policy", "true quality"
"""Baseline and judge of the testbed's win scores."""
_HOLDS_NO_RUN = "Give folders of judge, rl or sweep, annotation files, win-rate's output, or a table."


@dataclass(frozen=True)
class ReadOptions:
    """How runs are read.

    Attributes:
        length, score: the axes; what a table's columns without further name are.
        count_tokens: of a text.
        token_unit: what it counts.
        on_bad_row: stop at judgements that cannot be used, or leave them out and count them.
    """

    length: str = "tokens"
    score: str = "win_score"
    count_tokens: Callable[[str], int] = lambda text: len(text.split())
    token_unit: str = "words"
    on_bad_row: Literal["error", "skip"] = "error"


@dataclass
class Found:
    """What was read.

    Attributes:
        records: of all places, in order.
        left_out: number of rows or runs left out, by reason.
    """

    records: list[RunRecord] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_run_records(places: Sequence[str], options: ReadOptions) -> Found:
    """Read all runs that files, folders and patterns (``runs/*``) name.

    Raises:
        DataError: nothing is there, a place that is given twice or holds no run, unusable content.
    """
    found = Found()
    seen: set[Path] = set()
    for path in expanded(places):
        if path.resolve() in seen:
            raise DataError("is given twice", where=str(path), fix="Name each run once.")
        seen.add(path.resolve())
        _read_folder(path, options, found) if path.is_dir() else _read_file(path, options, found)
    return found


def _read_folder(folder: Path, options: ReadOptions, found: Found) -> None:
    kind = kind_of_folder(folder)
    if kind == "sweep":
        _read_sweep(folder, options, found)
    elif kind == "evaluation":
        _read_evaluation(folder, options, found)
    elif kind == "judged" or (kind is None and _annotations_within(folder)):
        _read_judged(folder, options, found)
    elif kind == "experiment":
        _read_file(folder / "summary.json", options, found)
    elif kind == "training":
        found.records.append(_training_run(folder, found))
    elif (folder / "cache.sqlite").exists():
        fix = "Run odin-rm judge again, it goes on where it stopped."
        raise DataError("the judgements are not complete", where=str(folder), fix=fix)
    else:
        endings = tuple(ending for suffix in FORMATS for ending in (suffix, suffix + ".gz"))
        files = sorted(path for path in folder.iterdir() if path.name.lower().endswith(endings) and path.is_file())
        if not files:
            raise DataError("the folder holds no run", where=str(folder), fix=_HOLDS_NO_RUN)
        for path in files:
            _read_file(path, options, found)


def _annotations_within(folder: Path) -> bool:
    """Whether folders of judgements lie in a folder of nothing else."""
    if (folder / "cache.sqlite").exists():
        return False
    return any(path.name.split(".")[0] == "annotations" for path in folder.rglob("annotations.*"))


def _read_file(path: Path, options: ReadOptions, found: Found) -> None:
    if path.suffix == ".json" and path.is_file() and read_bytes(path).lstrip()[:1] == b"{":
        content = read_object(path, _HOLDS_NO_RUN)
        read = experiment_runs if isinstance(content.get("runs"), list) else None
        if isinstance(content.get("systems"), list) or "win_rate" in content:
            read = _win_rates
        if read is None:
            raise DataError("holds no run", where=str(path), fix=_HOLDS_NO_RUN)
        with as_written(path):
            found.records += read(path, content)
        return
    rows = read_rows(path)
    first = next(rows, None)
    if first is not None and "preference" in first[1]:
        _read_judged(path, options, found)
        return
    every = chain([] if first is None else [first], rows)
    found.records += read_table(path, every, options.length, options.score)


# ---- judgements ------------------------------------------------------------------------------------------------------


def _read_judged(place: Path, options: ReadOptions, found: Found) -> None:
    """Each annotation file by itself: two folders may hold judgements of systems of the same name."""
    for path in annotation_files([place]):
        annotations = read_annotations([path], on_bad_row=options.on_bad_row)
        found.left_out.update(annotations.left_out)
        note = path.parent / "judge.json"
        judge = (
            _judge_settings(read_object(note)) if note.is_file() and path.name.split(".")[0] == "annotations" else None
        )
        found.records += [
            replace(judged_record(system, options), judge_settings=judge) for system in annotations.systems
        ]


def _judge_settings(note: Mapping[str, Any]) -> dict[str, Any] | None:
    """What else than its name makes a judge; recorded judgements are of many files and say nothing of theirs."""
    judge = note.get("judge")
    return judge if isinstance(judge, dict) and judge.get("kind") != "recorded" else None


def judged_record(system: SystemAnnotations, options: ReadOptions) -> RunRecord:
    """A judged system as a run, prompt by prompt."""
    count = options.count_tokens

    def lengths(texts: Sequence[str]) -> dict[str, np.ndarray]:
        return {"tokens": np.array([count(t) for t in texts], float), "characters": np.array([len(t) for t in texts])}

    own, baseline = lengths(system.candidate_outputs), lengths(system.baseline_outputs)
    judged = frozenset(map(prompt_digest, system.judged))
    held = PerPrompt(
        prompts=tuple(map(prompt_digest, system.prompts)),
        judged=judged,
        preference_P=np.asarray(system.preference, dtype=np.float64),
        lengths={unit: np.asarray(own[unit], dtype=np.float64) for unit in LENGTHS},
        baseline_lengths={unit: np.asarray(baseline[unit], dtype=np.float64) for unit in LENGTHS},
        baseline_answers=tuple(map(prompt_digest, system.baseline_outputs)),
    )
    return RunRecord(
        name=system.candidate,
        where=system.files[0],
        n=len(system.prompts),
        token_unit=options.token_unit,
        baseline=system.baseline,
        judge=system.annotator,
        prompt_set=prompt_set_digest(judged),
    ).with_prompts(held)


def _win_rates(path: Path, content: Mapping[str, Any]) -> list[RunRecord]:
    settings = content.get("settings") or {}
    records = []
    for number, system in enumerate(content.get("systems") or [content], start=1):
        where = f"{path}, system {number}" if "systems" in content else str(path)
        lengths = {unit: figure_of(where, system, f"mean_{unit}") for unit in LENGTHS}
        record = RunRecord(
            name=str(system.get("generator") or path.stem),
            where=where,
            n=system.get("n"),
            token_unit=str(settings.get("token_unit") or "words"),
            lengths=lengths,
            scores={name: figure_of(where, system, name) for name in JUDGED_SCORES},
            baseline=system.get("baseline"),
            judge=system.get("judge"),
            baseline_lengths={unit: figure_of(where, system, f"baseline_mean_{unit}").value or 0.0 for unit in LENGTHS},
            prompt_set=system.get("prompt_set"),
        )
        columns = system.get("per_prompt")
        if columns:
            held = PerPrompt(
                prompts=tuple(columns["prompts"]),
                judged=frozenset(columns["prompts"]),
                preference_P=np.array(columns["preference"], dtype=np.float64),
                lengths={unit: np.array(columns[unit], dtype=np.float64) for unit in LENGTHS},
            )
            if len({len(held.prompts), len(held.preference_P), *map(len, held.lengths.values())}) > 1:
                raise ValueError("columns of per_prompt have different lengths")
            record = record.with_prompts(held)
        records.append(record)
    return records


# ---- training runs ---------------------------------------------------------------------------------------------------


def _training_run(folder: Path, found: Found) -> RunRecord:
    """Settings of ``config.yaml``; lengths and rewards of the last rows of ``metrics.jsonl``; the truth where known."""
    settings = read_settings(folder)
    rows, cut = read_log(folder / METRICS)
    if cut:
        found.left_out["last lines of logs that are cut off"] += 1
    tokens, quality = (_last_mean(rows, name) for name in ("mean_response_tokens", "mean_quality_reward"))
    scores: dict[str, Figure] = {} if quality is None else {"quality": Figure(quality)}
    measured = read_object(folder / "result.json").get("measured", {}) if (folder / "result.json").is_file() else {}
    if "mean_tokens" in measured:
        where = str(folder / "result.json")
        tokens = figure_of(where, measured, "mean_tokens").value
        scores |= {name: figure_of(where, measured, name) for name in ("true_quality", "win_score") if name in measured}
    seed = settings.get("seed")
    judged = "win_score" in scores
    return RunRecord(
        name=folder.resolve().name,
        where=str(folder),
        arm=reward_arm(settings),
        algorithm=str(settings.get("algorithm", "")),
        seed=seed if isinstance(seed, int) else None,
        settings=settings,
        lengths={} if tokens is None else {"tokens": Figure(tokens)},
        scores=scores,
        baseline=START if judged else None,
        judge=TRUTH if judged else None,
    )


def _last_mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    return float(np.mean(values[-max(1, int(LAST_SHARE * len(values))) :])) if values else None


def _read_sweep(folder: Path, options: ReadOptions, found: Found) -> None:
    for one in read_sweep(folder):
        if one.status != "done":
            found.left_out[f"runs of a sweep that are {one.status}"] += 1
            continue
        inside = Found()
        if one.folder.is_dir():
            _read_folder(one.folder, options, inside)
        else:
            raise DataError(
                "the folder of a run that is done is missing", where=str(one.folder), fix="Run the sweep again."
            )
        found.left_out.update(inside.left_out)
        for record in inside.records:
            # The sweep's name of a run is known nowhere else; judgements have the name of what they judge.
            name = record.name if record.per_prompt else one.name
            found.records.append(replace(record, name=name, settings={**record.settings, **one.varied}))


def _read_evaluation(folder: Path, options: ReadOptions, found: Found) -> None:
    """The runs of ``odin-rm evaluate``: their judgements, with the names and settings that it knows of them."""
    with as_written(folder / "evaluation.json"):
        rows = [
            (row["name"], row["status"], row["judged"], dict(row["settings"]))
            for row in read_object(folder / "evaluation.json")["runs"]
        ]
    for run_name, status, place, settings in rows:
        if status != "done":
            found.left_out[f"runs of an evaluation that {status}"] += 1
            continue
        inside = Found()
        _read_judged(folder / str(place), options, inside)
        found.left_out.update(inside.left_out)
        seed = settings.get("seed")
        found.records += [
            replace(
                record,
                name=str(run_name),
                algorithm=str(settings.get("algorithm") or ""),
                seed=seed if isinstance(seed, int) else None,
                settings=settings,
            )
            for record in inside.records
        ]


def experiment_runs(path: Path, content: Mapping[str, Any]) -> list[RunRecord]:
    """The runs of ``summary.json`` of the testbed's commands."""
    records = []
    for number, row in enumerate(content["runs"], start=1):
        where = f"{path}, run {number}"
        settings = dict(row.get("settings") or {}) | {"reward_model": row.get("reward_model")}
        arm = str(row.get("arm") or reward_arm(settings))
        intervals = row.get("intervals") or row
        known = [name for name in ("true_quality", "win_score") if name in intervals or name in row]
        scores = {name: figure_of(where, intervals if name in intervals else row, name) for name in known}
        seed = settings.get("seed")
        records.append(
            RunRecord(
                name=str(row.get("name") or f"{arm}, {row.get('algorithm')}, run {number}"),
                where=where,
                arm=arm,
                algorithm=str(row.get("algorithm") or ""),
                seed=seed if isinstance(seed, int) else None,
                settings={name: value for name, value in settings.items() if value is not None},
                lengths={"tokens": figure_of(where, intervals if "mean_tokens" in intervals else row, "mean_tokens")},
                scores=scores,
                baseline=START,
                judge=TRUTH,
            )
        )
    return records
