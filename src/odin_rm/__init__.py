"""Reward models that do not pay for length: ODIN, exact, audited and exportable.

The public names are imported when they are first used, so ``import odin_rm`` is instant and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AuditResult": "odin_rm.evaluation.audit",
    "EncodingSettings": "odin_rm.data.tokenise",
    "OdinError": "odin_rm.core.errors",
    "RewardConfig": "odin_rm.reward.config",
    "RewardModel": "odin_rm.model.reward_model",
    "RewardScores": "odin_rm.core.types",
    "RewardTrainer": "odin_rm.reward.trainer",
    "Scorer": "odin_rm.model.scoring",
    "ScoredPreferences": "odin_rm.evaluation.records",
    "TokenisedPreferences": "odin_rm.data.schema",
    "audit_preferences": "odin_rm.evaluation.audit",
    "disentangled_loss": "odin_rm.objectives.disentangle",
    "exact_backward": "odin_rm.reward.exact_batch",
    "export_quality_head": "odin_rm.model.export",
    "load_preferences": "odin_rm.data.load",
    "load_scorer": "odin_rm.model.scoring",
    "openrlhf_reward": "odin_rm.rl.functions.openrlhf",
    "score_preferences": "odin_rm.reward.scoring",
    "score_rendered": "odin_rm.model.score_rendered",
    "score_texts": "odin_rm.model.scoring",
    "train_reward_model": "odin_rm.workflows.reward.run",
    "trl_reward": "odin_rm.rl.functions.trl",
    "verl_reward": "odin_rm.rl.functions.verl",
}

if TYPE_CHECKING:
    from odin_rm.core.errors import OdinError as OdinError
    from odin_rm.core.types import RewardScores as RewardScores
    from odin_rm.data.load import load_preferences as load_preferences
    from odin_rm.data.schema import TokenisedPreferences as TokenisedPreferences
    from odin_rm.data.tokenise import EncodingSettings as EncodingSettings
    from odin_rm.evaluation.audit import AuditResult as AuditResult
    from odin_rm.evaluation.audit import audit_preferences as audit_preferences
    from odin_rm.evaluation.records import ScoredPreferences as ScoredPreferences
    from odin_rm.model.export import export_quality_head as export_quality_head
    from odin_rm.model.reward_model import RewardModel as RewardModel
    from odin_rm.model.score_rendered import score_rendered as score_rendered
    from odin_rm.model.scoring import Scorer as Scorer
    from odin_rm.model.scoring import load_scorer as load_scorer
    from odin_rm.model.scoring import score_texts as score_texts
    from odin_rm.objectives.disentangle import disentangled_loss as disentangled_loss
    from odin_rm.reward.config import RewardConfig as RewardConfig
    from odin_rm.reward.exact_batch import exact_backward as exact_backward
    from odin_rm.reward.scoring import score_preferences as score_preferences
    from odin_rm.reward.trainer import RewardTrainer as RewardTrainer
    from odin_rm.rl.functions.openrlhf import openrlhf_reward as openrlhf_reward
    from odin_rm.rl.functions.trl import trl_reward as trl_reward
    from odin_rm.rl.functions.verl import verl_reward as verl_reward
    from odin_rm.workflows.reward.run import train_reward_model as train_reward_model


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'odin_rm' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
