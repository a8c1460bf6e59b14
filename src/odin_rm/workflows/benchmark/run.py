"""A benchmark from its published files: its own figures, and every attribute against the same scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odin_rm.core.errors import DataError, OutputError, RowError
from odin_rm.core.files import FORMATS, atomic_write_json, read_rows
from odin_rm.core.rows import row_format
from odin_rm.core.system import is_there
from odin_rm.data.columns import Columns
from odin_rm.data.render import response_texts
from odin_rm.evaluation.attribute_audit import AttributedScores, audit_attributes
from odin_rm.evaluation.benchmarks import BENCHMARKS, Benchmark, Item
from odin_rm.evaluation.bootstrap import PromptBootstrap
from odin_rm.evaluation.stored_scores import read_stored_scores
from odin_rm.workflows.benchmark.config import BenchmarkConfig


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Compute the figures of every model and write the file.

    Returns:
        The content of the file; with scores of several models ``models`` holds each, and the first is the head.

    Raises:
        OdinError: files that are not the benchmark's, scores that name none of its responses, an existing output.
    """
    if is_there(config.output) and not config.overwrite_output:
        fix = "Choose another one, or pass --overwrite to replace it."
        raise OutputError("the output file exists already", where=config.output, fix=fix)
    benchmark = BENCHMARKS[config.name]
    items = read_items(config.path, config.name)
    calibration: dict[str, Any] | None = None
    if config.model:
        by_model, calibration = _by_model(config, items)
    else:
        by_model = _from_file(config, benchmark, items)
    models = {model: _content(config, benchmark, items, scores) for model, scores in by_model.items()}
    first = next(iter(models))
    content: dict[str, Any] = {"benchmark": config.name, "model": first, **models[first]}
    if calibration is not None:
        content["calibration"] = calibration
    if len(models) > 1:
        content["models"] = models
    atomic_write_json(config.output, content)
    return content


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_items(path: str, name: str) -> list[Item]:
    """The items of a benchmark's file, or of every file in a folder.

    Raises:
        DataError: there is no such file, a row is none of this benchmark's, or an id is there twice.
    """
    benchmark, items, seen = BENCHMARKS[name], [], set()
    for file in _files(Path(path)):
        for number, row in read_rows(file):
            try:
                item = benchmark.read(row)
            except (KeyError, TypeError, AttributeError, RowError) as error:
                what = error.what if isinstance(error, RowError) else f"is no row of {name} (field {error})"
                fix = "Give the benchmark's published file."
                raise DataError(what, where=f"{file}, row {number}", fix=fix) from error
            if item.key in seen:
                fix = "Give each part of the benchmark once."
                raise DataError(f"has the id '{item.key}' again", where=f"{file}, row {number}", fix=fix)
            seen.add(item.key)
            items.append(item)
    return items


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = [file for file in sorted(path.rglob("*")) if file.is_file() and _readable(file)]
    if not found:
        fix = f"Give the file, or a folder with {', '.join(FORMATS)} in it."
        raise DataError("the folder holds no rows", where=str(path), fix=fix)
    yield from found


def _readable(file: Path) -> bool:
    try:
        row_format(file)
    except DataError:
        return False
    return True


# ---- scores ----------------------------------------------------------------------------------------------------------

Known = dict[tuple[str, str], float]


def _by_model(config: BenchmarkConfig, items: list[Item]) -> tuple[dict[str, Known], dict[str, Any] | None]:
    """The model's scores, and what calibrates them."""
    from odin_rm.workflows.model_scores import calibration_record, scorer_of, scores_of

    assert config.model is not None
    places = [(item, label) for item in items for label in item.candidates]
    scorer = scorer_of(config, config.model)
    prompts, responses = [item.prompt for item, _ in places], [item.candidates[label] for item, label in places]
    quality, _ = scores_of(scorer, prompts, responses, config)
    scored = zip(places, quality.tolist(), strict=True)
    known = {(item.key, label): one for (item, label), one in scored if math.isfinite(one)}
    return {config.model: known}, calibration_record(scorer)


def _from_file(config: BenchmarkConfig, benchmark: Benchmark, items: list[Item]) -> dict[str, Known]:
    """Scores by model, found by the id and the candidate's label, or by the candidate's text."""
    assert config.scores is not None
    columns = Columns(config.columns)
    labels = {item.key: dict(zip(item.candidates, item.candidates, strict=True)) for item in items}
    for item in items:
        for name, text in item.candidates.items():
            labels[item.key].setdefault(_plain(text), name)
    found: dict[str, Known] = {}
    strangers = rows = 0
    for number, raw in read_rows(config.scores):
        row = columns.apply(raw)
        rows += 1
        key = next((row[n] for n in ("prompt_id", *benchmark.id_names) if row.get(n) is not None), None)
        known = labels.get(str(key), {}).get(_plain(row.get("response")))
        if known is None:
            strangers += 1
            continue
        label = known
        if row.get("score") is None:
            continue
        try:
            score = float(row["score"])
        except (TypeError, ValueError):
            where = f"{config.scores}, row {number}"
            raise DataError(f"'score' is {row['score']!r}, not a number", where=where, fix="Write a number.") from None
        found.setdefault(str(row.get("model") or "scores"), {})[str(key), label] = score
    if not found:
        names = ", ".join(dict.fromkeys(("prompt_id", *benchmark.id_names)))
        fix = f"Give an id ({names}), response (its label or text) and score; --columns maps names."
        raise DataError(f"none of {rows} rows scores a response of {config.name}", where=config.scores, fix=fix)
    return found


def _plain(text: Any) -> str:
    return text if isinstance(text, str) else str(text)


# ---- figures ---------------------------------------------------------------------------------------------------------


def _content(config: BenchmarkConfig, benchmark: Benchmark, items: list[Item], scores: Known) -> dict[str, Any]:
    figures = benchmark.figures(items, scores)
    complete = [item for item in items if all((item.key, label) in scores for label in item.candidates)]
    rows = [
        {
            "prompt_id": item.key,
            "response": _text(response),
            "score": scores.get((item.key, label)),
            "label": int(label in item.right),
        }
        for item in items
        for label, response in item.candidates.items()
    ]
    (stored,) = read_stored_scores(rows, attributes=config.attributes)
    sampler = PromptBootstrap(stored.prompt, config.bootstrap_samples, config.seed)
    columns = AttributedScores(stored.quality, stored.prompt, stored.attributes, stored.chosen, stored.rejected)
    found = audit_attributes(columns, sampler)
    return {
        "figures": figures,
        "items": len(items),
        "items_without_score": len(items) - len(complete),
        "attributes": {
            name: {"words": stored.described[name].words, "unit": stored.described[name].unit, **content}
            for name, content in found.attributes.items()
        },
        "between_prompt_share": found.between_prompt_share.to_json(),
        "style_share": found.style_share.to_json(),
        "bootstrap": {"samples": config.bootstrap_samples, "seed": config.seed, "resampled": "prompts"},
    }


def _text(response: Any) -> str:
    return response if isinstance(response, str) else "\n\n".join(response_texts(response))
