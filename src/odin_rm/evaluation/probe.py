"""What edits do to a reward: change, share won, price; and what is left of its verdicts when the prompt is another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from odin_rm.evaluation.bootstrap import PromptBootstrap, bootstrap_mean, ratio_statistic
from odin_rm.evaluation.pairs import half_ties
from odin_rm.evaluation.records import Figure

ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Share of a reward up to which two readings of it differ by rounding: what 32 bits resolve, four times over."""
SMALLEST_SHOWN = 1e-6
"""Deviations per unit below which a price is shown as 0: of a hundred thousand units it makes less than 0.1."""


@dataclass(frozen=True)
class EditFigures:
    """What an edit does.

    Attributes:
        n: responses that it changed.
        change: mean of edited minus original, in deviations of the reward within a prompt.
        won: share in which the edited side scores higher, ties half.
        price: deviations per unit of the attribute: the sum of changes over the sum of the attribute's changes.
    """

    n: int
    change: Figure
    won: Figure
    price: Figure

    def to_json(self) -> dict[str, Any]:
        """As ``probe.json`` has it."""
        figures = {name: getattr(self, name).to_json() for name in ("change", "won", "price")}
        return {"n": self.n, **figures}


def within_deviation(quality: np.ndarray, prompt: np.ndarray) -> tuple[float, str]:
    """The reward's deviation within prompts, or over all responses where no prompt has two; and which of them.

    Args:
        quality: ``(R,)`` rewards.
        prompt: ``(R,)`` prompts, any integers.
    """
    number = np.unique(prompt, return_inverse=True)[1]
    counts = np.bincount(number)
    means = np.bincount(number, quality) / counts
    free = int((counts - 1).sum())
    inside = math.sqrt(float(((quality - means[number]) ** 2).sum()) / free) if free else 0.0
    if inside > ROUNDING * float(np.abs(quality).max()):
        return inside, "responses to a prompt"
    return float(quality.std()) or 1.0, "all responses"


def reward_change(original: np.ndarray, edited: np.ndarray, deviation: float) -> np.ndarray:
    """Edited minus original reward in deviations; exactly 0 where the two differ by rounding alone.

    Two readings of one text differ in their last digits, for the texts beside them in a batch are others. Divided by
    many units, such a difference would read as a tiny price with a tiny interval that leaves zero out.

    Args:
        original, edited: ``(n,)`` rewards of the two sides.
        deviation: of the reward, see :func:`within_deviation`.
    """
    change = edited - original
    rounding = ROUNDING * np.maximum(np.abs(original), np.abs(edited))
    return np.where(np.abs(change) <= rounding, 0.0, change) / deviation


def edit_figures(
    original: np.ndarray,
    edited: np.ndarray,
    attribute_change: np.ndarray | None,
    step: float,
    deviation: float,
    prompt: np.ndarray,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> EditFigures:
    """The figures of one edit.

    Args:
        original, edited: ``(n,)`` rewards of the two sides.
        attribute_change: ``(n,)`` how much the attribute changes; ``None`` for an edit that changes nothing countable.
        step: the unit of the price in the attribute's numbers (100 for 100 tokens).
        deviation: of the reward, see :func:`within_deviation`.
        prompt: ``(n,)`` prompts, for the intervals.
        bootstrap_samples, seed: of the intervals.
    """
    if len(original) == 0:
        nothing = Figure(None, why="no response has anything to change")
        return EditFigures(0, nothing, nothing, nothing)
    change = reward_change(original, edited, deviation)
    options: dict[str, Any] = {"samples": bootstrap_samples, "seed": seed}
    price = Figure(None, why="it changes nothing that is counted")
    if attribute_change is not None:
        price = _price(change, np.asarray(attribute_change, np.float64) / step, prompt, **options)
    return EditFigures(
        n=len(original),
        change=bootstrap_mean(change, prompt, **options),
        won=bootstrap_mean(half_ties(change), prompt, **options),
        price=price,
    )


def _price(change: np.ndarray, units: np.ndarray, prompt: np.ndarray, *, samples: int, seed: int) -> Figure:
    total = float(units.sum())
    if total == 0:
        return Figure(None, why="the attribute does not change on the whole")
    sign = math.copysign(1.0, total)  # fewer of it: paid for what was taken away
    number = np.unique(prompt, return_inverse=True)[1]
    bootstrap = PromptBootstrap(number, samples, seed)
    statistic = ratio_statistic(sign * change, sign * units, number, bootstrap.prompts)
    return bootstrap.intervals({"price": Figure(float(change.sum() / total))}, {"price": statistic})["price"]


def verdicts_kept(
    original: np.ndarray,
    changed: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    prompt: np.ndarray,
    labelled: bool,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """What is left of the verdicts on pairs of responses when the prompt is changed.

    Args:
        original, changed: ``(R,)`` rewards with the right prompt and with the changed one; NaN where one could not be
            scored.
        first, second: ``(B,)`` pairs of response numbers (chosen and rejected, where ``labelled``).
        prompt: ``(R,)`` prompts, for the intervals.
        labelled: whether the pairs state which is better.
        bootstrap_samples, seed: of the intervals.

    Returns:
        ``n`` pairs, ``agreement`` (share with the same verdict as before, pairs that were tied before left out, new
        ties half), ``accuracy`` before and after where labelled.
    """
    before, after = original[first] - original[second], changed[first] - changed[second]
    held = np.isfinite(before) & np.isfinite(after)
    options: dict[str, Any] = {"samples": bootstrap_samples, "seed": seed}
    decided = held & (before != 0)
    agrees = half_ties(after[decided] * np.sign(before[decided]))
    found: dict[str, Any] = {
        "n": int(held.sum()),
        "agreement": bootstrap_mean(agrees, prompt[first][decided], **options).to_json(),
    }
    if labelled:
        clusters = prompt[first][held]
        found["accuracy_before"] = bootstrap_mean(half_ties(before[held]), clusters, **options).to_json()
        found["accuracy"] = bootstrap_mean(half_ties(after[held]), clusters, **options).to_json()
    return found


def price_sentence(name: str, content: Mapping[str, Any]) -> str:
    """One sentence on an edit, as the end of one that begins with the model's name.

    Args:
        name: of the edit.
        content: of ``probe.json`` for it, with ``words``, ``attribute_words``, ``unit`` and ``control``.
    """
    change, price = content["change"], content["price"]
    if change["value"] is None:
        return f"could not be asked what it does when {content['words']}: no response has anything to change."
    if content["control"]:
        verdict = "as it should" if change["value"] < 0 and not _unclear(change) else "which it should, clearly"
        word = "loses" if change["value"] < 0 else "gains"
        ending = verdict if word == "loses" and verdict == "as it should" else "but an answer cut in half should lose"
        return f"{word} {_amount(change)} when {content['words']}, {ending}."
    if price["value"] is None:
        if _unclear(change):
            return f"does not clearly mind when {content['words']}: {_signed(change)}."
        return f"{'gains' if change['value'] > 0 else 'loses'} {_amount(change)} when {content['words']}."
    if _unclear(price):
        return f"does not clearly pay for {content['attribute_words']}: {_signed(price)} per {content['unit']}."
    word = "pays for" if price["value"] > 0 else "takes off for"
    return f"{word} {content['attribute_words']}: {_amount(price)} per {content['unit']}."


def _unclear(content: Mapping[str, Any]) -> bool:
    low, high = content.get("low"), content.get("high")
    return low is None or high is None or low <= 0 <= high


def _number(value: float) -> str:
    if abs(value) < SMALLEST_SHOWN:
        value = 0.0
    text = f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _amount(content: Mapping[str, Any]) -> str:
    """The size of a change with its interval, both without sign."""
    ends = sorted(abs(content[side]) for side in ("low", "high")) if content.get("low") is not None else []
    interval = f" ({_number(ends[0])} to {_number(ends[1])})" if ends else ""
    return f"{_number(abs(content['value']))} deviations{interval}"


def _signed(content: Mapping[str, Any]) -> str:
    interval = ""
    if content.get("low") is not None:
        interval = f" ({_number(content['low'])} to {_number(content['high'])})"
    return f"{_number(content['value'])} deviations{interval}"
