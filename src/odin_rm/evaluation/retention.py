"""What a model still knows: a benchmark's figures before and after training, with intervals and paired differences.

A benchmark gives each question a value per model, so two models are compared question by question. With ``w_t`` the
weight of task ``t`` in a group (its share of questions, or equal shares, whichever the group's own figure follows),
``d`` the differences on its ``n_t`` questions:

    difference     = sum_t w_t mean(d_t)
    standard error = sqrt(sum_t w_t^2 var(d_t) / n_t)

A plain task is a group of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from odin_rm.evaluation.bootstrap import LEVEL
from odin_rm.evaluation.win_score import Estimate, permutation_test

Z = float(stats.norm.ppf((1 + LEVEL) / 2))
_SAME = 1e-6

Answers = Mapping[str, Mapping[str, float]]
"""Per task of a group, per question (by its content), the value."""


@dataclass(frozen=True)
class Measure:
    """One metric of a task, or of a group of tasks, as a harness measured it.

    Attributes:
        task, metric, filter: what was measured; ``filter`` is how answers were read off the model's text.
        value: the harness's figure.
        standard_error: the harness's, where it has one.
        higher_is_better: ``None`` where the harness does not say.
        answers: the values behind it; empty where they are no numbers.
        part: whether it is one task of a group that has a figure of its own.
    """

    task: str
    metric: str
    filter: str
    value: float
    standard_error: float | None = None
    higher_is_better: bool | None = None
    answers: Answers = field(default_factory=dict)
    part: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """What has to agree for two measures to be compared."""
        return self.task, self.metric, self.filter

    @property
    def questions(self) -> int:
        """How many questions are behind it, as far as that is known."""
        return sum(map(len, self.answers.values()))

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measure:
        """What :meth:`to_json` gave."""
        return cls(**content)


def task_weights(measure: Measure) -> dict[str, float] | None:
    """The weight of each task in the measure's value; ``None`` where the value is no mean of the answers."""
    answers = {task: list(values.values()) for task, values in measure.answers.items() if values}
    if not answers:
        return None
    for weights in (
        {task: len(values) / measure.questions for task, values in answers.items()},
        {task: 1 / len(answers) for task in answers},
    ):
        value = sum(weights[task] * math.fsum(values) / len(values) for task, values in answers.items())
        if math.isclose(value, measure.value, rel_tol=_SAME, abs_tol=_SAME):
            return weights
    return None


def with_interval(measure: Measure) -> Estimate:
    """The value with its 95 % interval.

    Wilson's interval where every answer is right or wrong and all count alike; else ``value +- 1.96 standard errors``.
    """
    weights = task_weights(measure)
    error = measure.standard_error
    if weights is not None:
        error = _standard_error({task: np.array([*measure.answers[task].values()]) for task in weights}, weights)
    values = [value for task in measure.answers.values() for value in task.values()]
    alike = weights is not None and all(
        math.isclose(weight, len(measure.answers[task]) / len(values)) for task, weight in weights.items()
    )
    if alike and set(values) <= {0.0, 1.0}:
        low, high = stats.binomtest(int(sum(values)), len(values)).proportion_ci(LEVEL, method="wilson")
        return Estimate(measure.value, float(low), float(high), standard_error=error)
    if error is None:
        return Estimate(measure.value, why="no interval: neither a standard error nor a value for each question")
    return Estimate(measure.value, measure.value - Z * error, measure.value + Z * error, standard_error=error)


def difference(before: Measure, after: Measure) -> dict[str, Any]:
    """``after`` minus ``before`` with its interval, paired by question where that is possible.

    Returns:
        ``value``, ``low``, ``high``, ``standard_error``; ``paired``; where paired, ``p_value`` (two-sided, by
        exchanging the two models' answers question by question) and ``changed``, the number of questions with another
        value; ``why`` where it is not paired or has no interval.
    """
    value = after.value - before.value
    weights, why = _common_weights(before, after)
    if weights is None:
        errors = [with_interval(side).standard_error for side in (before, after)]
        error = None if None in errors else math.hypot(*(float(e or 0.0) for e in errors))
        return {**_normal(value, error, why).to_json(), "paired": False}
    differences = {
        task: np.array([after.answers[task][key] - old for key, old in before.answers[task].items()])
        for task in weights
    }
    terms = np.concatenate([weights[task] * values / len(values) for task, values in differences.items()])
    error = _standard_error(differences, weights)
    return {
        **_normal(value, error, None if error is not None else "no interval: a task has one question").to_json(),
        "paired": True,
        "p_value": float(permutation_test(terms[:, None])[0]),
        "changed": int(np.count_nonzero(terms)),
    }


def compare_models(names: Sequence[str], measures: Sequence[Sequence[Measure]]) -> list[dict[str, Any]]:
    """A row per task and metric: every model's figure, and each later model's difference from the first.

    Args:
        names: of ``M`` models.
        measures: ``M`` lists; a metric that a model lacks is left out for it.

    Returns:
        Rows of ``task``, ``metric``, ``filter``, ``part``, ``higher_is_better``, ``questions``, ``models`` and
        ``differences``.
    """
    by_key = [{measure.key: measure for measure in of_model} for of_model in measures]
    rows = []
    for key in dict.fromkeys(key for of_model in by_key for key in of_model):
        found = [(name, of_model[key]) for name, of_model in zip(names, by_key, strict=True) if key in of_model]
        first = by_key[0].get(key)
        task, metric, chosen = key
        rows.append(
            {
                "task": task,
                "metric": metric,
                "filter": chosen,
                "part": found[0][1].part,
                "higher_is_better": found[0][1].higher_is_better,
                "questions": found[0][1].questions or None,
                "models": [{"model": name, **with_interval(one).to_json()} for name, one in found],
                "differences": [
                    {"model": name, **difference(first, one)}
                    for name, one in found
                    if first is not None and one is not first
                ],
            }
        )
    return rows


# ---- internals -------------------------------------------------------------------------------------------------------


def _common_weights(before: Measure, after: Measure) -> tuple[dict[str, float] | None, str | None]:
    weights = task_weights(before)
    if weights is None or task_weights(after) is None:
        return None, "not paired: the figure is no mean over questions"
    same = before.answers.keys() == after.answers.keys() and all(
        before.answers[task].keys() == after.answers[task].keys() for task in before.answers
    )
    return (weights, None) if same else (None, "not paired: measured on different questions")


def _standard_error(values: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> float | None:
    if any(len(of_task) < 2 for of_task in values.values()):
        return None
    return math.sqrt(sum(weights[task] ** 2 * of_task.var(ddof=1) / len(of_task) for task, of_task in values.items()))


def _normal(value: float, error: float | None, why: str | None) -> Estimate:
    if error is None:
        return Estimate(value, why=why or "no interval: a model has no standard error")
    return Estimate(value, value - Z * error, value + Z * error, why, standard_error=error)
