"""From the quality reward to the sequence reward that a policy is trained on, one stated step after the other.

    standardised = (quality - mean) / std
    clipped      = min(max(standardised, -c), c)
    sequence     = clipped - alpha * L(y) - p * [y did not end]

``L(y)`` is the response's tokens by the policy's tokenizer without the end token. ``c``, ``alpha * L`` and ``p`` are in
standardised reward units, reference deviations, so the same setting means the same for every reward model. The KL cost
follows per token, in ``odin_rm.objectives.returns``. Clipping and length penalty: Chen et al. 2024 (2402.07319), which
clips the standardised reward and takes the penalty off per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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

    Raises:
        ConfigError: a constant is not a number, or ``std`` or ``clip`` is not above 0.
    """

    mean: float = 0.0
    std: float = 1.0
    clip: float = math.inf
    length_penalty: float = 0.0
    missing_end_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            what = f"the quality reward has mean {self.mean:g} and deviation {self.std:g}"
            raise ConfigError(what, where="--standardise", fix="Choose reference or none.")
        if not self.clip > 0:
            raise ConfigError(f"is {self.clip:g}", where="--reward_clip", fix="Give a number above 0, or inf.")
        for name in ("length_penalty", "missing_end_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"is {getattr(self, name):g}", where=f"--{name}", fix="Give a number.")


@dataclass(frozen=True)
class ShapedRewards:
    """Every step of ``R`` responses, float64; from a quality that is not finite on, NaN.

    Attributes:
        quality_R: as the source gave it, reward units.
        standardised_R, clipped_R: the first steps, standardised units.
        length_cost_R, missing_end_cost_R: what is taken off, standardised units.
        sequence_R: what is left, the reward of the whole response.
    """

    quality_R: np.ndarray
    standardised_R: np.ndarray
    clipped_R: np.ndarray
    length_cost_R: np.ndarray
    missing_end_cost_R: np.ndarray
    sequence_R: np.ndarray

    def steps(self) -> dict[str, np.ndarray]:
        """``(R,)`` values of each step after the quality, by the names that logs use."""
        return {
            "standardised_reward": self.standardised_R,
            "clipped_reward": self.clipped_R,
            "length_cost": self.length_cost_R,
            "missing_end_cost": self.missing_end_cost_R,
            "sequence_reward": self.sequence_R,
        }

    def log(self) -> dict[str, float]:
        """The mean of each step over the responses that have a reward; NaN where none has."""
        scored_R = np.isfinite(self.sequence_R)
        steps = {"quality_reward": self.quality_R, **self.steps()}
        return {name: float(step_R[scored_R].mean()) if scored_R.any() else math.nan for name, step_R in steps.items()}


def shape_rewards(
    quality_R: np.ndarray, response_tokens_R: np.ndarray, ended_R: np.ndarray, settings: ShapingSettings
) -> ShapedRewards:
    """Standardise, clip, take off the length penalty and the penalty of a missing end, in this order.

    Args:
        quality_R: ``(R,)`` quality rewards, reward units; NaN where there is none.
        response_tokens_R: ``(R,)`` ``L(y)``, tokens of the policy without the end token.
        ended_R: ``(R,)`` whether the policy wrote an end token.
        settings: the constants.

    Raises:
        ShapeError: the three are not of one length.
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
    length_cost_R = settings.length_penalty * tokens_R
    missing_end_cost_R = settings.missing_end_penalty * ~ended_R
    return ShapedRewards(
        quality_R=quality_R,
        standardised_R=standardised_R,
        clipped_R=clipped_R,
        length_cost_R=length_cost_R,
        missing_end_cost_R=missing_end_cost_R,
        sequence_R=clipped_R - length_cost_R - missing_end_cost_R,
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
