"""The algorithms that are ours, by name. TRL's (``rloo``, ``grpo``) run its own trainers and are not here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from odin_rm.rl.collect import Algorithm
from odin_rm.rl.ppo import PPO
from odin_rm.rl.remax import ReMax

OWN: dict[str, type[Algorithm]] = {"ppo": PPO, "remax": ReMax}


def build_algorithm(config: Any) -> Algorithm:
    """The algorithm that ``config.algorithm`` names; its own numbers are the config's fields of the same names."""
    kind: Any = OWN[config.algorithm]
    return kind(**{item.name: getattr(config, item.name) for item in fields(kind)})


def needs_critic(name: str) -> bool:
    """Whether an algorithm, ours or not, learns from a critic's values."""
    return name in OWN and OWN[name].needs_critic
