"""Scored preference sets with known properties."""

from __future__ import annotations

import numpy as np

from odin_rm.evaluation.records import ScoredPreferences


def simulated(
    prompts: int = 100, per_prompt: int = 3, *, seed: int = 0, pay_for_length: float = 0.5, noise: float = 0.3
) -> ScoredPreferences:
    """Quality = truth + ``pay_for_length`` * standardised length + noise; labels prefer truth and length."""
    rng = np.random.default_rng(seed)
    count = prompts * per_prompt
    prompt = np.repeat(np.arange(prompts), per_prompt)
    length = rng.integers(5, 80, size=count)
    standard = (length - length.mean()) / length.std()
    truth = rng.normal(size=count)
    first = np.arange(0, count, per_prompt)
    a, b = first, first + 1
    utility = 1.5 * truth + 0.8 * standard
    a_wins = rng.random(prompts) < 1 / (1 + np.exp(-(utility[a] - utility[b])))
    return ScoredPreferences(
        quality=truth + pay_for_length * standard + noise * rng.normal(size=count),
        response_tokens=length,
        prompt=prompt,
        chosen=np.where(a_wins, a, b),
        rejected=np.where(a_wins, b, a),
        length_reward=standard + 0.2 * rng.normal(size=count),
        true_quality=truth,
        name="simulated",
        dataset="simulation",
    )
