"""What the ratings say: win score with intervals, agreement of the raters, and rows for ``odin-rm win-rate``.

A prompt's preference is the mean over its raters, 2 for ``a``, 1 for ``b`` and 1.5 for a tie, and a prompt is won where
that mean is above 1.5; so ``win-rate`` computes the same score from the written rows. Resampled are prompts with all
their ratings: the intervals speak of other prompts under the same raters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from odin_rm.core.errors import DataError
from odin_rm.evaluation.agreement import MISSING, category_counts, cohen_kappa, fleiss_kappa, observed_agreement
from odin_rm.evaluation.bootstrap import Statistic
from odin_rm.evaluation.win_score import (
    Estimate,
    estimate,
    mean_estimate,
    mean_of,
    resample,
    verdict,
    win_rate_values,
    win_score_values,
)
from odin_rm.serve.study.design import CHOICES, Study, length_counter
from odin_rm.serve.study.store import Rating

ANNOTATOR = "human"


def preference_of(category: Any) -> Any:
    """1 for ``b``, 1.5 for a tie, 2 for ``a``, of the number of a choice."""
    return 1.0 + np.asarray(category) / 2


def ratings_table(study: Study, ratings: Sequence[Rating]) -> tuple[list[str], np.ndarray]:
    """Raters and ``(R, P)`` numbers of their choices, ``MISSING`` where a rater has not rated a pair."""
    raters = list(dict.fromkeys(rating.rater for rating in ratings))
    table_RP = np.full((len(raters), len(study.pairs)), MISSING)
    for rating in ratings:
        table_RP[raters.index(rating.rater), rating.pair] = CHOICES.index(rating.choice)
    return raters, table_RP


def annotation_rows(study: Study, ratings: Sequence[Rating]) -> list[dict[str, Any]]:
    """One row per rated prompt in AlpacaEval's form; ``b`` is the baseline (``output_1``)."""
    raters, table_RP = ratings_table(study, ratings)
    rows = []
    for number, pair in enumerate(study.pairs):
        given = {
            name: float(preference_of(choice))
            for name, choice in zip(raters, table_RP[:, number], strict=True)
            if choice != MISSING
        }
        if given:
            row = {
                "instruction": pair.instruction,
                "output_1": pair.answer_b,
                "output_2": pair.answer_a,
                "generator_1": study.b["generator"],
                "generator_2": study.a["generator"],
                "annotator": ANNOTATOR,
                "preference": sum(given.values()) / len(given),
                "ratings": given,
            }
            rows.append(row if pair.dataset is None else {**row, "dataset": pair.dataset})
    return rows


def study_results(study: Study, ratings: Sequence[Rating], *, samples: int) -> dict[str, Any]:
    """All figures of a study, with numbers as they are before they become JSON.

    Args:
        study: as it was laid out.
        ratings: at least one.
        samples: bootstrap resamples.

    Raises:
        DataError: there is no rating.
    """
    if not ratings:
        raise DataError("the study has no rating yet", fix="Open the page and rate.")
    raters, table_RP = ratings_table(study, ratings)
    rated_P = (table_RP != MISSING).any(axis=0)
    preference_RP = np.where(table_RP == MISSING, np.nan, preference_of(table_RP))[:, rated_P]
    preference_P = np.nanmean(preference_RP, axis=0)
    columns = {"win_score": win_score_values(preference_P), "win_rate": win_rate_values(preference_P)}
    agreement = _Agreement(table_RP[:, rated_P])
    statistics: dict[str, Statistic] = {name: mean_of(values) for name, values in columns.items()}
    draws = resample({**statistics, **agreement.statistics}, len(preference_P), samples, study.settings["seed"])
    outcome_P = verdict(preference_P)
    return {
        "a": study.a,
        "b": study.b,
        "prompts": len(study.pairs),
        "rated": int(rated_P.sum()),
        "ratings": len(ratings),
        "wins": int((outcome_P > 0).sum()),
        "ties": int((outcome_P == 0).sum()),
        "losses": int((outcome_P < 0).sum()),
        **{name: mean_estimate(values, draws[name]).to_json() for name, values in columns.items()},
        "agreement": agreement.summary(draws),
        "left_preference": _left_preference(ratings),
        "raters": [_rater(name, ratings, row) for name, row in zip(raters, preference_RP, strict=True)],
        "lengths": _lengths(study, rated_P),
        "sample": {"prompts_in_files": study.prompts, "identical_answers": study.identical, **study.settings},
        "bootstrap_samples": samples,
    }


class _Agreement:
    """Kappa and observed agreement of ``(R, P)`` numbers of choices."""

    def __init__(self, table_RP: np.ndarray) -> None:
        counts_PC = category_counts(table_RP, len(CHOICES))
        self.raters, self.prompts = table_RP.shape
        self.shared = int((counts_PC.sum(axis=1) > 1).sum())
        self.method = "cohen" if self.raters == 2 else "fleiss"
        kappa = fleiss_kappa(counts_PC) if self.raters != 2 else cohen_kappa(table_RP[0], table_RP[1], len(CHOICES))
        self.statistics = {"kappa": kappa, "observed": observed_agreement(counts_PC)} if self.shared else {}

    def summary(self, draws: dict[str, np.ndarray]) -> dict[str, Any]:
        """The figures with their intervals, or why there are none."""
        head = {"raters": self.raters, "prompts": self.shared}
        if not self.shared:
            return {**head, "method": None, "kappa": None, "observed": None, "why": "no prompt has two ratings"}
        figures = {name: self._figure(statistic, draws[name]) for name, statistic in self.statistics.items()}
        return {**head, "method": self.method, **{name: figure.to_json() for name, figure in figures.items()}}

    def _figure(self, statistic: Statistic, draws: np.ndarray) -> Estimate:
        value = float(statistic(np.ones((1, self.prompts)))[0])
        if not np.isfinite(value):
            return Estimate(None, why="all ratings are of one kind, which chance would give as well")
        return estimate(value, draws, n=self.shared)


def _left_preference(ratings: Sequence[Rating]) -> float:
    """How often the left answer is preferred, ties as half; 0.5 for raters without a liking for a side."""
    left = [0.5 if one.choice == "tie" else float((one.choice == "a") == one.a_left) for one in ratings]
    return sum(left) / len(left)


def _rater(name: str, ratings: Sequence[Rating], preference_P: np.ndarray) -> dict[str, Any]:
    own = [rating for rating in ratings if rating.rater == name]
    counts = Counter(rating.choice for rating in own)
    score = float(win_score_values(preference_P[np.isfinite(preference_P)]).mean())
    shares = {"wins": counts["a"], "ties": counts["tie"], "losses": counts["b"], "win_score": score}
    return {"name": name, "ratings": len(own), **shares, "left_preference": _left_preference(own)}


def _lengths(study: Study, rated_P: np.ndarray) -> dict[str, Any]:
    """Mean lengths of what is in the study, and of what has been rated so far."""
    count = length_counter(study.settings["length_unit"])
    lengths_P2 = np.array([(count(pair.answer_a), count(pair.answer_b)) for pair in study.pairs], np.float64)
    means = {"sampled": lengths_P2.mean(axis=0), "rated": lengths_P2[rated_P].mean(axis=0)}
    return {"unit": study.settings["length_unit"]} | {
        name: {"a": float(a), "b": float(b), "difference": float(a - b)} for name, (a, b) in means.items()
    }
