"""Learning curves: what runs logged, step by step, one figure for each quantity and all runs in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from odin_rm.core.types import correlation_metric
from odin_rm.data.attributes import ATTRIBUTES, text_attributes
from odin_rm.objectives.registry import Metric, all_metrics
from odin_rm.reports.blocks import format_number
from odin_rm.reports.chart import Chart, Mark, Series
from odin_rm.results.records import TrainingRun

STEP = "optimiser steps"
MOST_RUNS = 12
"""Runs in a figure; more lines cannot be told apart."""
NEAR_ERRORS = 1.96
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True)
class Curve:
    """A quantity of a run.

    Attributes:
        file: name of the figure's files.
        title, label: heading, and axis with its unit.
        logged: its names in ``metrics.jsonl``, the first that a run has.
        looked: its name as measured apart from training (held-out data, the watch), drawn dashed.
        error: name of the standard error of ``looked``.
        caption: what to see in it.
        percent: it is a share.
        marks: lines across the figure.
    """

    file: str
    title: str
    label: str
    logged: tuple[str, ...]
    looked: str = ""
    error: str = ""
    caption: str = ""
    percent: bool = False
    marks: tuple[Mark, ...] = ()


_CHANCE = (Mark(0.5, "chance"),)


def _metric_curve(metric: Metric) -> Curve:
    """The figure of what an objective logs."""
    return Curve(
        metric.file or f"reward_{metric.name}",
        metric.title,
        metric.label,
        (metric.name,),
        metric.held_out,
        caption=metric.caption,
        percent=metric.percent,
        marks=() if metric.mark is None else (Mark(metric.mark, "chance" if metric.mark == 0.5 else ""),),
    )


def _attribute_metrics() -> Iterable[Metric]:
    """The quality head's correlation with the attributes beside length."""
    for name in text_attributes():
        unit = ATTRIBUTES[name].words
        caption = f"Correlation of the quality head with {unit}: the nearer to 0, the less it pays for them."
        held_out = f"eval_{name}_pearson"
        yield Metric(
            correlation_metric(name), f"Quality head and {unit}", f"Pearson with {unit}", caption, held_out, mark=0.0
        )


REWARD_CURVES = (
    Curve("reward_loss", "Loss of the reward model", "loss", ("loss",), "eval_loss",
          caption="The whole objective on the batches, and on held-out pairs where there are any."),
    *(_metric_curve(metric) for metric in [*all_metrics().values(), *_attribute_metrics()]),
)  # fmt: skip
RL_CURVES = (
    Curve("rl_quality", "Quality reward", "quality reward", ("mean_quality_reward",), "watch_quality",
          "watch_quality_error", "The reward that the policy is trained on, before shaping. Different reward models "
          "have different units."),
    Curve("rl_tokens", "Response length", "response tokens", ("mean_response_tokens",), "watch_mean_tokens",
          caption="Mean length of the responses. A quality that rises with it deserves a look at the texts."),
    Curve("rl_length_reward", "Length reward", "length reward", ("mean_length_reward",), "watch_length_reward",
          caption="The length head of the reward model; it is logged only, nothing trains on it."),
    Curve("rl_kl", "Distance from the reference", "KL, nats per response", ("kl_to_reference",), "watch_kl",
          caption="KL of the policy to the policy that it started from."),
    Curve("rl_held_out", "Held-out reward", "held-out reward", (), "watch_held_out", "watch_held_out_error",
          "A reward that training never sees. Where it falls while the quality reward rises, the policy is gaming its "
          "reward."),
    Curve("rl_ended", "Responses that end", "share of responses", ("ended_share",), "watch_ended_share", percent=True,
          caption="Responses that ended by themselves; the others were cut."),
    Curve("rl_entropy", "Entropy", "nats per token", ("entropy",), "watch_entropy",
          caption="Of the policy; a collapse ends exploration."),
    Curve("rl_loss", "Loss of the policy", "loss", ("loss",), caption="Of the optimiser steps; its level says little."),
)  # fmt: skip
POLICY_CURVES = (
    Curve("policy_loss", "Loss of the fine-tuning", "loss", ("loss",), "eval_loss",
          caption="On the batches, and on held-out rows."),
    Curve("policy_accuracy", "Accuracy of the implied reward", "share of pairs in order", ("rewards/accuracies",),
          "eval_rewards/accuracies", percent=True, marks=_CHANCE,
          caption="How many pairs the policy's own log-probabilities order as the annotators do (DPO)."),
    Curve("policy_token_accuracy", "Token accuracy", "share of tokens", ("mean_token_accuracy",),
          "eval_mean_token_accuracy", percent=True, caption="How often the likeliest token is the demonstrated one."),
)  # fmt: skip
CURVES = {"reward": REWARD_CURVES, "rl": RL_CURVES, "policy": POLICY_CURVES}
_LOOKED = {"reward": "held out", "rl": "watch", "policy": "held out"}


def learning_charts(runs: Sequence[TrainingRun], kind: str) -> list[Chart]:
    """A figure for each quantity that at least one run of the kind has logged.

    Args:
        runs: all of one kind; the first :data:`MOST_RUNS` are drawn.
        kind: ``reward``, ``rl`` or ``policy``.
    """
    shown = runs[:MOST_RUNS]
    charts = [_chart(curve, shown, kind) for curve in CURVES[kind]]
    path = _path_chart(shown) if kind == "rl" else None
    return [chart for chart in [*charts, path] if chart is not None]


def _chart(curve: Curve, runs: Sequence[TrainingRun], kind: str) -> Chart | None:
    series = [one for run in runs for one in _series(curve, run, kind)]
    if not series:
        return None
    marks = [*curve.marks, *(_alarms(runs) if kind == "rl" else ())]
    looked = any(one.variant for one in series)
    note = f" Dashed: {_LOOKED[kind]}." if looked and len(series) > len(runs) else ""
    if kind == "rl" and looked:
        note = " Dashed: the watch's prompts, the same at each look" + (
            ", with 95 % intervals." if any(one.low for one in series) else "."
        )
    words = "; ".join(_words(one, curve.percent) for one in series)
    return Chart(
        curve.file,
        curve.title,
        STEP,
        curve.label,
        series,
        curve.caption + note,
        f"Line chart of {curve.label} over {STEP}. {words}.",
        percent=curve.percent,
        marks=marks,
    )


def _series(curve: Curve, run: TrainingRun, kind: str) -> Iterable[Series]:
    for name in curve.logged:
        steps, values = run.column(name)
        if values:
            yield Series(run.name, steps, values)
            break
    steps, values = run.column(curve.looked) if curve.looked else ([], [])
    if values:
        errors = run.column(curve.error)[1] if curve.error else []
        sides: dict[str, Any] = {}
        if len(errors) == len(values):
            reach = [NEAR_ERRORS * error for error in errors]
            sides["low"] = [value - r for value, r in zip(values, reach, strict=True)]
            sides["high"] = [value + r for value, r in zip(values, reach, strict=True)]
        yield Series(f"{run.name}, {_LOOKED[kind]}", steps, values, group=run.name, variant=1, **sides)


def _alarms(runs: Sequence[TrainingRun]) -> Iterable[Mark]:
    for run in runs:
        for row in run.metrics:
            for alarm in row.get("alarms") or ():
                label = str(alarm).replace("_", " ")
                yield Mark(float(row["step"]), f"{run.name}: {label}" if len(runs) > 1 else label, "x")


def _words(one: Series, percent: bool) -> str:
    known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None]
    (first_x, first), (last_x, last) = known[0], known[-1]
    numbers = [format_number(value, 3, percent) for value in (first, last)]
    return f"{one.name} from {numbers[0]} at step {first_x:.0f} to {numbers[1]} at step {last_x:.0f}"


def _path_chart(runs: Sequence[TrainingRun]) -> Chart | None:
    """The way of each policy through length and quality: the watch's looks, or else the training log."""
    series = []
    for run in runs:
        pairs = (("watch_mean_tokens", "watch_quality"), ("mean_response_tokens", "mean_quality_reward"))
        for length, quality in pairs:
            rows = [row for row in run.metrics if _both(row, length, quality)]
            if len(rows) > 1:
                words = [f"step {row['step']:.0f}" for row in rows]
                x, y = ([float(row[name]) for row in rows] for name in (length, quality))
                series.append(Series(run.name, x, y, words=words))
                series.append(Series(run.name, x[:1], y[:1], words=words[:1], style="points", variant=1, follows=True))
                break
    if not series:
        return None
    told = "; ".join(
        f"{one.name} from {one.y[0]:.2f} at {one.x[0]:.1f} tokens to {one.y[-1]:.2f} at {one.x[-1]:.1f}"
        for one in series
        if not one.follows
    )
    return Chart(
        "rl_path",
        "Quality reward against length",
        "mean response tokens",
        "quality reward",
        series,
        "Each policy's way through training, from its hollow mark on: to the right is longer, upwards is what its "
        "reward calls better. A way that only leads to the right is paid for by length.",
        f"Line chart of the quality reward against mean response tokens over training. {told}.",
    )


def _both(row: object, *names: str) -> bool:
    return all(isinstance(row.get(name), (int, float)) and row[name] == row[name] for name in names)  # type: ignore[attr-defined,index]
