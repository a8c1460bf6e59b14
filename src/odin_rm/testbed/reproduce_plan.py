"""Which runs draw the paper's figures on the testbed: a grid for each arm of the main figure, and one for each knob.

The main figure compares four arms (vanilla, vanilla with clipped reward, vanilla with a length penalty, ODIN) under PPO
and ReMax, each over the same grid of beta and learning rate. The effect of a knob (epsilon, N, c, alpha) is shown under
PPO, each value over the same betas; runs that the main figure has already are not made twice. DPO and the truth as
reward stand beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from odin_rm.testbed.sweep import CLIP, CLIP_EPSILON, EXPERIENCE, PolicyRun

ALGORITHMS = ("ppo", "remax")
PENALTY = 0.04
"""alpha of the main figure's arm: the best of those that the full sweep tries, so chosen in its favour."""
CLIP_ARM, PENALTY_ARM = f"vanilla + clip {CLIP:g}", f"vanilla + penalty {PENALTY:g}"
RIVALS = ("vanilla", CLIP_ARM, PENALTY_ARM)
ARMS = (*RIVALS, "odin")
"""The main figure's arms."""

_MITIGATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("vanilla", {}),
    CLIP_ARM: ("vanilla", {"reward_clip": CLIP}),
    PENALTY_ARM: ("vanilla", {"length_penalty": PENALTY}),
    "odin": ("odin", {}),
}


@dataclass(frozen=True)
class Knob:
    """A setting whose effect is a figure.

    Attributes:
        name: the paper's symbol.
        title: in words.
        setting: its name in ``odin-rm rl``.
        reward_models: whose runs show it.
        algorithms: which algorithms know it.
    """

    name: str
    title: str
    setting: str
    reward_models: tuple[str, ...]
    algorithms: tuple[str, ...] = ("ppo",)


KNOBS = (
    Knob("beta", "KL coefficient beta", "kl_coef", ("vanilla", "odin"), ALGORITHMS),
    Knob("epsilon", "PPO's clipping epsilon", "clip_epsilon", ("vanilla", "odin")),
    Knob("N", "experiences N collected with one policy", "experience_size", ("vanilla", "odin")),
    Knob("c", "reward clipping c", "reward_clip", ("vanilla",)),
    Knob("alpha", "length penalty alpha", "length_penalty", ("vanilla",)),
)


@dataclass(frozen=True)
class Plan:
    """The values of every knob.

    Attributes:
        kl_coefs: beta, of every grid.
        learning_rates: of the main figure.
        effect_learning_rates: of the knobs' grids; some of the main figure's.
        values: of each other knob, by its setting; the default among them.
        dpo: pairs of beta and learning rate.
        gold: whether the truth is a reward too.
    """

    kl_coefs: tuple[float, ...] = (0.1, 0.2, 0.4)
    learning_rates: tuple[float, ...] = (1.5e-4, 3e-4)
    effect_learning_rates: tuple[float, ...] = (3e-4,)
    values: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "clip_epsilon": (0.1, CLIP_EPSILON, 0.4),
            "experience_size": (32, EXPERIENCE, 256),
            "reward_clip": (0.5, CLIP, 2.0, math.inf),
            "length_penalty": (0.0, 0.02, PENALTY, 0.08),
        }
    )
    dpo: tuple[tuple[float, float], ...] = ((0.1, 3e-4),)
    gold: bool = True

    def main_runs(self, seed: int) -> list[PolicyRun]:
        """Of the main figure, arm after arm."""
        return [run for arm in ARMS for run in self._arm_runs(arm, seed)]

    def _arm_runs(self, arm: str, seed: int) -> list[PolicyRun]:
        reward_model, mitigation = _MITIGATIONS[arm]
        grid = product(ALGORITHMS, self.kl_coefs, self.learning_rates)
        return [PolicyRun(reward_model, a, b, rate, seed=seed, **mitigation) for a, b, rate in grid]

    def knob_runs(self, knob: Knob, reward_model: str, seed: int) -> dict[float, list[PolicyRun]]:
        """The runs that show a knob's effect, by its value; the same grid for each value."""
        if knob.setting == "kl_coef":
            grid = product(knob.algorithms, self.learning_rates)
            base = [PolicyRun(reward_model, a, learning_rate=rate, seed=seed) for a, rate in grid]
            values: Iterable[float] = self.kl_coefs
        else:
            base, values = self.default_runs(reward_model, seed), self.values[knob.setting]
        changes: dict[float, dict[str, Any]] = {value: {knob.setting: value} for value in values}
        return {value: [replace(run, **change) for run in base] for value, change in changes.items()}

    def default_runs(self, reward_model: str, seed: int) -> list[PolicyRun]:
        """The grid of a knob other than beta, every knob at its default."""
        grid = product(("ppo",), self.kl_coefs, self.effect_learning_rates)
        return [PolicyRun(reward_model, a, b, rate, seed=seed) for a, b, rate in grid]

    def other_runs(self, seed: int) -> list[PolicyRun]:
        """DPO, and the truth as reward."""
        runs = [PolicyRun("dpo", "dpo", beta, rate, seed=seed) for beta, rate in self.dpo]
        if self.gold:
            runs += self.default_runs("gold", seed)
        return runs

    def runs(self, seed: int) -> list[PolicyRun]:
        """Every run once."""
        runs = self.main_runs(seed)
        for knob in KNOBS:
            for reward_model in knob.reward_models:
                runs += [run for level in self.knob_runs(knob, reward_model, seed).values() for run in level]
        return list({run.name: run for run in [*runs, *self.other_runs(seed)]}.values())


FULL = Plan()
MINIATURE = Plan(
    kl_coefs=(0.1,),
    learning_rates=(3e-3,),
    effect_learning_rates=(3e-3,),
    values={
        "clip_epsilon": (CLIP_EPSILON, 0.4),
        "experience_size": (32, EXPERIENCE),
        "reward_clip": (CLIP, math.inf),
        "length_penalty": (0.0, PENALTY),
    },
    gold=False,
)
"""Every figure with as few runs as can draw it."""
