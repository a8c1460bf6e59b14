"""What training has cost: benchmarks before and after, through the ``lm-eval`` harness.

The output folder holds ``retention.json`` (every figure), ``retention.md`` and ``retention.tex`` (the table),
``results/MODEL/TASK.json`` (each task as it was measured, which the same command does not measure again),
``config.yaml`` and ``environment.json``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from odin_rm.core.errors import ModelError, OutputError, RunInterrupted
from odin_rm.core.files import atomic_write_json, atomic_write_text, environment_record
from odin_rm.core.reading import read_json
from odin_rm.core.system import writing
from odin_rm.evaluation.retention import Measure, compare_models
from odin_rm.judging.scored import folder_state
from odin_rm.model.backbone import check_model_folder
from odin_rm.model.policy import ADAPTER_CONFIG
from odin_rm.model.storage import ADAPTER_WEIGHTS
from odin_rm.reports.retention_table import retention_latex, retention_markdown
from odin_rm.runs.output_folder import OutputFolder, check_output_folder, kind_of
from odin_rm.workflows.retention.config import RetentionConfig
from odin_rm.workflows.retention.harness import Harness

# What decides a figure, besides the model and the task.
_DECIDES = ("num_fewshot", "limit", "apply_chat_template", "dtype", "max_length", "seed")


def run_retention(config: RetentionConfig, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measure what is not measured yet, compare, write.

    Args:
        config: the settings.
        tell: is told what is going to be measured; the harness itself shows how far it is.

    Returns:
        The content of ``retention.json``: ``models``; ``tasks``, rows as of
        :func:`odin_rm.evaluation.retention.compare_models`; ``harness``, ``settings`` and ``environment``.

    Raises:
        OdinError: bad input (nothing is written), or a task that cannot be measured (those before it are kept).
        RunInterrupted: stopped by a signal; tasks that were done are kept.
    """
    folder = _check_folder(config)
    harness = Harness(config)
    names = _names(config.models)
    for path in config.models:
        _check_policy(path)
    tasks = harness.choose(config.tasks)
    asked = {(path, task): _asked(config, harness.version, path, task) for path in config.models for task in tasks}
    files = {
        (path, task): folder / "results" / _as_file(name) / f"{_as_file(task)}.json"
        for path, name in zip(config.models, names, strict=True)
        for task in tasks
    }
    with OutputFolder(folder, "retention") as output:
        _claim(config, output)
        content = _measure_all(config, folder, harness, names, tasks, asked, files, tell)
        output.complete()
    return content


def _measure_all(
    config: RetentionConfig,
    folder: Path,
    harness: Harness,
    names: list[str],
    tasks: list[str],
    asked: dict[tuple[str, str], dict[str, Any]],
    files: dict[tuple[str, str], Path],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    known = {one: measures for one, file in files.items() if (measures := _read(file, asked[one])) is not None}
    try:
        for (path, task), file in files.items():
            if (path, task) not in known:
                tell(f"{path}: {task} ({len(known) + 1:,} of {len(files):,})")
                known[path, task] = harness.measure(path, task)
                content = [measure.to_json() for measure in known[path, task]]
                atomic_write_json(file, {"asked": asked[path, task], "measures": content})
    except KeyboardInterrupt as stop:
        what = f"{len(known):,} of {len(files):,} tasks are measured"
        raise RunInterrupted(what, where=str(folder), fix="Run the same command again to go on.") from stop
    return _write(
        config,
        folder,
        harness.version,
        names,
        [[measure for task in tasks for measure in known[path, task]] for path in config.models],
    )


# ---- internals -------------------------------------------------------------------------------------------------------


def _names(paths: list[str]) -> list[str]:
    """Short names for tables; the paths themselves where two would be the same."""
    places = [Path(path).absolute() for path in paths]
    names = [place.parent.name if place.name in ("policy", "model") else place.name for place in places]
    return names if len(set(names)) == len(names) else paths


def _as_file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _policy_folder(path: str) -> Path:
    inside = Path(path) / "policy"
    return inside if inside.is_dir() else Path(path)


def _check_policy(path: str) -> None:
    """Refuse what is no model before any other model is measured for hours."""
    folder = _policy_folder(path)
    if not folder.is_dir():
        check_model_folder(path)
    elif (folder / ADAPTER_CONFIG).is_file():
        if not (folder / ADAPTER_WEIGHTS).is_file():
            what = f"the adapter has no weights ({ADAPTER_WEIGHTS})"
            raise ModelError(what, where=str(folder), fix="Copy them there.")
    else:
        check_model_folder(folder)


def _asked(config: RetentionConfig, version: str, path: str, task: str) -> dict[str, Any]:
    """All that decides a figure."""
    return {
        "model": path,
        "model_state": folder_state(str(_policy_folder(path))),
        "task": task,
        "task_files": None if config.include_path is None else folder_state(config.include_path),
        "lm_eval": version,
        **{name: getattr(config, name) for name in _DECIDES},
    }


def _check_folder(config: RetentionConfig) -> Path:
    folder = check_output_folder(config.output, "retention", resume=True, others=("results",))
    named = kind_of(folder) is not None
    if folder.is_dir() and any(folder.iterdir()) and not named and not (folder / "results").is_dir():
        raise OutputError("holds something else than measured tasks", where=str(folder), fix="Choose another folder.")
    return folder


def _claim(config: RetentionConfig, output: OutputFolder) -> None:
    folder = output.claim(resume=True, results=("retention.json", "retention.md", "retention.tex"))
    with writing(folder):
        (folder / "results").mkdir(exist_ok=True)
    atomic_write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
    atomic_write_json(folder / "environment.json", environment_record())


def _read(file: Path, asked: dict[str, Any]) -> list[Measure] | None:
    """What was measured before, under the same conditions."""
    try:
        content = read_json(file)
        if content["asked"] != asked:
            return None
        return [Measure.from_json(one) for one in content["measures"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(
    config: RetentionConfig, folder: Path, version: str, names: list[str], measures: list[list[Measure]]
) -> dict[str, Any]:
    content = {
        "models": [{"name": name, "path": path} for name, path in zip(names, config.models, strict=True)],
        "tasks": compare_models(names, measures),
        "harness": {"package": "lm-eval", "version": version},
        "settings": {name: getattr(config, name) for name in ("tasks", *_DECIDES)},
        "environment": environment_record(),
    }
    atomic_write_text(folder / "retention.md", retention_markdown(content))
    atomic_write_text(folder / "retention.tex", retention_latex(content))
    atomic_write_json(folder / "retention.json", content)
    return content
