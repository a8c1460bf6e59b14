"""Which policies the testbed trains: a reward, an algorithm and the settings that the study varies.

One run says little about a reward model: with a large beta every policy stays short, with a small one every policy
drifts. So an *arm* (a reward and its mitigation) is swept over algorithm, beta and learning rate, and arms are compared
by the fronts of their runs. All arms of a sweep get the same grid, since more runs make a higher front by luck alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from odin_rm.core.errors import ConfigError
from odin_rm.core.options import check_options, option

SWEEPS = ("none", "small", "full")
REWARD_MODELS = ("vanilla", "odin")
CLIP = 1.0
"""c of the clipped arm, in deviations of the reference policy's reward."""
PENALTIES = (0.01, 0.02, 0.04)
"""alpha of the arms with a length penalty, in the same deviations per token."""


EXPERIENCE = 64
"""N: responses collected with one policy."""
CLIP_EPSILON = 0.2
"""epsilon of PPO's ratio clipping."""


@dataclass(frozen=True)
class SweepSettings:
    """The knobs of the policies.

    Raises:
        ConfigError: a knob is outside its range.
    """

    sweep: str = option(
        "none", "policies trained on the rewards: none, small (10 runs) or full (86 runs, an hour)", choices=SWEEPS
    )
    sft_steps: int = option(
        130, "optimiser steps of the starting policy, on 64 responses of the writers each", at_least=1
    )
    policy_responses: int = option(
        6400, f"responses that each policy learns from, a multiple of {EXPERIENCE}", at_least=EXPERIENCE
    )
    max_new_tokens: int = option(64, "longest response of a policy, end token included", at_least=1)
    workers: int = option(2, "policies trained at the same time, each on one core", at_least=1)

    def __post_init__(self) -> None:
        check_options(self)
        if self.policy_responses % EXPERIENCE:
            what = f"must be a multiple of {EXPERIENCE}, it is {self.policy_responses}"
            raise ConfigError(what, where="--policy_responses")


@dataclass(frozen=True)
class PolicyRun:
    """One run of reinforcement learning from the testbed's SFT policy.

    Attributes:
        reward_model: ``vanilla`` or ``odin``; ``gold`` (the truth) or ``length_only``; ``dpo`` learns from the
            preferences themselves.
        algorithm: ``ppo`` or ``remax``; ``dpo``.
        kl_coef: beta, in deviations of the reference policy's reward per nat (DPO's beta there).
        learning_rate: of the policy.
        length_penalty: alpha, in deviations per token.
        reward_clip: c, in deviations.
        seed: of sampling and order.
        clip_epsilon: epsilon of PPO.
        experience_size: N, responses collected with one policy.
    """

    reward_model: str
    algorithm: str
    kl_coef: float = 0.05
    learning_rate: float = 3e-4
    length_penalty: float = 0.0
    reward_clip: float = math.inf
    seed: int = 0
    clip_epsilon: float = CLIP_EPSILON
    experience_size: int = EXPERIENCE

    @property
    def arm(self) -> str:
        """The reward with its mitigation, as figures and tables call it."""
        clip = f" + clip {self.reward_clip:g}" if self.reward_clip < math.inf else ""
        penalty = f" + penalty {self.length_penalty:g}" if self.length_penalty else ""
        return f"{self.reward_model}{clip}{penalty}"

    @property
    def name(self) -> str:
        """A folder name that no other run of a sweep has."""
        arm = self.arm.replace(" + ", "_").replace(" ", "_")
        who = arm if arm == self.algorithm else f"{arm}_{self.algorithm}"
        name = f"{who}_beta_{self.kl_coef:g}_lr_{self.learning_rate:g}_seed_{self.seed}"
        name += f"_epsilon_{self.clip_epsilon:g}" if self.clip_epsilon != CLIP_EPSILON else ""
        return name + (f"_n_{self.experience_size}" if self.experience_size != EXPERIENCE else "")

    @property
    def settings(self) -> dict[str, Any]:
        """What the sweep varies, by the names of ``odin-rm rl``'s flags."""
        names = ("kl_coef", "learning_rate", "length_penalty", "reward_clip", "seed", "clip_epsilon", "experience_size")
        return {name: getattr(self, name) for name in names}


def grid(
    reward_model: str,
    algorithms: Sequence[str],
    kl_coefs: Sequence[float],
    learning_rates: Sequence[float],
    **fixed: Any,
) -> list[PolicyRun]:
    """Every combination of the lists, for one arm."""
    return [
        PolicyRun(reward_model, algorithm, kl_coef, learning_rate, **fixed)
        for algorithm, kl_coef, learning_rate in product(algorithms, kl_coefs, learning_rates)
    ]


def small_sweep(seed: int) -> list[PolicyRun]:
    """The quickstart's: both reward models under both algorithms and two betas, and the two reference rewards."""
    runs = []
    for reward_model in REWARD_MODELS:
        runs += grid(reward_model, ("ppo", "remax"), (0.1, 0.2), (3e-4,), seed=seed)
    for reward_model in ("gold", "length_only"):
        runs += grid(reward_model, ("remax",), (0.1,), (3e-4,), seed=seed)
    return runs


def full_sweep(seed: int) -> list[PolicyRun]:
    """The figure's: twelve runs for each arm; vanilla also clipped, and with each of several length penalties."""
    algorithms, kl_coefs, learning_rates = ("ppo", "remax"), (0.1, 0.2, 0.4), (1.5e-4, 3e-4)
    arms: list[tuple[str, dict[str, float]]] = [
        ("vanilla", {}),
        ("odin", {}),
        ("vanilla", {"reward_clip": CLIP}),
        *(("vanilla", {"length_penalty": penalty}) for penalty in PENALTIES),
        ("gold", {}),
    ]
    runs = []
    for reward_model, mitigation in arms:
        runs += grid(reward_model, algorithms, kl_coefs, learning_rates, seed=seed, **mitigation)
    return runs + grid("length_only", algorithms, (0.1,), (3e-4,), seed=seed)


def sweep_runs(sweep: str, seed: int) -> list[PolicyRun]:
    """The runs of a named sweep (one of :data:`SWEEPS`)."""
    return {"none": lambda seed: [], "small": small_sweep, "full": full_sweep}[sweep](seed)
