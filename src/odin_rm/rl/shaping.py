"""From the quality reward to the sequence reward that a policy is trained on, one stated step after the other.

    standardised = (quality - mean) / std
    clipped      = min(max(standardised, -c), c)
    rescaled     = clipped * S where clipped > 0, else clipped / S,   S = (1 + gamma) / (1 + gamma * L(y) / mean L of
                   the responses to the same prompt)
    sequence     = rescaled - alpha * L(y) - o * overlong(L(y)) - p * [y did not end]

``L(y)`` is the response's tokens by the policy's tokenizer without the end token. ``c``, ``alpha * L`` and ``p`` are in
standardised reward units, reference deviations, so the same setting means the same for every reward model. The KL cost
follows per token, in ``odin_rm.objectives.returns``. Clipping and length penalty: Chen et al. 2024 (2402.07319), which
clips the standardised reward and takes the penalty off per token. Soft overlong punishment: DAPO (2503.14476, eq. 13).
Rescaling by the group's mean length: GR3 (2603.10535), for rewards that are never negative; here a negative one is
divided by the factor, so that a longer response never gains by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from odin_rm.core.errors import ConfigError, NumericalError, ShapeError

# Scores in float32 of one and the same text differ by about this much, relatively.
_NOISE = 1e-6


@dataclass(frozen=True)
class ShapingSettings:
    """The steps' constants; the defaults change nothing.

    Attributes:
        mean, std: what the quality reward is standardised with, reward units.
        clip: ``c``, standardised units; infinity is off.
        length_penalty: ``alpha``, standardised units per response token.
        missing_end_penalty: ``p``, standardised units.
        group_length_rescaling: ``gamma``, see :func:`group_length_factor`; 0 is off.
        overlong_penalty: ``o``, standardised units, see :func:`soft_overlong`; 0 is off.
        overlong_length, overlong_buffer: tokens at which it is whole, and over which it rises to that.

    Raises:
        ConfigError: a constant is not a number, or ``std`` or ``clip`` is not above 0, or the buffer is longer than
            what it belongs to.
    """

    mean: float = 0.0
    std: float = 1.0
    clip: float = math.inf
    length_penalty: float = 0.0
    missing_end_penalty: float = 0.0
    group_length_rescaling: float = 0.0
    overlong_penalty: float = 0.0
    overlong_length: int = 0
    overlong_buffer: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            what = f"the quality reward has mean {self.mean:g} and deviation {self.std:g}"
            raise ConfigError(what, where="--standardise", fix="Choose reference or none.")
        if not self.clip > 0:
            raise ConfigError(f"is {self.clip:g}", where="--reward_clip", fix="Give a number above 0, or inf.")
        for name in ("length_penalty", "missing_end_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"is {getattr(self, name):g}", where=f"--{name}", fix="Give a number.")
        for name in ("group_length_rescaling", "overlong_penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"is {getattr(self, name):g}", where=f"--{name}", fix="Give a number of at least 0.")
        if self.overlong_penalty and not 0 < self.overlong_buffer <= self.overlong_length:
            what = f"is {self.overlong_buffer}, for responses of at most {self.overlong_length} tokens"
            raise ConfigError(what, where="--overlong_buffer", fix="Give at least 1 and at most the longest response.")


@dataclass(frozen=True)
class ShapedRewards:
    """Every step of ``R`` responses, float64; from a quality that is not finite on, NaN.

    Attributes:
        quality_R: as the source gave it, reward units.
        standardised_R, clipped_R, rescaled_R: the first steps, standardised units.
        length_cost_R, overlong_cost_R, missing_end_cost_R: what is taken off, standardised units.
        sequence_R: what is left, the reward of the whole response.
    """

    quality_R: np.ndarray
    standardised_R: np.ndarray
    clipped_R: np.ndarray
    rescaled_R: np.ndarray
    length_cost_R: np.ndarray
    overlong_cost_R: np.ndarray
    missing_end_cost_R: np.ndarray
    sequence_R: np.ndarray

    def select(self, rows: slice) -> ShapedRewards:
        """The same steps of some of the responses."""
        return ShapedRewards(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    def steps(self) -> dict[str, np.ndarray]:
        """``(R,)`` values of each step after the quality, by the names that logs use."""
        return {
            "standardised_reward": self.standardised_R,
            "clipped_reward": self.clipped_R,
            "rescaled_reward": self.rescaled_R,
            "length_cost": self.length_cost_R,
            "overlong_cost": self.overlong_cost_R,
            "missing_end_cost": self.missing_end_cost_R,
            "sequence_reward": self.sequence_R,
        }

    def log(self) -> dict[str, float]:
        """The mean of each step over the responses that have a reward; NaN where none has."""
        scored_R = np.isfinite(self.sequence_R)
        steps = {"quality_reward": self.quality_R, **self.steps()}
        return {name: float(step_R[scored_R].mean()) if scored_R.any() else math.nan for name, step_R in steps.items()}


def soft_overlong(response_tokens_R: np.ndarray, longest: int, buffer: int) -> np.ndarray:
    """``(R,)`` from 0 to 1: DAPO's soft overlong punishment, ``min(max((L - (longest - buffer)) / buffer, 0), 1)``.

    Args:
        response_tokens_R: ``(R,)`` tokens.
        longest: where it is 1.
        buffer: over so many tokens before, it rises from 0.
    """
    return np.clip((np.asarray(response_tokens_R, dtype=np.float64) - (longest - buffer)) / buffer, 0.0, 1.0)


def group_length_factor(response_tokens_R: np.ndarray, groups_R: np.ndarray, weight: float) -> np.ndarray:
    """``(R,)`` ``(1 + w) / (1 + w * L / mean L of the group)``: 1 at the group's mean length, less beyond, more below.

    Args:
        response_tokens_R: ``(R,)`` tokens.
        groups_R: ``(R,)`` what responses to the same prompt have in common.
        weight: ``w``.
    """
    tokens_R = np.asarray(response_tokens_R, dtype=np.float64)
    _, group_R = np.unique(np.asarray(groups_R), return_inverse=True)
    mean_G = np.bincount(group_R, weights=tokens_R) / np.bincount(group_R)
    relative_R = tokens_R / np.maximum(mean_G[group_R], np.finfo(np.float64).tiny)
    relative_R[mean_G[group_R] == 0] = 1.0
    return (1 + weight) / (1 + weight * relative_R)


def rescale_rewards(clipped_R: np.ndarray, factor_R: np.ndarray) -> np.ndarray:
    """``(R,)`` rewards times their factors; a negative one is divided, so that a smaller factor never gains."""
    return np.where(clipped_R > 0, clipped_R * factor_R, clipped_R / factor_R)


def preference_probability(quality_R: np.ndarray, reference_R: np.ndarray) -> np.ndarray:
    """``(R,)`` ``sigmoid(q - q_ref)``: how probably a response is preferred to a reference answer (Bradley-Terry).

    As a reward: "preference as reward", Fu et al. 2025 (2502.18770). NaN where one of the two is not finite.
    """
    margin_R = np.asarray(quality_R, dtype=np.float64) - np.asarray(reference_R, dtype=np.float64)
    return np.where(np.isfinite(margin_R), 0.5 * (1.0 + np.tanh(0.5 * margin_R)), np.nan)


def shape_rewards(
    quality_R: np.ndarray,
    response_tokens_R: np.ndarray,
    ended_R: np.ndarray,
    settings: ShapingSettings,
    groups_R: np.ndarray | None = None,
) -> ShapedRewards:
    """Standardise, clip, rescale by the group's length, take off the three costs, in this order.

    Args:
        quality_R: ``(R,)`` quality rewards, reward units; NaN where there is none.
        response_tokens_R: ``(R,)`` ``L(y)``, tokens of the policy without the end token.
        ended_R: ``(R,)`` whether the policy wrote an end token.
        settings: the constants.
        groups_R: ``(R,)`` what responses to the same prompt have in common; for the rescaling alone.

    Raises:
        ShapeError: the three are not of one length, or groups are needed and not there.
    """
    quality_R = np.asarray(quality_R, dtype=np.float64)
    tokens_R = np.asarray(response_tokens_R, dtype=np.float64)
    ended_R = np.asarray(ended_R, dtype=bool)
    if not quality_R.shape == tokens_R.shape == ended_R.shape or quality_R.ndim != 1:
        shapes = f"{quality_R.shape}, {tokens_R.shape} and {ended_R.shape}"
        raise ShapeError(f"quality_R, response_tokens_R and ended_R have shapes {shapes}, not one (R,)")
    # An infinite quality clipped to c would pass for a good one.
    finite_R = np.where(np.isfinite(quality_R), quality_R, np.nan)
    standardised_R = (finite_R - settings.mean) / settings.std
    clipped_R = np.clip(standardised_R, -settings.clip, settings.clip)
    rescaled_R = clipped_R
    if settings.group_length_rescaling:
        if groups_R is None or np.shape(groups_R) != tokens_R.shape:
            raise ShapeError("group_length_rescaling needs groups_R, one entry a response")
        rescaled_R = rescale_rewards(
            clipped_R, group_length_factor(tokens_R, groups_R, settings.group_length_rescaling)
        )
    overlong_cost_R = np.zeros_like(tokens_R)
    if settings.overlong_penalty:
        over_R = soft_overlong(tokens_R, settings.overlong_length, settings.overlong_buffer)
        overlong_cost_R = settings.overlong_penalty * over_R
    length_cost_R = settings.length_penalty * tokens_R
    missing_end_cost_R = settings.missing_end_penalty * ~ended_R
    return ShapedRewards(
        quality_R=quality_R,
        standardised_R=standardised_R,
        clipped_R=clipped_R,
        rescaled_R=rescaled_R,
        length_cost_R=length_cost_R,
        overlong_cost_R=overlong_cost_R,
        missing_end_cost_R=missing_end_cost_R,
        sequence_R=rescaled_R - length_cost_R - overlong_cost_R - missing_end_cost_R,
    )


def reference_statistics(quality_R: np.ndarray) -> tuple[float, float]:
    """Mean and (population) deviation of the finite quality rewards of the reference policy's responses.

    Raises:
        NumericalError: fewer than two of them are finite, or they are all the same.
    """
    quality_R = np.asarray(quality_R, dtype=np.float64)
    finite = quality_R[np.isfinite(quality_R)]
    fix = "Choose --standardise none, or other prompts."
    if len(finite) < 2:
        what = f"only {len(finite)} of {len(quality_R)} responses of the reference policy have a reward"
        raise NumericalError(what, where="--standardise reference", fix=fix)
    mean, std = float(finite.mean()), float(finite.std())
    if std <= _NOISE * max(abs(mean), np.finfo(np.float64).tiny):
        what = f"all {len(finite)} responses of the reference policy earn the same ({mean:g})"
        raise NumericalError(what, where="--standardise reference", fix=fix)
    return mean, std
