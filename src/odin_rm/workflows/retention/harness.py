"""The door to EleutherAI's ``lm-eval`` harness: which tasks there are, what a model makes of them."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import ConfigError, MissingExtraError, OdinError
from odin_rm.evaluation.retention import Measure
from odin_rm.model.device import pick_device
from odin_rm.model.policy import load_policy
from odin_rm.model.scoring import DTYPES

if TYPE_CHECKING:
    from odin_rm.workflows.retention.config import RetentionConfig

BOOTSTRAP = 1000
"""Resamples for the standard errors of metrics that have no formula."""


class Harness:
    """The harness with its tasks, those of ``include_path`` among them.

    Args:
        config: the settings.

    Raises:
        MissingExtraError: it is not installed.
        ConfigError: the tasks in ``include_path`` cannot be read.
    """

    def __init__(self, config: RetentionConfig) -> None:
        self.config = config
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        try:
            from lm_eval import evaluator
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise MissingExtraError("lm_eval", "retention") from error
        self.version = version("lm_eval")
        # They call programs to describe the machine, one of which says "fatal" where no repository is. Not needed here.
        evaluator.get_git_commit_hash, evaluator.add_env_info = (lambda: None), (lambda results: None)
        with _one_line("--include_path", "Mend the task files there."):
            self._tasks: Any = TaskManager(include_path=config.include_path)
        self._model: tuple[str, Any] | None = None

    def choose(self, names: Sequence[str]) -> list[str]:
        """The tasks and groups that the names stand for (``*`` is any text), with their questions at hand.

        Raises:
            ConfigError: an unknown name, or a task whose questions or description cannot be read.
        """
        chosen: dict[str, None] = {}
        for name in names:
            found = self._tasks.match_tasks([name])
            if not found:
                near = difflib.get_close_matches(name, self._tasks.all_tasks, n=1)
                fix = f"Did you mean '{near[0]}'?" if near else "Put tasks of your own into --include_path."
                raise ConfigError(f"there is no task '{name}'", where="--tasks", fix=fix)
            chosen |= dict.fromkeys(found)
        for name in chosen:
            with _one_line(f"task '{name}'", "See to the network, or to the task's file and data."), _no_bars():
                self._tasks.load([name])
        return list(chosen)

    def measure(self, path: str, task: str) -> list[Measure]:
        """What the model at ``path`` makes of a task; the model stays loaded for the next one.

        Raises:
            OdinError: the model cannot be loaded, or the harness cannot measure it on this task.
        """
        from lm_eval import simple_evaluate

        config = self.config
        with _one_line(f"task '{task}'", "Leave the task out, or give other settings."):
            results = simple_evaluate(
                model=self._load(path),
                tasks=[task],
                num_fewshot=config.num_fewshot,
                limit=config.limit,
                bootstrap_iters=BOOTSTRAP,
                apply_chat_template=config.apply_chat_template,
                task_manager=self._tasks,
                random_seed=config.seed,
                numpy_random_seed=config.seed,
                torch_random_seed=config.seed,
                fewshot_random_seed=config.seed,
            )
        return read_measures(results)

    def _load(self, path: str) -> Any:
        if self._model is None or self._model[0] != path:
            from lm_eval.models.huggingface import HFLM

            self._model = None  # only one model has to fit
            config = self.config
            model, tokenizer = load_policy(
                path,
                dtype=DTYPES[config.dtype] if config.dtype else None,
                attn_implementation=config.attn_implementation,
                trust_remote_code=config.trust_remote_code,
            )
            model = model.to(pick_device(config.device)).eval()
            window = {"batch_size": config.batch_size, "max_length": config.max_length}
            self._model = path, HFLM(pretrained=model, tokenizer=tokenizer, **window)
        return self._model[1]


def read_measures(results: Mapping[str, Any]) -> list[Measure]:
    """The measures in what ``simple_evaluate`` returns for one task, group or tag: groups first, then their tasks."""
    children: Mapping[str, Sequence[str]] = results.get("group_subtasks") or {}
    names = [*(name for name in results["results"] if name in children), *results["results"]]
    answers = _answers(results.get("samples") or {})
    with_figures = [name for name in names if any(_is_figure(*item) for item in results["results"][name].items())]
    parts = {child for name in with_figures for child in children.get(name, ())}
    measures = []
    for name in dict.fromkeys(names):
        for column, value in results["results"][name].items():
            if not _is_figure(column, value):
                continue
            metric, _, chosen = column.partition(",")
            error = results["results"][name].get(f"{metric}_stderr,{chosen}")
            behind = {task: answers.get((task, metric, chosen), {}) for task in _leaves(name, children)}
            better = (results.get("higher_is_better") or {}).get(name, {}).get(metric)
            measures.append(
                Measure(
                    task=name,
                    metric=metric,
                    filter=chosen,
                    value=float(value),
                    standard_error=float(error) if _is_number(error) else None,
                    higher_is_better=better,
                    answers=behind if all(behind.values()) else {},
                    part=name in parts,
                )
            )
    return measures


# ---- internals -------------------------------------------------------------------------------------------------------


def _is_figure(column: str, value: Any) -> bool:
    metric, comma, _ = column.partition(",")
    return bool(comma) and not metric.endswith("_stderr") and _is_number(value)


def _leaves(name: str, children: Mapping[str, Sequence[str]]) -> list[str]:
    below = children.get(name)
    return [leaf for child in below for leaf in _leaves(child, children)] if below else [name]


def _answers(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[tuple[str, str, str], dict[str, float]]:
    """Numbers by task, metric and filter, then by question: its place in the data and its content."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for task, rows in samples.items():
        for row in rows:
            question = f"{row['doc_id']}:{str(row.get('doc_hash', ''))[:16]}"
            for metric in row["metrics"]:
                if _is_number(row[metric]):
                    found.setdefault((task, metric, row["filter"]), {})[question] = float(row[metric])
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, str) or value is None:
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


@contextmanager
def _no_bars() -> Iterator[None]:
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


@contextmanager
def _one_line(where: str, fix: str) -> Iterator[None]:
    """What the harness refuses is a task, its data or a setting, and becomes one line."""
    try:
        yield
    except OdinError:
        raise
    except Exception as error:  # task files run code and read data, so all kinds of failure come
        what = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"the harness refuses it ({what})", where=where, fix=fix) from error
