"""The audit of a reward model: does it order pairs rightly, and does it pay for length?

``audit_preferences`` takes numpy arrays and gives every figure of ``audit.json``, each with its 95 % interval from one
cluster bootstrap by prompt. Correlations are of quality with length over *distinct* responses; accuracies are over
pairs, a repeated pair counted each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError, NumericalError, ShapeError
from odin_rm.data.attributes import describe
from odin_rm.evaluation import association as assoc
from odin_rm.evaluation import bootstrap as boot
from odin_rm.evaluation.attribute_audit import AttributedScores, audit_attributes
from odin_rm.evaluation.information import heldout_gain, length_curve, undefined_information
from odin_rm.evaluation.pairs import BIN_EDGES, BIN_LABELS, PairView, accuracy_figures, bin_masks, half_ties, share
from odin_rm.evaluation.records import Figure, ScoredPreferences
from odin_rm.evaluation.trend import reward_trend

CORRELATIONS = ("pearson", "spearman", "kendall", "pearson_within_prompt")
# What audit.json promises to other programs; further figures come after these.
CONTRACT_FIGURES = (
    "accuracy",
    "accuracy_chosen_longer",
    "accuracy_chosen_shorter",
    "accuracy_length_matched",
    "accuracy_length_balanced",
    *CORRELATIONS,
    "longer_response_baseline_accuracy",
    "information_beyond_length",
)
EXTRA_FIGURES = (
    "information_beyond_length_curve",
    "share_chosen_longer",
    "deviations_per_length_unit",
    "accuracy_with_length_head",
    "true_quality_agreement",
    "true_quality_spearman",
    "verbosity_twins_longer_wins",
    "between_prompt_share",
    "style_share",
)


@dataclass(frozen=True)
class AuditResult:
    """Everything one audit measured.

    Attributes:
        name, dataset: what to call the model and the data.
        pairs, responses, prompts: how many.
        length_unit: what length is measured in.
        figures: by name, all of ``CONTRACT_FIGURES`` and the ``EXTRA_FIGURES`` that apply.
        length_head: the correlations of the length head, or ``None`` where the model has none.
        length_bins: accuracy by relative length difference of chosen and rejected.
        trend: by head (``quality``, ``length``), mean reward in deviations over bins of length.
        moments: mean and deviation of each head's reward and of the length.
        bootstrap: settings of the intervals.
        data_report: counts that the data reader reported.
        attributes: by name, what :mod:`odin_rm.evaluation.attribute_audit` finds of it, with its ``words`` and
            ``unit``; empty where none were measured.
    """

    name: str
    dataset: str
    pairs: int
    responses: int
    prompts: int
    length_unit: str
    figures: dict[str, Figure]
    length_head: dict[str, Figure] | None = None
    length_bins: list[dict[str, Any]] = field(default_factory=list)
    trend: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    moments: dict[str, float] = field(default_factory=dict)
    bootstrap: dict[str, Any] = field(default_factory=dict)
    data_report: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __getitem__(self, figure: str) -> Figure:
        """The figure of that name; an undefined one where this audit does not have it."""
        return self.figures.get(figure, Figure(None, why="not measured"))

    def with_figure(self, name: str, figure: Figure) -> AuditResult:
        """A copy with one more figure (the verbosity twins, say)."""
        return replace(self, figures={**self.figures, name: figure})

    def to_json(self) -> dict[str, Any]:
        """The content of ``audit.json``."""
        head = self.length_head
        return {
            "name": self.name,
            "dataset": self.dataset,
            "pairs": self.pairs,
            "responses": self.responses,
            "prompts": self.prompts,
            "length_unit": self.length_unit,
            **{name: figure.to_json() for name, figure in self.figures.items()},
            "length_head": None if head is None else {name: figure.to_json() for name, figure in head.items()},
            "length_bins": self.length_bins,
            "trend": self.trend,
            "moments": self.moments,
            "bootstrap": self.bootstrap,
            "data_report": self.data_report,
            "attributes": self.attributes,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AuditResult:
        """The result that an ``audit.json`` holds.

        Raises:
            DataError: a figure that every audit has is missing or malformed.
        """

        def figure(value: Any, name: str) -> Figure:
            if not isinstance(value, Mapping) or "value" not in value:
                raise DataError(f"'{name}' is missing or no figure", fix="Give an audit.json that odin-rm wrote.")
            return Figure(value["value"], value.get("low"), value.get("high"), value.get("why"))

        names = [*CONTRACT_FIGURES, *(name for name in EXTRA_FIGURES if name in content)]
        head = content.get("length_head")
        return cls(
            name=str(content.get("name", "model")),
            dataset=str(content.get("dataset", "dataset")),
            pairs=int(content.get("pairs", 0)),
            responses=int(content.get("responses", 0)),
            prompts=int(content.get("prompts", 0)),
            length_unit=str(content.get("length_unit", "response tokens")),
            figures={name: figure(content.get(name), name) for name in names},
            length_head=None if head is None else {k: figure(v, k) for k, v in head.items()},
            length_bins=list(content.get("length_bins", [])),
            trend=dict(content.get("trend", {})),
            moments=dict(content.get("moments", {})),
            bootstrap=dict(content.get("bootstrap", {})),
            data_report=dict(content.get("data_report", {})),
            attributes=dict(content.get("attributes", {})),
        )


def audit_preferences(
    scored: ScoredPreferences,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    attributes: Mapping[str, np.ndarray] | None = None,
    described: Mapping[str, Mapping[str, Any]] | None = None,
    labelled: bool = True,
) -> AuditResult:
    """All figures of ``audit.json``.

    Args:
        scored: the preference set with the rewards of every distinct response.
        bootstrap_samples: resamples of the intervals; below 2 there are no intervals.
        seed: of the resamples and of the cross-validation folds.
        attributes: name to ``(R,)`` numbers of the responses, to be held against the reward beside those that the set
            carries.
        described: by name, words and unit of an attribute, to be reported with it.
        labelled: refuse a set without pairs; if false, accuracies are undefined there.

    Raises:
        DataError: there are no pairs.
        ShapeError: columns of different lengths, or pairs that name no response.
        NumericalError: a reward that is not finite.
    """
    scored = _checked(scored, labelled=labelled)
    sampler, view = _prepare(scored, bootstrap_samples, seed)
    length = np.asarray(scored.response_tokens, dtype=np.float64)
    values, statistics = _measure(replace(scored, attributes={}), sampler, view)  # theirs follow by themselves
    for k, held in enumerate(bin_masks(view)):
        _add(values, statistics, {f"bin.{k}": share(half_ties(view.quality), held, view, "no pairs")})
        _add(values, statistics, {f"longer.{k}": share(half_ties(view.length), held, view, "no pairs")})
    figures = sampler.intervals(values, statistics)
    carried = dict(scored.attributes) | dict(attributes or {})
    found = _attributes(scored, carried, described or {}, sampler, figures)

    trends = {"quality": reward_trend(scored.quality, length, sampler)}
    moments = {"length_mean": float(length.mean()), "length_deviation": float(length.std())}
    moments |= {"quality_mean": float(scored.quality.mean()), "quality_deviation": float(scored.quality.std())}
    head = None
    if scored.length_reward is not None:
        head = {name: figures[f"length_head.{name}"] for name in CORRELATIONS}
        trends["length"] = reward_trend(scored.length_reward, length, sampler)
        moments["length_head_mean"] = float(scored.length_reward.mean())
        moments["length_head_deviation"] = float(scored.length_reward.std())
    return AuditResult(
        name=scored.name,
        dataset=scored.dataset,
        pairs=len(scored.chosen),
        responses=len(scored.quality),
        prompts=sampler.prompts,
        length_unit=scored.length_unit,
        figures={name: figures[name] for name in (*CONTRACT_FIGURES, *EXTRA_FIGURES) if name in figures},
        length_head=head,
        length_bins=_bin_table(figures, view),
        trend=trends,
        moments=moments,
        bootstrap=_settings(sampler),
        data_report=dict(scored.report),
        attributes=found,
    )


def point_figures(scored: ScoredPreferences, *, seed: int = 0) -> dict[str, float | None]:
    """The values of all figures without intervals, quick enough for every evaluation during training.

    Args:
        scored: as for :func:`audit_preferences`.
        seed: of the cross-validation folds.

    Returns:
        Name to value, ``None`` where undefined; the length head's correlations as ``length_head_pearson`` and so on.

    Raises:
        DataError, ShapeError, NumericalError: as :func:`audit_preferences`.
    """
    scored = _checked(scored)
    values, _ = _measure(scored, *_prepare(scored, 0, seed))
    return {name.replace(".", "_"): figure.value for name, figure in values.items()}


Parts = dict[str, tuple[Figure, boot.Statistic]]


def paired_parts(scored: ScoredPreferences, sampler: boot.PromptBootstrap) -> Parts:
    """Accuracies, Pearson correlations and information: each with its value in a resample, for paired differences.

    Args:
        scored: as for :func:`audit_preferences`.
        sampler: the resamples that both sides of a comparison share.
    """
    scored = _checked(scored, labelled=False)
    view = PairView.of(scored, sampler.prompt)
    length = np.asarray(scored.response_tokens, dtype=np.float64)
    values, statistics = accuracy_figures(view)
    prompt, prompts = sampler.prompt, sampler.prompts
    parts: Parts = {
        "pearson": (
            assoc.pearson(scored.quality, length),
            boot.pearson_statistic(scored.quality, length, prompt, prompts),
        ),
        "pearson_within_prompt": (
            assoc.pearson_within_prompt(scored.quality, length, prompt),
            boot.within_statistic(scored.quality, length, prompt, prompts),
        ),
    }
    curve_BK = length_curve(length[scored.chosen], length[scored.rejected])
    parts |= _information(view, curve_BK, sampler.seed)
    return {name: (figure, statistics[name]) for name, figure in values.items()} | parts


def _prepare(scored: ScoredPreferences, samples: int, seed: int) -> tuple[boot.PromptBootstrap, PairView]:
    prompt = np.unique(scored.prompt, return_inverse=True)[1]
    return boot.PromptBootstrap(prompt, samples, seed), PairView.of(scored, prompt)


def _measure(
    scored: ScoredPreferences, sampler: boot.PromptBootstrap, view: PairView
) -> tuple[dict[str, Figure], dict[str, boot.Statistic]]:
    """Point values and statistics of every figure but the bins."""
    length = np.asarray(scored.response_tokens, dtype=np.float64)
    values, statistics = accuracy_figures(view)
    _add(values, statistics, _correlations(scored.quality, length, sampler))
    _add(values, statistics, _slope(scored.quality, length, sampler))
    curve_BK = length_curve(length[scored.chosen], length[scored.rejected])
    _add(values, statistics, _information(view, curve_BK, sampler.seed))
    if scored.true_quality is not None:
        _add(values, statistics, _true_quality_rank(scored.quality, scored.true_quality, sampler))
    if scored.length_reward is not None:
        parts = _correlations(scored.length_reward, length, sampler)
        _add(values, statistics, {f"length_head.{name}": part for name, part in parts.items()})
    for attribute, column in scored.attributes.items():
        if not np.array_equal(column, length):
            parts = _correlations(scored.quality, np.asarray(column, dtype=np.float64), sampler)
            _add(values, statistics, {f"{attribute}.{name}": part for name, part in parts.items()})
    return values, statistics


def _add(values: dict[str, Figure], statistics: dict[str, boot.Statistic], parts: Parts) -> None:
    for name, (figure, statistic) in parts.items():
        values[name], statistics[name] = figure, statistic


def _correlations(head_reward: np.ndarray, length: np.ndarray, sampler: boot.PromptBootstrap) -> Parts:
    prompt, prompts = sampler.prompt, sampler.prompts
    if assoc.is_constant(head_reward):
        # Rounding noise of a constant is not an order either.
        head_reward = np.full(len(head_reward), head_reward.mean())
    return {
        "pearson": (assoc.pearson(head_reward, length), boot.pearson_statistic(head_reward, length, prompt, prompts)),
        "spearman": (assoc.spearman(head_reward, length), boot.spearman_statistic(head_reward, length, prompt)),
        "kendall": (
            assoc.kendall(head_reward, length),
            boot.kendall_statistic(head_reward, length, prompt, sampler.kendall_resamples()),
        ),
        "pearson_within_prompt": (
            assoc.pearson_within_prompt(head_reward, length, prompt),
            boot.within_statistic(head_reward, length, prompt, prompts),
        ),
    }


def _slope(head_reward: np.ndarray, length: np.ndarray, sampler: boot.PromptBootstrap) -> Parts:
    correlation = assoc.pearson(head_reward, length)
    value = None if correlation.value is None else correlation.value / float(length.std())
    statistic = boot.slope_statistic(head_reward, length, sampler.prompt, sampler.prompts)
    return {"deviations_per_length_unit": (Figure(value, why=correlation.why), statistic)}


def _information(view: PairView, curve_BK: np.ndarray, seed: int) -> Parts:
    why = undefined_information(view.length, view.prompt)
    parts = {}
    for name, baseline in (("", view.length), ("_curve", curve_BK)):
        gain = np.zeros(len(view.length)) if why else heldout_gain(view.quality, baseline, view.prompt, seed)
        figure = Figure(None, why=why) if why else Figure(float(gain.mean()))
        statistic = boot.ratio_statistic(gain, np.ones(len(gain)), view.prompt, view.prompts)
        parts[f"information_beyond_length{name}"] = (figure, statistic)
    return parts


def _true_quality_rank(quality: np.ndarray, truth: np.ndarray, sampler: boot.PromptBootstrap) -> Parts:
    why = assoc.undefined_reason(quality, truth, y_name="true quality")
    figure = Figure(None, why=why) if why else assoc.spearman(quality, truth)
    return {"true_quality_spearman": (figure, boot.spearman_statistic(quality, truth, sampler.prompt))}


def _attributes(
    scored: ScoredPreferences,
    attributes: Mapping[str, np.ndarray],
    described: Mapping[str, Mapping[str, Any]],
    sampler: boot.PromptBootstrap,
    figures: dict[str, Figure],
) -> dict[str, dict[str, Any]]:
    """Every attribute's content; the shares that go with them are added to the figures."""
    if not attributes:
        return {}
    columns = AttributedScores(scored.quality, sampler.prompt, attributes, scored.chosen, scored.rejected)
    found = audit_attributes(columns, sampler)
    figures["between_prompt_share"], figures["style_share"] = found.between_prompt_share, found.style_share
    return {name: {**(described.get(name) or describe(name)), **content} for name, content in found.attributes.items()}


def _bin_table(figures: dict[str, Figure], view: PairView) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "from": BIN_EDGES[k],
            "to": BIN_EDGES[k + 1],
            "pairs": int(held.sum()),
            "accuracy": figures[f"bin.{k}"].to_json(),
            "longer_response_baseline_accuracy": figures[f"longer.{k}"].to_json(),
        }
        for k, (label, held) in enumerate(zip(BIN_LABELS, bin_masks(view), strict=True))
    ]


def _settings(sampler: boot.PromptBootstrap) -> dict[str, Any]:
    kendall = sampler.kendall_resamples()
    return {
        "samples": sampler.samples,
        "seed": sampler.seed,
        "level": boot.LEVEL,
        "resampled": "prompts",
        "kendall_samples": kendall,
        "kendall_interval": "percentile" if kendall == sampler.samples else "value +- 1.96 standard errors",
    }


def _checked(scored: ScoredPreferences, *, labelled: bool = True) -> ScoredPreferences:
    """The same record as float64 arrays, refused where it cannot be audited."""
    size = len(scored.quality)
    columns: dict[str, np.ndarray | None] = {"response_tokens": scored.response_tokens, "prompt": scored.prompt}
    columns |= {"length_reward": scored.length_reward, "true_quality": scored.true_quality}
    columns |= {f"the attribute {name}": column for name, column in scored.attributes.items()}
    for name, column in columns.items():
        if column is not None and np.shape(column) != (size,):
            raise ShapeError(f"{name} has shape {np.shape(column)}, expected ({size},)", where=scored.dataset)
    if (labelled and len(scored.chosen) == 0) or len(scored.chosen) != len(scored.rejected):
        raise DataError("there are no pairs to audit", where=scored.dataset, fix="Give rows with chosen and rejected.")
    named = np.concatenate([scored.chosen, scored.rejected])
    if len(named) and (named.min() < 0 or named.max() >= size):
        raise ShapeError(f"pairs name responses outside 0..{size - 1}", where=scored.dataset)
    heads: dict[str, np.ndarray | None] = {"quality reward": scored.quality, "length reward": scored.length_reward}
    for name, column in heads.items():
        bad = 0 if column is None else int((~np.isfinite(column)).sum())
        if bad:
            fix = "Score in float32 and check the model."
            raise NumericalError(f"the {name} of {bad} of {size} responses is not finite", where=scored.name, fix=fix)

    def as_float(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else np.asarray(column, dtype=np.float64)

    return replace(
        scored,
        quality=np.asarray(scored.quality, dtype=np.float64),
        chosen=np.asarray(scored.chosen),
        rejected=np.asarray(scored.rejected),
        length_reward=as_float(scored.length_reward),
        true_quality=as_float(scored.true_quality),
    )
