"""Accuracy figures over pairs: all, by which response is longer, within 10 %, and by length-difference bin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from odin_rm.evaluation.bootstrap import Statistic, mean_statistic, ratio_statistic
from odin_rm.evaluation.records import Figure, ScoredPreferences

MATCHED = 0.1
# Edges of (chosen length - rejected length) / longer length. The middle bin is the pairs within 10 %.
BIN_EDGES = (-1.0, -0.5, -0.25, -MATCHED, MATCHED, 0.25, 0.5, 1.0)
BIN_LABELS = (
    "50-100% shorter",
    "25-50% shorter",
    "10-25% shorter",
    "within 10%",
    "10-25% longer",
    "25-50% longer",
    "50-100% longer",
)


def half_ties(difference: np.ndarray) -> np.ndarray:
    """1 where the difference is positive, 0 where negative, one half where the two are tied."""
    return (np.sign(difference) + 1.0) / 2.0


@dataclass(frozen=True)
class PairView:
    """The pairs of a scored preference set as differences, chosen minus rejected.

    Attributes:
        quality, length: ``(B,)`` differences of quality reward and of length.
        relative: ``(B,)`` length difference over the longer length, in [-1, 1].
        prompt: ``(B,)`` prompt number of each pair.
        prompts: ``P``.
        true_quality: ``(B,)`` difference of true quality, or ``None``.
        total: ``(B,)`` difference of quality plus length reward, or ``None`` without a length head.
    """

    quality: np.ndarray
    length: np.ndarray
    relative: np.ndarray
    prompt: np.ndarray
    prompts: int
    true_quality: np.ndarray | None = None
    total: np.ndarray | None = None

    @classmethod
    def of(cls, scored: ScoredPreferences, prompt: np.ndarray) -> PairView:
        """The view of ``scored`` whose responses have the prompt numbers ``prompt`` (``0 .. P - 1``)."""
        c, r = scored.chosen, scored.rejected
        length = np.asarray(scored.response_tokens, dtype=np.float64)
        longest = np.maximum(np.maximum(length[c], length[r]), 1e-300)
        truth, head = scored.true_quality, scored.length_reward
        return cls(
            quality=scored.quality[c] - scored.quality[r],
            length=length[c] - length[r],
            relative=(length[c] - length[r]) / longest,
            prompt=prompt[c],
            prompts=int(prompt.max()) + 1,
            true_quality=None if truth is None else np.asarray(truth, np.float64)[c] - np.asarray(truth, np.float64)[r],
            total=None if head is None else (scored.quality + head)[c] - (scored.quality + head)[r],
        )

    @property
    def matched(self) -> np.ndarray:
        """``(B,)`` whether the lengths are within 10 % of the longer one, the edge included."""
        # 45 against 50 is exactly 10 %, whatever 5/50 rounds to.
        return np.abs(self.relative) <= MATCHED * (1 + 1e-12)


def share(score: np.ndarray, among: np.ndarray, view: PairView, empty: str) -> tuple[Figure, Statistic]:
    """Mean of ``score`` over the pairs ``among``, with the statistic that resamples it.

    Args:
        score: ``(B,)`` 1, 0 or one half.
        among: ``(B,)`` which pairs count.
        view: the pairs.
        empty: the reason to give where no pair counts.
    """
    counts = among.astype(np.float64)
    figure = Figure(float(score[among].mean())) if among.any() else Figure(None, why=empty)
    return figure, ratio_statistic(score * counts, counts, view.prompt, view.prompts)


def accuracy_figures(view: PairView) -> tuple[dict[str, Figure], dict[str, Statistic]]:
    """Point values and statistics of every accuracy figure; ties in quality count half."""
    correct, everything = half_ties(view.quality), np.ones(len(view.quality), dtype=bool)
    none = "there are no pairs"
    parts = {
        "accuracy": share(correct, everything, view, none),
        "accuracy_chosen_longer": share(correct, view.length > 0, view, "in no pair is the chosen response longer"),
        "accuracy_chosen_shorter": share(correct, view.length < 0, view, "in no pair is the chosen response shorter"),
        "accuracy_length_matched": share(correct, view.matched, view, "in no pair are the lengths within 10 %"),
        "longer_response_baseline_accuracy": share(half_ties(view.length), everything, view, none),
        "share_chosen_longer": share((view.length > 0).astype(float), everything, view, none),
    }
    if view.true_quality is not None:
        agrees = half_ties(view.quality * np.sign(view.true_quality))
        empty = "no pair differs in true quality"
        parts["true_quality_agreement"] = share(agrees, view.true_quality != 0, view, empty)
    if view.total is not None:
        parts["accuracy_with_length_head"] = share(half_ties(view.total), everything, view, none)
    values = {name: figure for name, (figure, _) in parts.items()}
    statistics = {name: statistic for name, (_, statistic) in parts.items()}
    longer, shorter = values["accuracy_chosen_longer"], values["accuracy_chosen_shorter"]
    if longer.value is None or shorter.value is None:
        values["accuracy_length_balanced"] = Figure(None, why=longer.why or shorter.why)
    else:
        values["accuracy_length_balanced"] = Figure((longer.value + shorter.value) / 2)
    sides = statistics["accuracy_chosen_longer"], statistics["accuracy_chosen_shorter"]
    statistics["accuracy_length_balanced"] = mean_statistic(*sides)
    return values, statistics


def bin_masks(view: PairView) -> list[np.ndarray]:
    """For each bin of the relative length difference, ``(B,)`` which pairs are in it."""
    number = np.searchsorted(np.asarray(BIN_EDGES[1:-1]), view.relative, side="right")
    middle = len(BIN_LABELS) // 2
    number = np.where(view.matched, middle, number)
    number = np.where(~view.matched & (number == middle), middle + np.sign(view.relative).astype(int), number)
    return [number == k for k in range(len(BIN_LABELS))]
